"""The layout: every element exactly once, blocks where the rule puts them, lengths in integers."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.chunking import (
    BLOCK_SIDE,
    CHUNK_ELEMENTS,
    ChunkGroup,
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


def laid_out_chunks(shape: tuple[int, ...]) -> list[list[int]]:
    layout = tensor_layout(shape, 64)
    sizes = [g.num_elements for g in layout.groups for _ in range(g.num_chunks)]
    return [part.tolist() for part in layout.order.split(sizes)] if sizes else []


def test_chunks_are_those_of_the_written_rule(shape: tuple[int, ...]) -> None:
    assert laid_out_chunks(shape) == naive_chunks(shape)


def test_every_element_is_in_exactly_one_chunk(shape: tuple[int, ...]) -> None:
    layout = tensor_layout(shape, 64)
    assert torch.equal(layout.order.sort().values, torch.arange(math.prod(shape)))
    assert layout.num_elements == math.prod(shape)
    assert layout.num_chunks == len(naive_chunks(shape))
    assert all(1 <= g.k <= g.num_elements <= CHUNK_ELEMENTS for g in layout.groups)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 150), max_size=2), st.integers(1, CHUNK_ELEMENTS))
def test_any_shape_is_covered_once(sides: list[int], top_k: int) -> None:
    layout = tensor_layout(tuple(sides), top_k)
    assert torch.equal(layout.order.sort().values, torch.arange(math.prod(sides)))
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
    expected = [ChunkGroup(num_chunks=n, num_elements=c, k=k) for n, c, k in groups]
    assert list(chunk_groups(shape, 64)) == expected


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
