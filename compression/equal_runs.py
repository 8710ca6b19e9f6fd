"""Runs of a plan whose chunks have one size, laid end to end: what torch handles in one operation.

The loops of `compression.kernels` go from chunk to chunk; a GPU wants few operations on many chunks
at once, of all tensors together. Nearly all chunks of a model are whole ones and form one row of
chunks here; each size of edge blocks and of vectors' tails forms another.

Legend: N chunks, K kept values per chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from compression.chunking import ChunkGroup
from compression.plan import Plan, Run


class Part(NamedTuple):
    """Chunks of one run in a block of chunks: `rows` of the block, `group` within the tensor."""

    run: Run
    rows: slice
    group: ChunkGroup


@dataclass(frozen=True, kw_only=True, eq=False)
class EqualRuns:
    """Runs with chunks of one height and width; `starts`: each run's first chunk, and the end."""

    runs: tuple[Run, ...]
    starts: tuple[int, ...]

    @property
    def group(self) -> ChunkGroup:
        """A group with the chunks' size; offset, counts and stride are one run's alone."""
        return self.runs[0].group

    @property
    def num_chunks(self) -> int:
        return self.starts[-1]

    def rows(self, number: int) -> slice:
        """The chunks of the run of this number."""
        return slice(self.starts[number], self.starts[number + 1])

    def blocks(self, max_chunks: int) -> Iterator[slice]:
        """All chunks, in blocks of at most `max_chunks`."""
        for first in range(0, self.num_chunks, max_chunks):
            yield slice(first, min(first + max_chunks, self.num_chunks))

    def runs_in(self, block: slice) -> Iterator[tuple[Run, slice]]:
        """The runs of a block, each with its rows of the block."""
        for number, run in enumerate(self.runs):
            first = max(self.starts[number], block.start)
            stop = min(self.starts[number + 1], block.stop)
            if first < stop:
                yield run, slice(first - block.start, stop - block.start)

    def row_parts(self, max_chunks: int) -> Iterator[list[Part]]:
        """All chunks in blocks of at most `max_chunks`, in parts that are grids of a tensor."""
        block: list[Part] = []
        count = 0
        for run in self.runs:
            for _, group in run.group.blocks(max_chunks):
                if count + group.num_chunks > max_chunks:
                    yield block
                    block, count = [], 0
                rows = slice(count, count + group.num_chunks)
                block.append(Part(run, rows, group))
                count = rows.stop
        if block:
            yield block


def equal_runs(plan: Plan) -> list[EqualRuns]:
    """The runs of a plan by the size of their chunks, in the order of the plan."""
    by_size: dict[tuple[int, int, int], list[Run]] = {}
    for run in plan.runs:
        size = (run.group.height, run.group.width, run.group.k)
        by_size.setdefault(size, []).append(run)
    made = []
    for runs in by_size.values():
        starts = np.cumsum([0, *(run.group.num_chunks for run in runs)]).tolist()
        made.append(EqualRuns(runs=tuple(runs), starts=tuple(starts)))
    return made


@dataclass(frozen=True, kw_only=True, eq=False)
class ChunkTable:
    """Facts of every chunk of `EqualRuns` on a device, int64 [N].

    `base_N`: flat index of the first element in the chunk's tensor. `stride_N`: between the
    tensor's rows. `run_N`: number of the run.
    """

    base_N: Tensor
    stride_N: Tensor
    run_N: Tensor
    width: int

    def flat_indices(self, block: slice, index_NK: Tensor) -> Tensor:
        """Flat indices in their tensors of a block's indices in the chunks; int64 [N, K]."""
        row_NK = index_NK // self.width
        flat_NK = row_NK * self.stride_N[block, None]
        return flat_NK.add_(index_NK.sub(row_NK, alpha=self.width)).add_(self.base_N[block, None])


def chunk_table(chunks: EqualRuns, device: torch.device) -> ChunkTable:
    """The facts, moved to the device in one piece."""
    counts = [run.group.num_chunks for run in chunks.runs]
    table_3N = np.stack(
        [
            np.concatenate([run.group.bases() for run in chunks.runs]),
            np.repeat([run.group.stride for run in chunks.runs], counts),
            np.repeat(np.arange(len(counts)), counts),
        ]
    )
    base_N, stride_N, run_N = torch.from_numpy(table_3N).to(device)
    return ChunkTable(base_N=base_N, stride_N=stride_N, run_N=run_N, width=chunks.group.width)
