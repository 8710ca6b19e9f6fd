"""Every architecture of the run spec: golden shapes, training with equal bits, and checkpoints that
`transformers` loads without our code.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from template.protocol.payload import PayloadFormat, PayloadHeader, decode_payload, encode_payload
from template.protocol.spec import RunSpec
from template.protocol.spec.model import count_parameters
from template.training.inner import InnerTrainer
from template.training.model import (
    build_model,
    config_fields,
    initial_params,
    load_params,
    model_config,
    payload_bytes,
    tensor_shapes,
)
from template.training.model_folder import model_files, write_files
from template.training.scorer import Scorer

MIXTURE: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "norm_topk_prob": True,
    "router_aux_loss_coef": 0.01,
}
SMALL: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"head_dim": 12},
    "olmo2": {},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": MIXTURE,
}
"""Architecture -> fields on top of the small Llama's: width 16, two heads, one layer."""

LAYER = "model.layers.0."
DENSE = {
    f"{LAYER}mlp.gate_proj.weight": (24, 16),
    f"{LAYER}mlp.up_proj.weight": (24, 16),
    f"{LAYER}mlp.down_proj.weight": (16, 24),
}
ENDS = {"model.embed_tokens.weight": (256, 16), "model.norm.weight": (16,)}
NORMS = {
    f"{LAYER}input_layernorm.weight": (16,),
    f"{LAYER}post_attention_layernorm.weight": (16,),
}


def _attention(queries: int, keys: int) -> dict[str, tuple[int, ...]]:
    sides = {"q": (queries, 16), "k": (keys, 16), "v": (keys, 16), "o": (16, queries)}
    return {f"{LAYER}self_attn.{side}_proj.weight": shape for side, shape in sides.items()}


def _query_norms(queries: int, keys: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{LAYER}self_attn.q_norm.weight": (queries,),
        f"{LAYER}self_attn.k_norm.weight": (keys,),
    }


GOLDEN: dict[str, dict[str, tuple[int, ...]]] = {
    "llama": {**ENDS, **_attention(16, 16), **DENSE, **NORMS},
    "mistral": {**ENDS, **_attention(24, 24), **DENSE, **NORMS},
    "olmo2": {
        **ENDS, **_attention(16, 16), **_query_norms(16, 16), **DENSE,
        f"{LAYER}post_attention_layernorm.weight": (16,),
        f"{LAYER}post_feedforward_layernorm.weight": (16,),
    },
    "qwen3": {**ENDS, **_attention(32, 32), **_query_norms(16, 16), **DENSE, **NORMS},
    "qwen3_moe": {
        **ENDS, **_attention(16, 16), **_query_norms(8, 8), **NORMS,
        f"{LAYER}mlp.gate.weight": (4, 16),
        f"{LAYER}mlp.experts.gate_up_proj": (4, 24, 16),
        f"{LAYER}mlp.experts.down_proj": (4, 16, 12),
    },
}  # fmt: skip
"""Names and shapes in payloads, roots and checkpoints: others are another format."""


def _of(spec: RunSpec, architecture: str) -> RunSpec:
    fields = SMALL[architecture]
    return replace(spec, model=replace(spec.model, architecture=architecture, **fields))


@pytest.fixture(params=list(SMALL))
def run(request, spec) -> RunSpec:
    return _of(spec, request.param)


def _pages(spec: RunSpec, seed: int, count: int) -> np.ndarray:
    shape = (count, spec.data.page_tokens)
    return np.random.default_rng(seed).integers(0, spec.model.vocab_size, size=shape)


def test_the_shapes_are_those_of_the_format(run) -> None:
    assert tensor_shapes(run) == GOLDEN[run.model.architecture]


@pytest.mark.parametrize("tied", [True, False])
def test_the_count_by_arithmetic_is_the_models(run, tied: bool) -> None:
    """The bound on absurd specs counts what would be allocated."""
    for layers, kv_heads in ((1, 2), (3, 1)):
        model = replace(
            run.model,
            num_hidden_layers=layers,
            num_key_value_heads=kv_heads,
            tie_word_embeddings=tied,
        )
        shapes = tensor_shapes(replace(run, model=model)).values()
        assert sum(math.prod(shape) for shape in shapes) == count_parameters(model)


def test_no_field_of_the_config_is_unknown_to_transformers(run) -> None:
    """A misspelt field would be kept, ignored, and the default taken."""
    config = model_config(run)
    known = type(config)().to_dict().keys() | config.attribute_map.keys()
    assert config_fields(run).keys() <= known


def test_two_miners_with_the_same_pages_have_the_same_payload(run) -> None:
    theta = initial_params(run, seed=1)
    batches = [_pages(run, 5, 4), _pages(run, 6, 4)]
    form = PayloadFormat(run_id=run.run_id, shapes=tensor_shapes(run), top_k=64)
    header = PayloadHeader(window=0, base_window=0, pages_consumed=8, public_key=bytes(32))
    frames = []
    for _ in range(2):
        result = InnerTrainer(run, "cpu").train(theta, 2, batches, lambda: False)
        assert all(delta.abs().max() > 0 for delta in result.pseudo_gradient.values())
        frames.append(encode_payload(header, result.pseudo_gradient, form)[0])
    assert frames[0] == frames[1]
    assert len(frames[0]) == payload_bytes(run)
    assert decode_payload(frames[0], form).header == header


def test_losses_are_those_of_transformers(run) -> None:
    theta = initial_params(run, seed=1)
    model, scorer = build_model(run).eval(), Scorer(run, "cpu")
    load_params(model, theta)
    scorer.load(theta)
    pages = _pages(run, 7, 5)
    with torch.no_grad():
        rows = [torch.from_numpy(page)[None] for page in pages]
        expected = [float(model(input_ids=row, labels=row).loss) for row in rows]
    np.testing.assert_allclose(scorer.losses(pages), expected, rtol=1e-6)


ALONE = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM
tokens = torch.tensor(json.loads(sys.argv[1]))
for folder in map(Path, sys.argv[2:]):
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    with torch.no_grad():
        loss = float(model(input_ids=tokens, labels=tokens).loss)
    left = [len(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")]
    print(json.dumps([folder.name, type(model).__name__, str(model.dtype), loss, left]))
assert not {"template", "compression", "evaluation"} & sys.modules.keys()
"""


@pytest.mark.slow
def test_a_process_without_our_code_loads_every_model(spec, tmp_path: Path) -> None:
    tokens = _pages(spec, 9, 2)
    expected = {}
    for architecture in SMALL:
        run = _of(spec, architecture)
        theta = initial_params(run, seed=2)
        write_files(tmp_path / architecture, model_files(theta, run, {}, "float32"))
        scorer = Scorer(run, "cpu")
        scorer.load(theta)
        expected[architecture] = scorer.losses(tokens).mean()
    done = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps(tokens.tolist()), *map(str, tmp_path.iterdir())],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row[0] for row in rows} == SMALL.keys()
    for name, kind, dtype, loss, left in rows:
        assert kind.lower().startswith(name.replace("_", ""))
        assert (dtype, left) == ("torch.float32", [0, 0, 0])
        assert loss == pytest.approx(expected[name], rel=1e-6)
