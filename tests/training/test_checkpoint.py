"""Checkpoints: what comes back is what was saved, and what is broken is refused with a remedy."""

import dataclasses
import hashlib
import json
import resource

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from template.errors import ConfigError, StateError
from template.protocol.root import tensors_digest
from template.training.checkpoint import (
    CONFIG_FILE,
    PARAMS_FILE,
    LocalCheckpoint,
    load_local,
    params_bytes,
    parse_params,
    parse_published,
    publish,
    restore_published,
    save_local,
)
from template.training.model import build_model, load_params
from template.training.outer import OuterState, first_state, state_digest


@pytest.fixture
def state(theta0, spec) -> OuterState:
    """A state with something in every field, as it stands where a checkpoint is published."""
    norms = {name: 0.1 + i / 3 for i, name in enumerate(theta0)}
    state = dataclasses.replace(
        first_state(theta0, spec.run_id),
        window=8,
        accepted_norms=((5, (norms, dict.fromkeys(norms, 1e-7))), (7, (norms,))),
        voting_stakes_rao=(3, 2**62),
    )
    return dataclasses.replace(state, checkpoint_digest=state_digest(state))


def _equal(one: OuterState, other: OuterState) -> bool:
    fields = [f.name for f in dataclasses.fields(OuterState) if f.name != "params"]
    same_tensors = tensors_digest(one.params) == tensors_digest(other.params)
    return same_tensors and all(getattr(one, f) == getattr(other, f) for f in fields)


@pytest.fixture
def local(state) -> LocalCheckpoint:
    groups = {
        "feedback": {"a.b": torch.tensor([0.1, -0.0, 3e-42])},
        "pending": {"12": torch.tensor([0, 255, 7], dtype=torch.uint8)},
        "moments": {"step.x": torch.tensor(5.0)},
    }
    return LocalCheckpoint(
        state=state, groups=groups, values={"last_window": 4, "r": {"hk": [0.1]}}
    )


def test_a_local_checkpoint_comes_back_bit_for_bit(local, spec, tmp_path) -> None:
    path = tmp_path / "deep" / "node.safetensors"
    assert load_local(path, spec) is None
    save_local(path, local, spec.run_id)
    loaded = load_local(path, spec)
    assert loaded is not None
    assert _equal(loaded.state, local.state)
    assert loaded.values == local.values
    assert loaded.groups.keys() == local.groups.keys()
    for group, members in local.groups.items():
        for name, tensor in members.items():
            found = loaded.groups[group][name]
            assert found.dtype == tensor.dtype
            assert found.numpy().tobytes() == tensor.numpy().tobytes()


def test_the_checkpoint_of_another_run_is_refused(local, spec, other_spec, tmp_path) -> None:
    save_local(tmp_path / "node.safetensors", local, spec.run_id)
    with pytest.raises(ConfigError, match=r"another run; name another --neuron\.state_dir"):
        load_local(tmp_path / "node.safetensors", other_spec)


@pytest.mark.parametrize("damage", ["empty", "header", "cut", "one byte short", "text", "untitled"])
def test_a_damaged_file_is_refused_with_the_remedy(damage, local, spec, tmp_path) -> None:
    path = tmp_path / "node.safetensors"
    save_local(path, local, spec.run_id)
    data = path.read_bytes()
    damaged = {
        "empty": b"",
        "header": b"\xff" * 8 + data[8:],
        "cut": data[: len(data) // 2],
        "one byte short": data[:-1],
        "text": b"not a checkpoint, for sure",
    }
    if damage == "untitled":
        save_file(dict(local.state.params), path)
    else:
        path.write_bytes(damaged[damage])
    with pytest.raises(ConfigError, match=r"node\.safetensors.*remove it to join anew"):
        load_local(path, spec)


def test_a_full_disk_leaves_the_checkpoint_before(local, spec, tmp_path) -> None:
    """Planted as a limit on the size of files, which the kernel refuses like a full disk."""
    path = tmp_path / "node.safetensors"
    save_local(path, local, spec.run_id)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, hard))
    try:
        with pytest.raises(StateError, match=r"--neuron\.state_dir.*free the disk"):
            save_local(path, dataclasses.replace(local, values={"last_window": 5}), spec.run_id)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [path]
    loaded = load_local(path, spec)
    assert loaded is not None
    assert loaded.values == local.values


def test_a_kill_before_the_rename_leaves_the_checkpoint_before(local, spec, tmp_path) -> None:
    path = tmp_path / "node.safetensors"
    save_local(path, local, spec.run_id)
    path.with_suffix(".partial").write_bytes(path.read_bytes()[:100])
    loaded = load_local(path, spec)
    assert loaded is not None
    assert _equal(loaded.state, local.state)
    newer = dataclasses.replace(local, values={"last_window": 5})
    save_local(path, newer, spec.run_id)
    reloaded = load_local(path, spec)
    assert reloaded is not None
    assert reloaded.values == {"last_window": 5}
    assert [p.name for p in tmp_path.iterdir()] == ["node.safetensors"]


def test_a_published_checkpoint_comes_back_bit_for_bit(state, spec) -> None:
    published = publish(state, spec)
    assert all(hashlib.sha256(data).digest() == d for d, data in published.blobs.items())
    manifest = parse_published(published.manifest, spec)
    blob = published.blobs[manifest.params_digest]
    assert len(blob) == manifest.params_bytes
    assert _equal(restore_published(manifest, blob, spec), state)
    assert publish(state, spec) == published


def test_transformers_loads_a_published_checkpoint(state, spec, tmp_path) -> None:
    published = publish(state, spec)
    for entry in json.loads(published.manifest)["files"]:
        (tmp_path / entry["name"]).write_bytes(published.blobs[bytes.fromhex(entry["sha256"])])
    assert {p.name for p in tmp_path.iterdir()} == {CONFIG_FILE, PARAMS_FILE}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ours = build_model(spec).eval()
    load_params(ours, state.params)
    tokens = torch.from_numpy(np.arange(32).reshape(2, 16))
    with torch.no_grad():
        assert torch.equal(theirs(input_ids=tokens).logits, ours(input_ids=tokens).logits)


def test_a_tampered_file_is_refused(state, spec) -> None:
    published = publish(state, spec)
    manifest = parse_published(published.manifest, spec)
    blob = bytearray(published.blobs[manifest.params_digest])
    blob[-1] ^= 1
    with pytest.raises(ConfigError, match="another digest"):
        restore_published(manifest, bytes(blob), spec)


def test_tensors_that_are_not_those_of_the_checkpoint_digest_are_refused(state, spec) -> None:
    """Its publisher could name any file; the digest that enters the next root binds it."""
    name = sorted(state.params)[0]
    other = {**state.params, name: state.params[name] * 2}
    published = publish(dataclasses.replace(state, params=other), spec)
    manifest = parse_published(published.manifest, spec)
    with pytest.raises(ConfigError, match="checkpoint digest"):
        restore_published(manifest, published.blobs[manifest.params_digest], spec)


@pytest.mark.parametrize("fault", ["nan", "inf", "dtype", "shape", "missing", "extra"])
def test_params_that_are_not_the_models_are_refused(fault, theta0, spec) -> None:
    name = sorted(theta0)[0]
    bad = {n: t.clone() for n, t in theta0.items()}
    if fault in ("nan", "inf"):
        bad[name].view(-1)[3] = float(fault)
    elif fault == "dtype":
        bad[name] = bad[name].half()
    elif fault == "shape":
        bad[name] = bad[name].t().contiguous()
    elif fault == "missing":
        bad.pop(name)
    else:
        bad["extra"] = torch.zeros(1)
    with pytest.raises(ConfigError, match="checkpoint: "):
        parse_params(params_bytes(bad), spec)


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\xff" * 64, b"{}" * 40])
def test_bytes_that_are_no_tensors_are_refused(data: bytes, spec) -> None:
    with pytest.raises(ConfigError, match="not a safetensors file"):
        parse_params(data, spec)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{}", b"\xff\xfe", b'{"format": 1}', b"[" * 100_000]
)
def test_bytes_that_are_no_manifest_are_refused(data: bytes, spec) -> None:
    with pytest.raises(ConfigError, match="checkpoint manifest"):
        parse_published(data, spec)


def test_a_manifest_of_another_run_is_refused(state, spec, other_spec) -> None:
    with pytest.raises(ConfigError, match="another run"):
        parse_published(publish(state, spec).manifest, other_spec)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window", float("inf")),
        ("window", "eight"),
        ("window", None),
        ("root", "zz"),
        ("accepted_norms", [[1]]),
        ("accepted_norms", 5),
        ("initial_norms", []),
        ("initial_norms", {}),
        ("voting_stakes_rao", [float("inf")]),
        ("checkpoint_digest", 7),
    ],
)
def test_a_state_that_is_none_is_refused(field: str, value: object, state, spec) -> None:
    published = publish(state, spec)
    table = json.loads(published.manifest)
    table["state"][field] = value
    manifest = parse_published(json.dumps(table).encode(), spec)
    with pytest.raises(ConfigError, match="checkpoint"):
        restore_published(manifest, published.blobs[manifest.params_digest], spec)


@pytest.mark.parametrize("num_bytes", [float("inf"), "many", None, [1]])
def test_a_file_entry_that_is_none_is_refused(num_bytes: object, state, spec) -> None:
    table = json.loads(publish(state, spec).manifest)
    for entry in table["files"]:
        entry["bytes"] = num_bytes
    with pytest.raises(ConfigError, match="checkpoint manifest"):
        parse_published(json.dumps(table).encode(), spec)
