"""How a tensor of any shape is cut into chunks; the one written rule.

A matrix is cut into blocks of 64 x 64; blocks at the right and bottom edge are smaller.
A tensor with more than two dimensions counts as the matrix [first, all the others]. A
vector (or scalar) is cut into runs of 4096. Every block or run is one chunk of n <= 4096
elements and keeps k_n = max(1, round(k * n / 4096)) of them, halves rounded up. Chunks
are ordered: whole blocks row by row, right edge, bottom edge, corner.

Source: SparseLoCo (arXiv 2508.15706), section 3: chunks of 64 x 64. We depart from its
code, whose block side is the largest divisor <= 64 of each dimension: an edge block of a
fixed side keeps the chunk size, and so the density, of nearly all elements equal.

Legend: N chunks of one size, C elements per chunk.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

BLOCK_SIDE = 64
CHUNK_ELEMENTS = BLOCK_SIDE * BLOCK_SIDE


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkGroup:
    """`num_chunks` consecutive chunks of `num_elements` each, of which `k` are kept."""

    num_chunks: int
    num_elements: int
    k: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorLayout:
    """The chunks of one shape. `order` is int64 [numel]: position in chunk order -> flat index."""

    shape: tuple[int, ...]
    groups: tuple[ChunkGroup, ...]
    order: Tensor

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
def chunk_groups(shape: tuple[int, ...], top_k: int) -> tuple[ChunkGroup, ...]:
    """The groups alone, without the order: enough for the length of a payload of any model."""
    if not 1 <= top_k <= CHUNK_ELEMENTS:
        raise ValueError(f"top_k is {top_k}: it must be in [1, {CHUNK_ELEMENTS}]")
    return tuple(
        ChunkGroup(num_chunks=count, num_elements=size, k=kept_per_chunk(size, top_k))
        for count, size in _group_sizes(shape)
        if count and size
    )


def _group_sizes(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    numel = 1
    for side in shape:
        numel *= side
    if len(shape) < 2 or numel == 0:
        return [(numel // CHUNK_ELEMENTS, CHUNK_ELEMENTS), (1, numel % CHUNK_ELEMENTS)]
    rows, cols = shape[0], numel // shape[0]
    full_rows, tail_rows = divmod(rows, BLOCK_SIDE)
    full_cols, tail_cols = divmod(cols, BLOCK_SIDE)
    return [
        (full_rows * full_cols, CHUNK_ELEMENTS),
        (full_rows, BLOCK_SIDE * tail_cols),
        (full_cols, tail_rows * BLOCK_SIDE),
        (1, tail_rows * tail_cols),
    ]


@lru_cache(maxsize=512)
def tensor_layout(shape: tuple[int, ...], top_k: int) -> TensorLayout:
    """The layout of a shape. ValueError unless 1 <= top_k <= 4096. Pure."""
    return TensorLayout(shape=shape, groups=chunk_groups(shape, top_k), order=_chunk_order(shape))


def _chunk_order(shape: tuple[int, ...]) -> Tensor:
    numel = 1
    for side in shape:
        numel *= side
    flat = torch.arange(numel)
    if len(shape) < 2 or numel == 0:
        return flat
    grid = flat.view(shape[0], -1)
    whole_rows = shape[0] // BLOCK_SIDE * BLOCK_SIDE
    whole_cols = grid.shape[1] // BLOCK_SIDE * BLOCK_SIDE
    top, bottom = grid[:whole_rows], grid[whole_rows:]
    parts = [
        _blocks(top[:, :whole_cols], BLOCK_SIDE),
        _blocks(top[:, whole_cols:], BLOCK_SIDE),
        _blocks(bottom[:, :whole_cols], bottom.shape[0]),
        bottom[:, whole_cols:].reshape(-1),
    ]
    return torch.cat(parts)


def _blocks(grid: Tensor, rows: int) -> Tensor:
    """Cut a grid whose height is a multiple of `rows` into blocks, row-major, flattened."""
    if grid.numel() == 0:
        return grid.reshape(-1)
    cols = min(BLOCK_SIDE, grid.shape[1])
    height, width = grid.shape[0] // rows, grid.shape[1] // cols
    return grid.reshape(height, rows, width, cols).permute(0, 2, 1, 3).reshape(-1)
