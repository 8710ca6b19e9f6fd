"""Files with some rows of every tensor: read by any number of processes, refused with gaps."""

from pathlib import Path

import pytest
import torch

from compression.bands import band_cuts, band_of
from template.training.row_files import RowFiles, Rows, write_rows
from template.training.tensor_files import write_tensors

TENSORS = {
    "m": torch.arange(300.0 * 7).view(300, 7),
    "v": torch.arange(40.0),
    "one": torch.tensor(3.0),
    "none": torch.empty(0, 4),
}


def files_of(ranks: int, folder: Path) -> list[Path]:
    paths = []
    for rank in range(ranks):
        rows = {
            name: Rows(
                values=band_of(tensor, rank, ranks),
                first=band_cuts(tensor.shape, ranks)[rank],
                shape=tuple(tensor.shape),
            )
            for name, tensor in TENSORS.items()
        }
        paths.append(folder / f"{rank}.safetensors")
        assert write_rows(paths[-1], rows, {}) == paths[-1].stat().st_size
    return paths


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
def test_any_number_of_processes_reads_its_rows(ranks: int, tmp_path: Path) -> None:
    files = RowFiles(files_of(ranks, tmp_path))
    assert files.shapes == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    whole = files.read_all()
    for name, tensor in TENSORS.items():
        assert torch.equal(whole[name], tensor)
    for first, end in ((0, 300), (63, 65), (299, 300), (128, 128)):
        assert torch.equal(files.read("m", first, end), TENSORS["m"][first:end])


def test_a_file_of_whole_tensors_is_that_of_one_process(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", TENSORS, {"format": "4"})
    assert torch.equal(RowFiles([tmp_path / "a"]).read("m", 100, 200), TENSORS["m"][100:200])


def test_missing_and_doubled_rows_are_refused(tmp_path: Path) -> None:
    first, second, third = files_of(3, tmp_path)
    with pytest.raises(ValueError, match="row 128 of m is in none"):
        RowFiles([first, third])
    with pytest.raises(ValueError, match="m has 300 rows, and the files hold"):
        RowFiles([first, second])
    with pytest.raises(ValueError, match="in none of the files, or in two"):
        RowFiles([first, first, second, third])


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    paths = files_of(2, tmp_path)
    files = RowFiles(paths)
    paths[1].write_bytes(paths[1].read_bytes()[:-4000])
    with pytest.raises(ValueError, match="ends early"):
        files.read("m", 290, 300)
