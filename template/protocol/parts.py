"""Tensors as files of bounded length: the parts of theta_0 and of a checkpoint.

A part is a safetensors file of some tensors in name order, the same bytes on every node. Its
SHA-256 is the name of the part in buckets: computed only when a file is made or fetched. The digest
of theta is a tree of other blocks (`template.protocol.tree`).
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from compression.workers import for_each

FLOAT_BYTES = 4
PART_BYTES = 2**26
"""Bytes of tensors in a part where no run spec says otherwise."""
HEADER_ALIGNMENT = 8


def group_tensors(shapes: Mapping[str, Sequence[int]], part_bytes: int) -> list[list[str]]:
    """Tensor names by part, in name order, up to `part_bytes` each; a larger tensor is a part."""
    groups: list[list[str]] = []
    free_bytes = 0
    for name in sorted(shapes):
        num_bytes = FLOAT_BYTES * math.prod(shapes[name])
        if not groups or num_bytes > free_bytes:
            groups.append([])
            free_bytes = part_bytes
        groups[-1].append(name)
        free_bytes -= num_bytes
    return groups


def part_header(shapes: Mapping[str, Sequence[int]]) -> bytes:
    """All of a part before the values, as the safetensors library writes it: `shapes` by name."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + FLOAT_BYTES * math.prod(shapes[name])
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    padded = -(-len(text) // HEADER_ALIGNMENT) * HEADER_ALIGNMENT
    return padded.to_bytes(8, "little") + text.ljust(padded)


def part_length(shapes: Mapping[str, Sequence[int]]) -> int:
    """Exact length of a part."""
    values = sum(math.prod(shape) for shape in shapes.values())
    return len(part_header(shapes)) + FLOAT_BYTES * values


def part_bytes_of(tensors: Mapping[str, Tensor], names: Sequence[str]) -> bytes:
    """The part with these tensors. ValueError unless float32."""
    return b"".join(_pieces(tensors, names))


class PartSource:
    """The bytes of a part, read in stretches from the tensors where they lie; from any thread.

    A tensor may be of gigabytes: an upload needs no second one. ValueError unless float32.
    """

    def __init__(self, tensors: Mapping[str, Tensor], names: Sequence[str]) -> None:
        self._pieces = [memoryview(piece) for piece in _pieces(tensors, names)]
        self._ends = list(accumulate(len(piece) for piece in self._pieces))

    @property
    def num_bytes(self) -> int:
        return self._ends[-1]

    def read(self, start: int, num_bytes: int) -> bytes:
        """Bytes [start, start + num_bytes)."""
        found, end = [], start + num_bytes
        for piece, piece_end in zip(self._pieces, self._ends, strict=True):
            first = piece_end - len(piece)
            if first < end and start < piece_end:
                found.append(piece[max(0, start - first) : end - first])
        return b"".join(found)


def hash_part(tensors: Mapping[str, Tensor], names: Sequence[str]) -> bytes:
    """SHA-256 of the part with these tensors, read where they lie. ValueError unless float32."""
    digest = hashlib.sha256()
    for piece in _pieces(tensors, names):
        digest.update(piece)
    return digest.digest()


def hash_parts(
    tensors: Mapping[str, Tensor], part_bytes: int = PART_BYTES, num_threads: int | None = None
) -> tuple[bytes, ...]:
    """SHA-256 of every part, hashed side by side."""
    groups = group_tensors(shapes_in(tensors, tensors), part_bytes)
    return tuple(for_each(lambda names: hash_part(tensors, names), groups, num_threads))


@runtime_checkable
class HasShapes(Protocol):
    """Tensors that lie elsewhere: reading one brings the tensor here, and a shape is no reason."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...


def shapes_in(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    if isinstance(tensors, HasShapes):
        return {name: tensors.shapes[name] for name in names}
    return {name: tuple(tensors[name].shape) for name in names}


def _pieces(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Iterator[bytes | memoryview]:
    ordered = sorted(names)
    yield part_header(shapes_in(tensors, ordered))
    for name in ordered:
        yield little_endian(tensors[name], name)


def little_endian(tensor: Tensor, name: str = "a tensor") -> memoryview:
    """The float32 values of a tensor, without a copy where the memory has this form."""
    if tensor.dtype != torch.float32:
        raise ValueError(f"{name} is {tensor.dtype}: master parameters are float32")
    flat = tensor.detach().cpu().reshape(-1).numpy().astype("<f4", copy=False)
    return flat.view(np.uint8).data
