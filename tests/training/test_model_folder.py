"""A model's folder for other programs: float32 as the run has it, or bfloat16, half as long."""

import dataclasses
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from template.protocol.spec import RunSpec
from template.training.model import Params, build_model, load_params, model_config
from template.training.model_folder import (
    INDEX_FILE,
    PACKINGS,
    WEIGHTS,
    model_files,
    write_files,
)
from template.training.published import CONFIG_FILE

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOKENS = torch.from_numpy(np.arange(32).reshape(2, 16))


@pytest.fixture(params=[2**20, 4096])
def cut(request, spec) -> RunSpec:
    """The run with one part, and with several."""
    return dataclasses.replace(
        spec, checkpoint=dataclasses.replace(spec.checkpoint, part_bytes=request.param)
    )


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_transformers_loads_it(dtype: str, theta0: Params, cut, tmp_path: Path) -> None:
    """With the logits of our own model, whose parameters are rounded to nearest by torch."""
    write_files(tmp_path, model_files(theta0, cut, {}, dtype))
    has_index = (tmp_path / INDEX_FILE).exists()
    assert has_index != (tmp_path / "model.safetensors").exists()
    theirs, said = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype="auto", output_loading_info=True
    )
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    assert theirs.dtype == DTYPES[dtype]
    ours = AutoModelForCausalLM.from_config(model_config(cut), dtype=DTYPES[dtype]).eval()
    load_params(ours, theta0)
    with torch.no_grad():
        found = theirs.eval()(input_ids=TOKENS).logits
        assert found.dtype == DTYPES[dtype]
        assert torch.equal(found, ours(input_ids=TOKENS).logits)


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_its_numbers_and_lengths_are_those_it_says(dtype: str, theta0, cut, tmp_path) -> None:
    write_files(tmp_path, model_files(theta0, cut, {}, dtype))
    found = {n: t for path in tmp_path.glob(WEIGHTS) for n, t in load_file(path).items()}
    assert found.keys() == theta0.keys()
    for name, tensor in theta0.items():
        assert found[name].dtype == DTYPES[dtype]
        assert torch.equal(found[name], tensor.to(DTYPES[dtype]))
    assert json.loads((tmp_path / CONFIG_FILE).read_bytes())["dtype"] == dtype
    values = sum(tensor.numel() for tensor in theta0.values())
    if (tmp_path / INDEX_FILE).exists():
        index = json.loads((tmp_path / INDEX_FILE).read_bytes())
        assert index["metadata"]["total_size"] == PACKINGS[dtype].value_bytes * values
        assert index["weight_map"].keys() == theta0.keys()


def test_bfloat16_rounds_ties_to_even(theta0, spec, tmp_path) -> None:
    name = "model.norm.weight"
    bits = [0x3F808000, 0x3F818000, 0x3F808100, 0xBF807F00, 0x00008000, 0x80018000]
    expected = [0x3F80, 0x3F82, 0x3F81, 0xBF80, 0x0000, 0x8002]
    tensor = theta0[name].clone()
    tensor.view(-1)[: len(bits)] = torch.from_numpy(np.array(bits, np.uint32).view(np.float32))
    write_files(tmp_path, model_files({**theta0, name: tensor}, spec, {}, "bfloat16"))
    found = load_file(tmp_path / "model.safetensors")[name].view(torch.int16)
    assert [int(one) & 0xFFFF for one in found[: len(bits)]] == expected


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_no_second_model_is_made(dtype: str, spec, tmp_path) -> None:
    params = {"large": torch.zeros(2**22)}
    files = model_files(params, spec, {}, dtype)
    tracemalloc.start()
    try:
        write_files(tmp_path, files)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()
    assert torch.equal(load_file(tmp_path / "model.safetensors")["large"].float(), params["large"])


@pytest.mark.parametrize("unread", [None, "rope_parameters", "rope_theta"])
def test_its_rotary_base_stands_wherever_loaders_look(theta0, spec, tmp_path: Path, unread) -> None:
    """transformers 4 reads `rope_theta` alone, version 5 both: a loader of either alone agrees."""
    spec = dataclasses.replace(spec, model=dataclasses.replace(spec.model, rope_theta=777.0))
    write_files(tmp_path, model_files(theta0, spec, {}, "float32"))
    config = json.loads((tmp_path / CONFIG_FILE).read_bytes())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 777.0
    config.pop(unread, None)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ours = build_model(spec).eval()
    load_params(ours, theta0)
    with torch.no_grad():
        assert torch.equal(theirs(input_ids=TOKENS).logits, ours(input_ids=TOKENS).logits)
