"""Offsets of a model's tensors, chunks and kept values in a body.

A body is the tensors' sections in ascending order of their names. A section is: exponent
byte, ratio byte, a scale byte per chunk, then per group of equal chunks the indices'
low parts, their upper maps, and the codes. Every length follows from the shapes.

A plan is a few integers per tensor, for a model of any size. compression/__init__.py draws a
section.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from compression.chunking import ChunkGroup, TensorLayout, chunk_groups, tensor_layout
from compression.indices import low_bits, section_bytes
from compression.kernels import Grid, Places
from compression.quantize import code_bytes

SECTION_HEADER_BYTES = 2
PIECE_CHUNKS = 256
"""Chunks per unit of a thread's work: 4 MiB of a dense tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The chunks of a tensor's group; `number` counts the runs of a model.

    `position`: of the group among the groups of the whole model, while the plan may be a band's
    (`compression.bands`). `start`: byte offset of the tensor's section in the body. `kept_at`:
    index of the group's first kept value among all kept values of the plan, in the order of the
    body.
    """

    number: int
    position: int
    tensor: int
    start: int
    group: ChunkGroup
    grid: Grid
    places: Places
    kept_at: int


class Piece(NamedTuple):
    """Chunks `first` to `stop` (exclusive) of a run: a unit of a thread's work."""

    run: Run
    first: int
    stop: int

    @property
    def kept(self) -> slice:
        """Range of the piece among the kept values of the model."""
        k = self.run.group.k
        return slice(self.run.kept_at + self.first * k, self.run.kept_at + self.stop * k)

    @property
    def place(self) -> int:
        """Offset of the first chunk's scale byte: ascends with the chunks of the whole model."""
        return self.run.places.scales + self.first


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The layout of a model's bodies. Make a plan once per model.

    `num_bytes` is the exact length of every body. `starts` holds the byte offset of each tensor's
    section, then `num_bytes`. `kept_at` holds each tensor's first index among the kept values of
    the model, then their total number.

    A plan of a band (`compression.bands`) describes the same bodies, as read and written by a
    process that holds some rows of every tensor: layouts, runs and kept values are the band's.
    """

    names: tuple[str, ...]
    layouts: tuple[TensorLayout, ...]
    num_bytes: int
    starts: tuple[int, ...] = field(repr=False)
    kept_at: tuple[int, ...] = field(repr=False)
    runs: tuple[Run, ...] = field(repr=False)

    @property
    def top_k(self) -> int:
        """Elements kept of each whole chunk; 1 for a model without tensors."""
        return self.layouts[0].top_k if self.layouts else 1

    @property
    def num_elements(self) -> int:
        return sum(layout.num_elements for layout in self.layouts)

    @property
    def num_chunks(self) -> int:
        return sum(layout.num_chunks for layout in self.layouts)

    @property
    def num_kept(self) -> int:
        return self.kept_at[-1]

    def kept(self, tensor: int) -> slice:
        """Range of a tensor's kept values among the kept values of the model."""
        return slice(self.kept_at[tensor], self.kept_at[tensor + 1])

    def pieces(self, runs: Sequence[Run] | None = None) -> Iterator[Piece]:
        for run in self.runs if runs is None else runs:
            for first in range(0, run.group.num_chunks, PIECE_CHUNKS):
                yield Piece(run, first, min(first + PIECE_CHUNKS, run.group.num_chunks))


def group_bytes(group: ChunkGroup) -> int:
    """Bytes per chunk without the scale byte: low part, upper map and codes."""
    return sum(section_bytes(group.num_elements, group.k)) + code_bytes(group.k)


def section_length(groups: tuple[ChunkGroup, ...]) -> int:
    """Bytes of a tensor's section; 0 for a tensor of no elements."""
    if not groups:
        return 0
    return SECTION_HEADER_BYTES + sum(g.num_chunks * (1 + group_bytes(g)) for g in groups)


def body_bytes(shapes: Mapping[str, tuple[int, ...]], top_k: int = 64) -> int:
    """Exact length of a body, computed without a plan or any array."""
    return sum(section_length(chunk_groups(tuple(s), top_k)) for s in shapes.values())


def make_plan(shapes: Mapping[str, tuple[int, ...]], top_k: int = 64) -> Plan:
    """The plan of a model, tensors ordered by name. ValueError unless 1 <= top_k <= 4096. Pure."""
    names = tuple(sorted(shapes))
    layouts = tuple(tensor_layout(tuple(shapes[name]), top_k) for name in names)
    return plan_of(names, layouts)


def plan_of(names: tuple[str, ...], layouts: tuple[TensorLayout, ...]) -> Plan:
    runs: list[Run] = []
    starts, kept_at = [0], [0]
    for tensor, layout in enumerate(layouts):
        runs += _runs(len(runs), tensor, layout, starts[-1], kept_at[-1])
        starts.append(starts[-1] + section_length(layout.groups))
        kept_at.append(kept_at[-1] + layout.num_kept)
    return Plan(
        names=names,
        layouts=layouts,
        num_bytes=starts[-1],
        starts=tuple(starts),
        kept_at=tuple(kept_at),
        runs=tuple(runs),
    )


def held_plan(plan: Plan, names: Collection[str]) -> Plan:
    """The plan of the same bodies, read at the tensors of `names` alone; others have no element."""
    if all(name in names for name in plan.names):
        return plan
    runs: list[Run] = []
    layouts, kept_at = [], [0]
    members: list[list[Run]] = [[] for _ in plan.names]
    for run in plan.runs:
        members[run.tensor].append(run)
    for tensor, (name, layout) in enumerate(zip(plan.names, plan.layouts, strict=True)):
        if name not in names:
            layouts.append(
                TensorLayout(shape=(0, *layout.shape[1:]), top_k=layout.top_k, groups=())
            )
            kept_at.append(kept_at[-1])
            continue
        moved = kept_at[-1] - plan.kept_at[tensor]
        runs += [
            replace(run, number=len(runs) + number, kept_at=run.kept_at + moved)
            for number, run in enumerate(members[tensor])
        ]
        layouts.append(layout)
        kept_at.append(kept_at[-1] + layout.num_kept)
    return replace(plan, layouts=tuple(layouts), kept_at=tuple(kept_at), runs=tuple(runs))


def grid_of(group: ChunkGroup) -> Grid:
    return Grid(group.offset, group.col_blocks, group.height, group.width, group.stride)


def _runs(
    number: int, tensor: int, layout: TensorLayout, start: int, kept_at: int
) -> Iterator[Run]:
    scales = start + SECTION_HEADER_BYTES
    lows = scales + layout.num_chunks
    for group in layout.groups:
        low_bytes, upper_bytes = section_bytes(group.num_elements, group.k)
        uppers = lows + group.num_chunks * low_bytes
        codes = uppers + group.num_chunks * upper_bytes
        places = Places(
            scales=scales,
            lows=lows,
            uppers=uppers,
            codes=codes,
            low_bytes=low_bytes,
            upper_bytes=upper_bytes,
            code_bytes=code_bytes(group.k),
            low_bits=low_bits(group.num_elements, group.k),
            num_elements=group.num_elements,
            k=group.k,
        )
        yield Run(
            number=number,
            position=number,
            tensor=tensor,
            start=start,
            group=group,
            grid=grid_of(group),
            places=places,
            kept_at=kept_at,
        )
        number += 1
        scales += group.num_chunks
        lows = codes + group.num_chunks * places.code_bytes
        kept_at += group.num_chunks * group.k
