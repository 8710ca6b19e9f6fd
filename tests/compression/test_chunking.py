"""The layout: every element exactly once, blocks where the rule puts them, lengths in integers."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.chunking import (
    BLOCK_SIDE,
    CHUNK_ELEMENTS,
    ChunkGroup,
    TensorLayout,
    chunk_groups,
    kept_per_chunk,
    tensor_layout,
)


def naive_chunks(shape: tuple[int, ...]) -> list[list[int]]:
    """The rule as its docstring words it, one element at a time."""
    numel = math.prod(shape)
    if len(shape) < 2:
        return [list(range(numel))[i : i + CHUNK_ELEMENTS] for i in range(0, numel, CHUNK_ELEMENTS)]
    rows, cols = shape[0], numel // max(1, shape[0])
    regions: list[list[list[int]]] = [[], [], [], []]
    for top in range(0, rows, BLOCK_SIDE):
        for left in range(0, cols, BLOCK_SIDE):
            bottom, right = min(top + BLOCK_SIDE, rows), min(left + BLOCK_SIDE, cols)
            block = [r * cols + c for r in range(top, bottom) for c in range(left, right)]
            region = (right - left < BLOCK_SIDE) + 2 * (bottom - top < BLOCK_SIDE)
            regions[region].append(block)
    return [block for region in regions for block in region]


def flat_indices(group: ChunkGroup) -> np.ndarray:
    """Of every element of a group, by chunk; int64 [N, C]."""
    row_C, col_C = np.divmod(np.arange(group.num_elements), group.width)
    flat: np.ndarray = group.bases()[:, None] + row_C * group.stride + col_C
    return flat


def laid_out_chunks(shape: tuple[int, ...]) -> list[list[int]]:
    groups = tensor_layout(shape, 64).groups
    return [chunk for group in groups for chunk in flat_indices(group).tolist()]


def all_indices(layout: TensorLayout) -> list[int]:
    return sorted(i for group in layout.groups for i in flat_indices(group).reshape(-1).tolist())


def test_chunks_are_those_of_the_written_rule(shape: tuple[int, ...]) -> None:
    assert laid_out_chunks(shape) == naive_chunks(shape)


def test_every_element_is_in_exactly_one_chunk(shape: tuple[int, ...]) -> None:
    layout = tensor_layout(shape, 64)
    assert all_indices(layout) == list(range(math.prod(shape)))
    assert layout.num_elements == math.prod(shape)
    assert layout.num_chunks == len(naive_chunks(shape))
    assert all(1 <= g.k <= g.num_elements <= CHUNK_ELEMENTS for g in layout.groups)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 150), max_size=2)
    | st.lists(st.integers(0, 14), min_size=3, max_size=4),
    st.integers(1, CHUNK_ELEMENTS),
)
def test_any_shape_is_covered_once(sides: list[int], top_k: int) -> None:
    layout = tensor_layout(tuple(sides), top_k)
    assert all_indices(layout) == list(range(math.prod(sides)))
    assert layout.num_elements == math.prod(sides)
    assert layout.num_kept == sum(g.num_chunks * g.k for g in layout.groups)


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((128, 192), [(6, 4096, 64)]),
        ((130, 70), [(2, 4096, 64), (2, 384, 6), (1, 128, 2), (1, 12, 1)]),
        ((4097,), [(1, 4096, 64), (1, 1, 1)]),
        ((), [(1, 1, 1)]),
        ((5, 0), []),
    ],
)
def test_groups_of_known_shapes(shape: tuple[int, ...], groups: list[tuple[int, int, int]]) -> None:
    found = [(g.num_chunks, g.num_elements, g.k) for g in chunk_groups(shape, 64)]
    assert found == groups


@pytest.mark.parametrize("max_chunks", [1, 2, 3, 5, 100])
def test_blocks_are_the_group_in_parts(shape: tuple[int, ...], max_chunks: int) -> None:
    for group in chunk_groups(shape, 64):
        next_chunk, parts = 0, []
        for first, part in group.blocks(max_chunks):
            assert first == next_chunk
            assert 1 <= part.num_chunks <= max_chunks
            parts.append(flat_indices(part))
            next_chunk += part.num_chunks
        assert np.array_equal(np.concatenate(parts), flat_indices(group))


def test_the_view_of_a_group_holds_its_chunks(shape: tuple[int, ...]) -> None:
    flat = torch.arange(math.prod(shape))
    for group in chunk_groups(shape, 64):
        view = flat.as_strided(group.grid, group.grid_strides, group.offset)
        chunks = view.permute(0, 2, 1, 3).reshape(group.num_chunks, -1)
        assert np.array_equal(chunks.numpy(), flat_indices(group))


@pytest.mark.parametrize(
    ("num_elements", "top_k", "kept"),
    [
        (1, 64, 1),
        (31, 64, 1),
        (95, 64, 1),
        (96, 64, 2),
        (160, 64, 3),
        (4096, 64, 64),
        (4095, 64, 64),
        (4063, 64, 63),
        (4064, 64, 64),
        (1, 1, 1),
        (4096, 1, 1),
        (4096, 4096, 4096),
        (4095, 4096, 4095),
        (1, 4096, 1),
    ],
)
def test_kept_per_chunk_at_its_boundaries(num_elements: int, top_k: int, kept: int) -> None:
    assert kept_per_chunk(num_elements, top_k) == kept


@settings(deadline=None)
@given(st.integers(1, CHUNK_ELEMENTS), st.integers(1, CHUNK_ELEMENTS))
def test_kept_per_chunk_is_the_rounded_share(num_elements: int, top_k: int) -> None:
    share = Fraction(top_k * num_elements, CHUNK_ELEMENTS)
    kept = kept_per_chunk(num_elements, top_k)
    assert kept == max(1, math.floor(share + Fraction(1, 2)))
    assert 1 <= kept <= num_elements


@pytest.mark.parametrize("top_k", [0, -1, CHUNK_ELEMENTS + 1])
def test_top_k_out_of_range_is_refused(top_k: int) -> None:
    with pytest.raises(ValueError, match="top_k"):
        tensor_layout((64, 64), top_k)
