"""A model in bands: each of several processes (ranks) holds some rows of every tensor.

The first dimension of a matrix is cut between blocks of 64 rows, so no chunk spans two ranks; a
vector or scalar belongs to rank 0 as a whole. `band_plan` is a plan of the same bodies for a rank's
rows: all of encoder and decoder takes such a plan, and with one rank a band is the tensor.

    each rank            select its chunks                      (no word to others)
    rank 0, 1, ...       tally: from rank to rank               88 bytes a group, 44 a tensor
    each rank            choose, from the last rank's tally     (the same scales everywhere)
    each rank            write its chunks, `cut` them out       81 bytes a chunk, to rank 0
    rank 0               splice                                 the bytes of a single process

Reading needs no exchange but of the body: a rank adds its chunks to its rows (`aggregate`), and
the integers of `check_units` add up to those of the model. Nothing here moves anything between
processes: functions take and return arrays.

Example, shape [200, 70] in three bands: rows 0-63, 64-191 and 192-199.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from compression.chunking import BLOCK_SIDE, ChunkGroup, TensorLayout
from compression.encoder import write_scales
from compression.plan import Plan, Run, grid_of
from compression.quantize import TensorScale
from compression.sparse import CodecError


def band_cuts(shape: Sequence[int], ranks: int) -> tuple[int, ...]:
    """The ranks' limits along the first dimension, `ranks` + 1 of them, from 0 to its length.

    An even split of the blocks of 64 rows, halves rounded up. A scalar counts as one row.
    ValueError without a rank.
    """
    if ranks < 1:
        raise ValueError(f"ranks is {ranks}: at least one process holds a model")
    if len(shape) < 2:
        rows = shape[0] if shape else 1
        return (0, *[rows] * ranks)
    rows = shape[0]
    blocks = -(-rows // BLOCK_SIDE)
    ends = [(2 * blocks * rank + ranks) // (2 * ranks) for rank in range(ranks + 1)]
    return tuple(min(end * BLOCK_SIDE, rows) for end in ends)


def band_shape(shape: Sequence[int], rank: int, ranks: int) -> tuple[int, ...]:
    """The shape of a rank's band; a scalar has the shape [0] where it is not."""
    cuts = band_cuts(shape, ranks)
    return _shape_of_rows(shape, cuts[rank], cuts[rank + 1])


def _shape_of_rows(shape: Sequence[int], first_row: int, end_row: int) -> tuple[int, ...]:
    if not shape:
        return () if first_row < end_row else (0,)
    return (end_row - first_row, *shape[1:])


def whole_chunks(shape: Sequence[int], first_row: int, end_row: int) -> tuple[int, int]:
    """The rows of all chunks with an element in the rows `first_row` to `end_row` (exclusive).

    A vector or scalar as a whole; no row around no row.
    """
    if first_row == end_row:
        return (0, 0)
    if len(shape) < 2:
        return (0, shape[0] if shape else 1)
    end_block = -(-end_row // BLOCK_SIDE)
    return (first_row // BLOCK_SIDE * BLOCK_SIDE, min(end_block * BLOCK_SIDE, shape[0]))


def band_of(tensor: Tensor, rank: int, ranks: int) -> Tensor:
    """A rank's band of a whole tensor, without a copy."""
    cuts = band_cuts(tensor.shape, ranks)
    if tensor.dim() == 0:
        return tensor if cuts[rank] < cuts[rank + 1] else tensor.reshape(1)[:0]
    return tensor[cuts[rank] : cuts[rank + 1]]


def band_plan(plan: Plan, rank: int, ranks: int) -> Plan:
    """The plan of a rank's bands, from the plan of the whole model."""
    cuts = (band_cuts(layout.shape, ranks) for layout in plan.layouts)
    return rows_plan(plan, [(of_tensor[rank], of_tensor[rank + 1]) for of_tensor in cuts])


def rows_plan(plan: Plan, spans: Sequence[tuple[int, int]]) -> Plan:
    """The plan of some rows of every tensor, from the plan of the whole model.

    `spans`: first row and end of each tensor, as `whole_chunks` returns: no chunk is cut.
    """
    runs: list[Run] = []
    layouts, kept_at = [], [0]
    members: list[list[Run]] = [[] for _ in plan.names]
    for run in plan.runs:
        members[run.tensor].append(run)
    for layout, whole, (first, end) in zip(plan.layouts, members, spans, strict=True):
        groups: list[ChunkGroup] = []
        for run in whole:
            part = _band_run(run, layout.shape, first, end)
            if part is not None:
                at = kept_at[-1] + sum(g.num_chunks * g.k for g in groups)
                runs.append(replace(part, number=len(runs), kept_at=at))
                groups.append(part.group)
        shape = _shape_of_rows(layout.shape, first, end)
        band = TensorLayout(shape=shape, top_k=layout.top_k, groups=tuple(groups))
        layouts.append(band)
        kept_at.append(kept_at[-1] + band.num_kept)
    return replace(plan, layouts=tuple(layouts), kept_at=tuple(kept_at), runs=tuple(runs))


def _band_run(run: Run, shape: Sequence[int], first_row: int, end_row: int) -> Run | None:
    """The run's chunks in these rows, numbered from 0; None without one.

    Grid and places begin at the first of these chunks: in the band, and in the whole body.
    """
    group = run.group
    if len(shape) < 2:
        return run if first_row < end_row else None
    top = group.offset // group.stride
    first, stop = (_blocks_above(group, row - top) for row in (first_row, end_row))
    if first == stop:
        return None
    shift = first * group.height - first_row
    part = replace(group, offset=group.offset + shift * group.stride, row_blocks=stop - first)
    skipped, places = first * group.col_blocks, run.places
    moved = places._replace(
        scales=places.scales + skipped,
        lows=places.lows + skipped * places.low_bytes,
        uppers=places.uppers + skipped * places.upper_bytes,
        codes=places.codes + skipped * places.code_bytes,
    )
    return replace(run, group=part, grid=grid_of(part), places=moved)


def _blocks_above(group: ChunkGroup, row: int) -> int:
    """Row blocks of the group that begin before a row, counted from the group's first row."""
    return min(max(-(-row // group.height), 0), group.row_blocks)


def chunk_slices(plan: Plan) -> list[slice]:
    """The bytes of a body that hold the plan's chunks: four pieces a group, in a fixed order."""
    slices = []
    for run in plan.runs:
        places, count = run.places, run.group.num_chunks
        for start, num_bytes in (
            (places.scales, 1),
            (places.lows, places.low_bytes),
            (places.uppers, places.upper_bytes),
            (places.codes, places.code_bytes),
        ):
            slices.append(slice(start, start + count * num_bytes))
    return slices


def chunk_bytes(plan: Plan) -> int:
    """Length of a band's `cut`."""
    return sum(place.stop - place.start for place in chunk_slices(plan))


def cut(body: np.ndarray, plan: Plan) -> np.ndarray:
    """A band's chunks, cut out of the body of `write`; uint8."""
    parts = [body[place] for place in chunk_slices(plan)]
    return np.concatenate([np.empty(0, dtype=np.uint8), *parts])


def splice(
    parts: Iterable[np.ndarray], scales: Sequence[TensorScale], bands: Sequence[Plan]
) -> bytes:
    """The body, from the `cut` of every rank; `bands`: the ranks' plans.

    ValueError if the length of a part is not what its plan says, or if there are more or fewer
    parts than plans.
    """
    body = np.empty(bands[0].num_bytes, dtype=np.uint8)
    for rank, (part, plan) in enumerate(zip(parts, bands, strict=True)):
        expected = chunk_bytes(plan)
        if part.size != expected:
            raise ValueError(f"rank {rank}: {part.size} bytes of chunks, not {expected}")
        at = 0
        for place in chunk_slices(plan):
            length = place.stop - place.start
            body[place] = part[at : at + length]
            at += length
    write_scales(body, scales, bands[0])
    return body.tobytes()


def earliest(faults: Iterable[CodecError | None]) -> CodecError | None:
    """The fault that a single process finds, from the ranks' faults in a body; None without one."""
    found = [fault for fault in faults if fault is not None]
    return min(found, key=lambda fault: fault.place, default=None)
