"""All chunks of a model at once: which bytes of a body belong to which chunk.

A body is the tensors' sections in ascending order of their names. A section is: exponent
byte, ratio byte, one scale byte per chunk, then per group of equal chunks the indices'
low parts, their upper maps, and the codes. Every length follows from the shapes.

To decode fast, chunks of one size are gathered over all tensors into one class: [chunks,
4096] for whole ones, a few small classes for edges and tails.

Legend: N chunks of a class, K kept per chunk.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from compression.chunking import BLOCK_SIDE, ChunkGroup, TensorLayout, chunk_groups, tensor_layout
from compression.indices import section_bytes
from compression.quantize import code_bytes

SECTION_HEADER_BYTES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The chunks of one group of one tensor, in a class from row `first` on.

    `scales_at` and `sections_at` are offsets of the scale bytes and of the low parts.
    """

    tensor: int
    group: ChunkGroup
    group_number: int
    first: int
    scales_at: int
    sections_at: int

    @property
    def stop(self) -> int:
        return self.first + self.group.num_chunks


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkClass:
    """All chunks with n elements and k kept: arrays of one number per chunk, none per element.

    `base_N` is the flat index in the tensor of a chunk's first element, `stride_N` the
    distance of its rows, `width_N` their length.
    """

    num_elements: int
    k: int
    runs: tuple[Run, ...]
    tensor_N: np.ndarray
    base_N: np.ndarray
    stride_N: np.ndarray
    width_N: np.ndarray
    is_square: bool
    run_starts: np.ndarray

    @property
    def num_chunks(self) -> int:
        return len(self.base_N)

    def flat_indices(self, index_NK: np.ndarray, rows: slice) -> np.ndarray:
        """Indices within chunks `rows` -> flat indices within their tensors; int64 [N, K]."""
        if self.is_square:
            flat_NK = index_NK >> 6
            flat_NK *= self.stride_N[rows, None]
            flat_NK += self.base_N[rows, None]
            flat_NK += index_NK & (BLOCK_SIDE - 1)
            return flat_NK
        row_NK, col_NK = np.divmod(index_NK, self.width_N[rows, None])
        row_NK *= self.stride_N[rows, None]
        row_NK += self.base_N[rows, None]
        row_NK += col_NK
        return row_NK


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the tensors of one model stand in a body. Make it once per model.

    `starts` are the offsets of the sections; `num_bytes` the exact length of every body.
    """

    names: tuple[str, ...]
    layouts: tuple[TensorLayout, ...]
    starts: tuple[int, ...]
    num_bytes: int
    classes: tuple[ChunkClass, ...] = field(repr=False)

    @property
    def num_elements(self) -> int:
        return sum(layout.num_elements for layout in self.layouts)

    @property
    def num_chunks(self) -> int:
        return sum(layout.num_chunks for layout in self.layouts)

    @property
    def num_kept(self) -> int:
        return sum(layout.num_kept for layout in self.layouts)


def group_bytes(group: ChunkGroup) -> int:
    """Bytes per chunk behind the scale byte."""
    return sum(section_bytes(group.num_elements, group.k)) + code_bytes(group.k)


def section_length(groups: tuple[ChunkGroup, ...]) -> int:
    """Bytes of a tensor's section, from its groups alone; none for a tensor of no elements."""
    if not groups:
        return 0
    return SECTION_HEADER_BYTES + sum(g.num_chunks * (1 + group_bytes(g)) for g in groups)


def body_bytes(shapes: Mapping[str, tuple[int, ...]], top_k: int = 64) -> int:
    """Exact length of a body for a model of any size: nothing of its size is allocated."""
    return sum(section_length(chunk_groups(tuple(s), top_k)) for s in shapes.values())


def make_plan(shapes: Mapping[str, tuple[int, ...]], top_k: int = 64) -> Plan:
    """The plan of a model: O(chunks) memory. ValueError unless 1 <= top_k <= 4096. Pure."""
    names = tuple(sorted(shapes))
    layouts = tuple(tensor_layout(tuple(shapes[name]), top_k) for name in names)
    return plan_of(names, layouts)


def plan_of(names: tuple[str, ...], layouts: tuple[TensorLayout, ...]) -> Plan:
    starts, position = [], 0
    runs: dict[tuple[int, int], list[Run]] = {}
    for tensor, layout in enumerate(layouts):
        starts.append(position)
        scales_at = position + SECTION_HEADER_BYTES
        sections_at = scales_at + layout.num_chunks
        for number, group in enumerate(layout.groups):
            members = runs.setdefault((group.num_elements, group.k), [])
            members.append(
                Run(
                    tensor=tensor,
                    group=group,
                    group_number=number,
                    first=members[-1].stop if members else 0,
                    scales_at=scales_at,
                    sections_at=sections_at,
                )
            )
            scales_at += group.num_chunks
            sections_at += group.num_chunks * group_bytes(group)
        position += section_length(layout.groups)
    classes = tuple(_chunk_class(n, k, tuple(members)) for (n, k), members in runs.items())
    return Plan(
        names=names,
        layouts=layouts,
        starts=tuple(starts),
        num_bytes=position,
        classes=classes,
    )


def _chunk_class(num_elements: int, k: int, runs: tuple[Run, ...]) -> ChunkClass:
    counts = [run.group.num_chunks for run in runs]
    widths = [run.group.width for run in runs]
    return ChunkClass(
        num_elements=num_elements,
        k=k,
        runs=runs,
        tensor_N=np.repeat(np.array([run.tensor for run in runs], dtype=np.int32), counts),
        base_N=np.concatenate([run.group.bases() for run in runs]),
        stride_N=np.repeat(np.array([run.group.stride for run in runs], dtype=np.int64), counts),
        width_N=np.repeat(np.array(widths, dtype=np.int64), counts),
        is_square=set(widths) == {BLOCK_SIDE},
        run_starts=np.array([run.first for run in runs], dtype=np.int64),
    )
