"""A node's own checkpoint: what comes back is what was saved; what is broken names the remedy."""

import dataclasses
import errno
import resource
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from template.errors import EXIT_OPERATOR, ConfigError, ObjectError, StateError, exit_status
from template.protocol.parts import BFLOAT16, FLOAT32, part_bytes_of, part_header
from template.protocol.root import tensors_digest
from template.training.checkpoint import (
    LocalCheckpoint,
    check_params,
    load_local,
    load_part,
    save_local,
)
from tests.support.states import equal_states, short


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
    assert equal_states(loaded.state, local.state)
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


def test_a_folder_in_place_of_the_checkpoint_is_told(local, spec, tmp_path) -> None:
    path = tmp_path / "node.safetensors"
    path.mkdir()
    for use in (lambda: load_local(path, spec), lambda: save_local(path, local, spec.run_id)):
        with pytest.raises(StateError, match=r"node\.safetensors.*remove the folder") as caught:
            use()
        assert exit_status(caught.value) == EXIT_OPERATOR


def test_a_folder_in_place_of_the_file_aside_is_told(local, spec, tmp_path) -> None:
    (tmp_path / "node.partial").mkdir()
    with pytest.raises(StateError, match=r"node\.partial is a folder.*remove the folder"):
        save_local(tmp_path / "node.safetensors", local, spec.run_id)


def test_another_users_checkpoint_is_not_advised_away(
    local, spec, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node.safetensors"
    save_local(path, local, spec.run_id)

    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StateError, match=r"belongs to uid \d+ with mode \d+") as caught:
        load_local(path, spec)
    assert "remove it" not in str(caught.value)
    assert exit_status(caught.value) == EXIT_OPERATOR


def test_a_kill_before_the_rename_leaves_the_checkpoint_before(local, spec, tmp_path) -> None:
    path = tmp_path / "node.safetensors"
    save_local(path, local, spec.run_id)
    path.with_suffix(".partial").write_bytes(path.read_bytes()[:100])
    loaded = load_local(path, spec)
    assert loaded is not None
    assert equal_states(loaded.state, local.state)
    newer = dataclasses.replace(local, values={"last_window": 5})
    save_local(path, newer, spec.run_id)
    reloaded = load_local(path, spec)
    assert reloaded is not None
    assert reloaded.values == {"last_window": 5}
    assert [p.name for p in tmp_path.iterdir()] == ["node.safetensors"]


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
    with pytest.raises(ObjectError, match="checkpoint: "):
        check_params(bad, spec)


SHAPES = {"a": (7, 5), "b.bias": (3,), "none": (0, 4), "scalar": ()}
LARGE = {"large": (2**18 + 7,)}


def _tensors(shapes) -> dict[str, Tensor]:
    return short({
        name: torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))
        for name, shape in shapes.items()
    })  # fmt: skip


@pytest.mark.parametrize("shapes", [SHAPES, LARGE, {"z": (1,)}])
def test_a_part_comes_back_bit_for_bit_from_bytes_and_from_a_file(shapes, tmp_path) -> None:
    tensors = _tensors(shapes)
    data = part_bytes_of(tensors, list(tensors))
    (tmp_path / "part").write_bytes(data)
    for source in (data, tmp_path / "part"):
        found = load_part(source, shapes)
        assert found.keys() == tensors.keys()
        assert tensors_digest(found) == tensors_digest(tensors)
        assert all(found[name].shape == shape for name, shape in shapes.items())


@given(cut=st.integers(0, 10**6), change=st.integers(1, 255), kind=st.sampled_from("xsl"))
def test_a_strangers_part_is_refused_or_is_other_values(cut: int, change: int, kind: str) -> None:
    """A byte changed, an end cut off, bytes added: never another error, and never other shapes."""
    tensors = _tensors(SHAPES)
    data = bytearray(part_bytes_of(tensors, list(tensors)))
    at, header = cut % len(data), len(part_header(SHAPES))
    if kind == "x":
        data[at] ^= change
    elif kind == "s":
        del data[at:]
    else:
        data += bytes(change)
    if kind == "x" and at >= header:
        found = load_part(bytes(data), SHAPES)
        assert {name: tuple(tensor.shape) for name, tensor in found.items()} == SHAPES
        assert tensors_digest(found) != tensors_digest(tensors)
        return
    with pytest.raises(ObjectError, match="checkpoint: refused"):
        load_part(bytes(data), SHAPES)


@pytest.mark.parametrize("packing", [FLOAT32, BFLOAT16])
def test_a_part_with_other_numbers_is_refused(packing, tmp_path) -> None:
    """A file that the library reads without a word, of the old format too."""
    tensors = _tensors(SHAPES)
    (tmp_path / "part").write_bytes(part_bytes_of(tensors, list(tensors), packing))
    with pytest.raises(ObjectError, match="another length"):
        load_part(tmp_path / "part", SHAPES)


def test_a_header_as_long_as_the_right_one_is_compared(tmp_path) -> None:
    """Tensors of the same sizes under other names or in another shape."""
    tensors = _tensors(SHAPES)
    for other in (
        {**SHAPES, "a": (5, 7)},
        {("A" if n == "a" else n): s for n, s in SHAPES.items()},
    ):
        with pytest.raises(ObjectError, match="names other tensors"):
            load_part(part_bytes_of(tensors, list(tensors)), other)


def test_a_part_takes_memory_for_its_values_and_a_stretch(tmp_path) -> None:
    shapes = {"a": (2**22,)}
    (tmp_path / "part").write_bytes(part_bytes_of({"a": torch.ones(2**22)}, ["a"]))
    tracemalloc.start()  # numpy's memory: the tensor itself is torch's
    try:
        load_part(tmp_path / "part", shapes)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\xff" * 64, b"{}" * 40])
def test_bytes_that_are_no_part_are_refused(data: bytes) -> None:
    with pytest.raises(ObjectError, match="another length"):
        load_part(data, SHAPES)
