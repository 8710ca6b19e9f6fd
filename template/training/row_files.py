"""Files with some rows of every tensor: one of each process that holds a model in rows.

A file says which rows it has, so any other number of processes finds its own rows in the files. A
file of whole tensors is the file of a single process.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from template.training.tensor_files import DTYPES, fill, raw_bytes, read_header, write_tensors

_ROWS: Final = "rows"

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Rows of a tensor from `first` on, and the shape of the whole; a scalar is one row."""

    values: Tensor
    first: int
    shape: Shape


def write_rows(path: Path, rows: Mapping[str, Rows], metadata: Mapping[str, str]) -> int:
    """Write a file whose bytes are on the disk at the return; its length. OSError if refused."""
    placed = {name: [part.first, list(part.shape)] for name, part in rows.items()}
    tensors = {name: part.values for name, part in rows.items()}
    return write_tensors(path, tensors, {**metadata, _ROWS: json.dumps(placed)})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """Rows `first` to `end` of a tensor, at `offset` of a file."""

    path: Path
    offset: int
    first: int
    end: int


class RowFiles:
    """The tensors whose rows lie in these files.

    ValueError for files that do not hold every row of every tensor, OSError if refused.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.shapes: dict[str, Shape] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._parts: dict[str, list[_Part]] = {}
        for path in paths:
            self._add(path)
        for name, shape in self.shapes.items():
            self._check(name, _num_rows(shape))

    def _add(self, path: Path) -> None:
        header, start = read_header(path)
        placed: dict[str, Any] = json.loads(header.pop("__metadata__", {}).get(_ROWS, "{}"))
        for name, entry in header.items():
            own = tuple(entry["shape"])
            first, whole = placed.get(name, [0, own])
            shape, dtype = tuple(whole), DTYPES[entry["dtype"]]
            if (self.shapes.setdefault(name, shape), self._dtypes.setdefault(name, dtype)) != (
                shape,
                dtype,
            ):
                raise ValueError(f"{path.name}: {name} has another form than in the other files")
            offset = start + entry["data_offsets"][0]
            end = first + (_num_rows(own) if whole else int(own != (0,)))
            self._parts.setdefault(name, []).append(
                _Part(path=path, offset=offset, first=first, end=end)
            )

    def _check(self, name: str, num_rows: int) -> None:
        at = 0
        for part in sorted(self._parts[name], key=lambda part: (part.first, part.end)):
            if part.first != at and part.first != part.end:
                raise ValueError(f"row {at} of {name} is in none of the files, or in two")
            at = max(at, part.end)
        if at != num_rows:
            raise ValueError(f"{name} has {num_rows} rows, and the files hold {at}")

    def read(self, name: str, first: int, end: int) -> Tensor:
        """Rows of a tensor; a scalar's one row is a vector of one."""
        shape = self.shapes[name] or (1,)
        rows = torch.empty((end - first, *shape[1:]), dtype=self._dtypes[name])
        row_bytes = rows[:1].numel() * rows.element_size() if end > first else 0
        for part in self._parts[name]:
            top, stop = max(first, part.first), min(end, part.end)
            if top < stop and row_bytes:
                with part.path.open("rb", buffering=0) as file:
                    file.seek(part.offset + (top - part.first) * row_bytes)
                    fill(file, raw_bytes(rows[top - first : stop - first]), part.path)
        return rows

    def read_all(self) -> dict[str, Tensor]:
        """The whole tensors."""
        return {
            name: self.read(name, 0, _num_rows(shape)).reshape(shape)
            for name, shape in self.shapes.items()
        }


def _num_rows(shape: Sequence[int]) -> int:
    return shape[0] if shape else 1
