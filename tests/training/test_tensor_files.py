"""A node's own tensor files: the format of safetensors, without copies and without mappings."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from template.training import tensor_files
from template.training.tensor_files import num_bytes_of, read_metadata, read_tensors, write_tensors

TENSORS = {
    "odd": torch.tensor([0, 255, 7], dtype=torch.uint8),
    "step": torch.tensor(5.0),
    "none": torch.zeros((0, 4)),
    "half": torch.tensor([[1.5, -0.0]], dtype=torch.bfloat16),
    "wide": torch.tensor([3e-300, float("nan"), float("-inf")], dtype=torch.float64),
    "large": torch.arange(300.0).reshape(20, 15),
    "turned": torch.arange(12, dtype=torch.int64).reshape(3, 4).t(),
}


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    def raw(tensor: torch.Tensor) -> bytes:
        return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return (one.dtype, one.shape, raw(one)) == (other.dtype, other.shape, raw(other))


@pytest.mark.parametrize("flush_bytes", [1, 100, 2**26])
def test_what_is_written_is_what_is_read_by_us_and_by_the_library(
    flush_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_files, "FLUSH_BYTES", flush_bytes)
    path = tmp_path / "a.safetensors"
    num_bytes = write_tensors(path, TENSORS, {"run_id": "00", "text": '"\u00e4'})
    assert num_bytes == path.stat().st_size
    found, metadata = read_tensors(path)
    assert metadata == {"run_id": "00", "text": '"\u00e4'} == read_metadata(path)
    for tensors in (found, load_file(path)):
        assert tensors.keys() == TENSORS.keys()
        assert all(_equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert num_bytes_of(found) == sum(map(num_bytes_of, ({n: t} for n, t in TENSORS.items())))


def test_a_file_of_the_library_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    save_file(tensors, path, metadata={"format": "3"})
    found, metadata = read_tensors(path)
    assert metadata == {"format": "3"}
    assert all(_equal(found[name], tensor) for name, tensor in tensors.items())


def test_no_tensors_are_a_file_too(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", {}, {})
    assert read_tensors(tmp_path / "a") == ({}, {})


def test_a_type_that_no_node_keeps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x is torch.complex64; a file holds"):
        write_tensors(tmp_path / "a", {"x": torch.zeros(1, dtype=torch.complex64)}, {})
    save_file({"x": torch.zeros(1, dtype=torch.bool)}, tmp_path / "b")
    with pytest.raises(ValueError, match="x is BOOL; a file holds"):
        read_tensors(tmp_path / "b")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_that_was_read_can_be_deleted_and_its_room_is_free(tmp_path: Path) -> None:
    """A mapped file keeps its room on the disk for as long as a tensor lives."""
    path = tmp_path / "mapped.safetensors"
    write_tensors(path, {"x": torch.ones(50_000)}, {})
    found, _ = read_tensors(path)
    assert path.name not in Path("/proc/self/maps").read_text("utf-8")
    mapped = load_file(path)
    assert path.name in Path("/proc/self/maps").read_text("utf-8"), "the test sees mappings"
    assert torch.equal(mapped["x"], found["x"])
