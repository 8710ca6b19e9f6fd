"""How a tensor of any shape is cut into chunks. compression/__init__.py draws the rule.

A matrix is cut into blocks of 64 x 64; blocks at the right and bottom edge are smaller.
A tensor with more than two dimensions counts as the matrix [first, product of the rest]. A
vector (or scalar) is cut into runs of 4096. Every block or run is a chunk of n <= 4096
elements and keeps k_n = max(1, round(k * n / 4096)) elements, halves rounded up. Chunks
are ordered: whole blocks row by row, right edge, bottom edge, corner.

Source: SparseLoCo (arXiv 2508.15706), section 3: chunks of 64 x 64. The published code takes
the largest divisor <= 64 of each dimension as block side; a fixed side with edge blocks keeps
the chunk size, and so the density, of nearly all elements equal.

A layout is at most four groups of equal chunks, a few integers each, for any tensor size.

Legend: N chunks in a group.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

BLOCK_SIDE = 64
CHUNK_ELEMENTS = BLOCK_SIDE * BLOCK_SIDE


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkGroup:
    """A grid of `row_blocks` x `col_blocks` equal chunks; each chunk keeps `k` elements.

    A chunk is `height` x `width` elements; rows of the tensor lie `stride` elements apart,
    and the first chunk starts at the flat index `offset`. (A run of 4096 of a vector is 64
    rows of 64 with stride 64.)
    """

    offset: int
    row_blocks: int
    height: int
    col_blocks: int
    width: int
    stride: int
    k: int

    @property
    def num_chunks(self) -> int:
        return self.row_blocks * self.col_blocks

    @property
    def num_elements(self) -> int:
        """Elements in each chunk of the group."""
        return self.height * self.width

    @property
    def grid(self) -> tuple[int, int, int, int]:
        return (self.row_blocks, self.height, self.col_blocks, self.width)

    @property
    def grid_strides(self) -> tuple[int, int, int, int]:
        """Strides, in elements, of a view of shape `grid` starting at `offset`."""
        return (self.height * self.stride, self.stride, self.width, 1)

    def bases(self) -> np.ndarray:
        """Flat index of each chunk's first element; int64 [N]."""
        chunk_N = np.arange(self.num_chunks, dtype=np.int64)
        row_N, col_N = np.divmod(chunk_N, self.col_blocks)
        return self.offset + row_N * (self.height * self.stride) + col_N * self.width

    def blocks(self, max_chunks: int) -> Iterator[tuple[int, "ChunkGroup"]]:
        """Parts of at most `max_chunks` consecutive chunks, each with its first chunk's number."""
        if self.col_blocks >= max_chunks:
            for row in range(self.row_blocks):
                for col in range(0, self.col_blocks, max_chunks):
                    count = min(max_chunks, self.col_blocks - col)
                    yield row * self.col_blocks + col, self._part(row, 1, col, count)
            return
        step = max_chunks // self.col_blocks
        for row in range(0, self.row_blocks, step):
            count = min(step, self.row_blocks - row)
            yield row * self.col_blocks, self._part(row, count, 0, self.col_blocks)

    def _part(self, row: int, num_rows: int, col: int, num_cols: int) -> "ChunkGroup":
        return ChunkGroup(
            offset=self.offset + row * self.height * self.stride + col * self.width,
            row_blocks=num_rows,
            height=self.height,
            col_blocks=num_cols,
            width=self.width,
            stride=self.stride,
            k=self.k,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorLayout:
    """All chunks of a tensor of the given shape, group by group.

    `top_k`: elements kept of a whole chunk.
    """

    shape: tuple[int, ...]
    top_k: int
    groups: tuple[ChunkGroup, ...]

    @property
    def num_elements(self) -> int:
        return sum(g.num_chunks * g.num_elements for g in self.groups)

    @property
    def num_chunks(self) -> int:
        return sum(g.num_chunks for g in self.groups)

    @property
    def num_kept(self) -> int:
        return sum(g.num_chunks * g.k for g in self.groups)


def kept_per_chunk(num_elements: int, top_k: int) -> int:
    """max(1, round(top_k * n / 4096)), halves up, in integers: no float decides a length."""
    return max(1, (2 * top_k * num_elements + CHUNK_ELEMENTS) // (2 * CHUNK_ELEMENTS))


@lru_cache(maxsize=512)
def tensor_layout(shape: tuple[int, ...], top_k: int) -> TensorLayout:
    """The layout of a shape. ValueError unless 1 <= top_k <= 4096. Pure."""
    return TensorLayout(shape=shape, top_k=top_k, groups=chunk_groups(shape, top_k))


def chunk_groups(shape: tuple[int, ...], top_k: int) -> tuple[ChunkGroup, ...]:
    """The groups of a shape in the order of the format; empty for a tensor of no elements."""
    if not 1 <= top_k <= CHUNK_ELEMENTS:
        raise ValueError(f"top_k is {top_k}: top_k must be in [1, {CHUNK_ELEMENTS}]")
    numel = math.prod(shape)
    if len(shape) < 2 or numel == 0:
        cuts = _vector_cuts(numel)
    else:
        cuts = _matrix_cuts(shape[0], numel // shape[0])
    return tuple(
        ChunkGroup(
            offset=offset,
            row_blocks=row_blocks,
            height=height,
            col_blocks=col_blocks,
            width=width,
            stride=stride,
            k=kept_per_chunk(height * width, top_k),
        )
        for offset, row_blocks, height, col_blocks, width, stride in cuts
        if row_blocks and height and col_blocks and width
    )


_Cut = tuple[int, int, int, int, int, int]
"""Offset, row blocks, height, column blocks, width, stride."""


def _vector_cuts(numel: int) -> list[_Cut]:
    whole, tail = divmod(numel, CHUNK_ELEMENTS)
    return [
        (0, whole, BLOCK_SIDE, 1, BLOCK_SIDE, BLOCK_SIDE),
        (whole * CHUNK_ELEMENTS, 1, 1, 1, tail, tail),
    ]


def _matrix_cuts(rows: int, cols: int) -> list[_Cut]:
    full_rows, tail_rows = divmod(rows, BLOCK_SIDE)
    full_cols, tail_cols = divmod(cols, BLOCK_SIDE)
    below, right = full_rows * BLOCK_SIDE * cols, full_cols * BLOCK_SIDE
    return [
        (0, full_rows, BLOCK_SIDE, full_cols, BLOCK_SIDE, cols),
        (right, full_rows, BLOCK_SIDE, 1, tail_cols, cols),
        (below, 1, tail_rows, full_cols, BLOCK_SIDE, cols),
        (below + right, 1, tail_rows, 1, tail_cols, cols),
    ]
