"""Tensors as files of bounded length: parts of theta_0 and checkpoints, and a model's files.

A part is a safetensors file of some tensors in name order, the same bytes on every node. Its
SHA-256 is the name of the part in buckets: computed only when a file is made or fetched. The digest
of theta is a tree of other blocks (`template.protocol.tree`). Header and length follow from names
and shapes alone, so a reader knows every byte before the values.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from compression import SHORT_BYTES, pack_short
from compression.workers import for_each

FLOAT_BYTES = 4
PART_BYTES = 2**26
"""Bytes of tensors in a part where no run spec says otherwise."""
HEADER_ALIGNMENT = 8
STRETCH_VALUES: Final = 2**18
"""Values packed at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How a file has float32 values. `dtype`, `sides`: type in the file, and the sides that a value
    adds to its tensor's shape. `label`: the file's format, as readers of the file look for it.
    `pack`: float32 values to bytes.
    """

    dtype: str
    sides: tuple[int, ...]
    value_bytes: int
    label: str
    pack: Callable[[np.ndarray], np.ndarray]


def _as_float32(values_N: np.ndarray) -> np.ndarray:
    return values_N.view(np.uint8)


def _as_bfloat16(values_N: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = torch.from_numpy(values_N).bfloat16().view(torch.int16).numpy()
    return rounded.view(np.uint8)


SHORT: Final = Packing(
    dtype="U8", sides=(SHORT_BYTES,), value_bytes=SHORT_BYTES, label="float24", pack=pack_short
)
"""The upper three bytes of each float32, little endian: a shape [R, C] is [R, C, 3] in the file.
ValueError for a value of more than 24 bits. The label is none that loaders of models take."""
FLOAT32: Final = Packing(dtype="F32", sides=(), value_bytes=4, label="pt", pack=_as_float32)
BFLOAT16: Final = Packing(dtype="BF16", sides=(), value_bytes=2, label="pt", pack=_as_bfloat16)
"""Rounded to nearest, ties to even."""


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


def part_header(shapes: Mapping[str, Sequence[int]], packing: Packing = SHORT) -> bytes:
    """All of a part before the values, as the safetensors library writes it: `shapes` by name."""
    header: dict[str, Any] = {"__metadata__": {"format": packing.label}}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + packing.value_bytes * math.prod(shapes[name])
        shape = [*shapes[name], *packing.sides]
        header[name] = {"dtype": packing.dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    padded = -(-len(text) // HEADER_ALIGNMENT) * HEADER_ALIGNMENT
    return padded.to_bytes(8, "little") + text.ljust(padded)


def part_length(shapes: Mapping[str, Sequence[int]], packing: Packing = SHORT) -> int:
    """Exact length of a part."""
    values = sum(math.prod(shape) for shape in shapes.values())
    return len(part_header(shapes, packing)) + packing.value_bytes * values


def part_bytes_of(
    tensors: Mapping[str, Tensor], names: Sequence[str], packing: Packing = SHORT
) -> bytes:
    """The part with these tensors. ValueError unless float32 that the packing holds."""
    return b"".join(PartSource(tensors, names, packing).stretches())


class PartSource:
    """The bytes of a part, read in stretches from the tensors where they lie; from any thread.

    A tensor may be of gigabytes: an upload needs no second one. ValueError unless float32 that the
    packing holds.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], names: Sequence[str], packing: Packing = SHORT
    ) -> None:
        ordered = sorted(names)
        self._packing = packing
        self._header = part_header(shapes_in(tensors, ordered), packing)
        self._values = [flat_values(tensors[name], name) for name in ordered]
        lengths = [len(self._header), *(packing.value_bytes * v.size for v in self._values)]
        self._ends = list(accumulate(lengths))

    @property
    def num_bytes(self) -> int:
        return self._ends[-1]

    def read(self, start: int, num_bytes: int) -> bytes:
        """Bytes [start, start + num_bytes)."""
        end = start + num_bytes
        found = [self._header[start:end]]
        for values, first, last in zip(self._values, self._ends, self._ends[1:], strict=False):
            if first < end and start < last:
                found.append(
                    self._packed(values, max(start, first) - first, min(end, last) - first)
                )
        return b"".join(found)

    def _packed(self, values_N: np.ndarray, start: int, end: int) -> bytes:
        """Bytes [start, end) of a tensor, of which no other value is packed."""
        each = self._packing.value_bytes
        first = start // each
        packed = self._packing.pack(values_N[first : -(-end // each)])
        return packed[start - each * first : end - each * first].tobytes()

    def stretches(self) -> Iterator[bytes | memoryview]:
        """All bytes, a stretch at a time."""
        yield self._header
        for values in self._values:
            for first in range(0, values.size, STRETCH_VALUES):
                yield self._packing.pack(values[first : first + STRETCH_VALUES]).data


def hash_part(tensors: Mapping[str, Tensor], names: Sequence[str]) -> bytes:
    """SHA-256 of the part with these tensors, read where they lie. ValueError as `PartSource`."""
    digest = hashlib.sha256()
    for piece in PartSource(tensors, names).stretches():
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


def little_endian(tensor: Tensor, name: str = "a tensor") -> memoryview:
    """The float32 values of a tensor, without a copy where the memory has this form."""
    return flat_values(tensor, name).view(np.uint8).data


def flat_values(tensor: Tensor, name: str = "a tensor") -> np.ndarray:
    """The values of a tensor, row-major and little endian, without a copy where possible."""
    if tensor.dtype != torch.float32:
        raise ValueError(f"{name} is {tensor.dtype}: master parameters are float32")
    flat: np.ndarray = tensor.detach().cpu().reshape(-1).numpy().astype("<f4", copy=False)
    return flat
