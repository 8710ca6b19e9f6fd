"""The exact norm against `math.fsum` over exact squares, the definition before the integers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression import exact_norm
from compression.bands import band_of
from compression.norms import BLOCK_ELEMENTS, PIECE_ELEMENTS, norm_of_squares, sum_squares


def naive_norm(values: torch.Tensor) -> float:
    """A float32 squared is exact in a double, and fsum rounds once, whatever the order."""
    exact = values.reshape(-1).to(torch.float64)
    return math.sqrt(math.fsum((exact * exact).tolist()))


finite_bits = st.integers(0, 0x7F7FFFFF) | st.sampled_from([0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF])


@given(st.lists(st.tuples(finite_bits, st.booleans()), max_size=60))
def test_every_float32_counts_exactly(drawn: list[tuple[int, bool]]) -> None:
    """Subnormal, tiny and huge values beside each other: bits drawn evenly over all exponents."""
    bits = np.array([b | (0x80000000 if neg else 0) for b, neg in drawn], dtype=np.uint32)
    values = torch.from_numpy(bits.view(np.float32).copy())
    assert exact_norm(values) == naive_norm(values)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 400),
    st.floats(-44, 37),
    st.floats(0, 3),
)
def test_the_same_double_at_every_scale(seed: int, size: int, power: float, spread: float) -> None:
    """Sums that end near the middle between two doubles occur at any scale."""
    draw = torch.Generator().manual_seed(seed)
    scales = 10 ** (power + spread * (torch.rand(size, generator=draw, dtype=torch.float64) - 1))
    values = (torch.randn(size, generator=draw, dtype=torch.float64) * scales).to(torch.float32)
    assert exact_norm(values) == naive_norm(values)


def test_a_tie_is_rounded_to_even() -> None:
    """2^54 + 2 lies in the middle between two doubles, 2^54 + 6 too; one more unit decides."""
    big = 2.0**27
    for ones in (2, 3, 6, 7, 10):
        values = torch.tensor([big, *[1.0] * ones])
        assert exact_norm(values) == naive_norm(values)


def test_golden_doubles() -> None:
    """A changed double forks the run: these were written by the definition, not by the loop."""
    draw = np.random.default_rng(20).standard_normal(3000).astype(np.float32)
    for factor, golden in ((1.0, GOLDEN[0]), (1e-30, GOLDEN[1]), (1e30, GOLDEN[2])):
        values = torch.from_numpy(draw * np.float32(factor))
        assert exact_norm(values).hex() == golden == naive_norm(values).hex()


GOLDEN = ("0x1.b6dee7be04431p+5", "0x1.162ad8aec6067p-94", "0x1.5a353cf8ae569p+105")


@pytest.mark.parametrize("size", [BLOCK_ELEMENTS + 1, 2 * PIECE_ELEMENTS + 3])
def test_carries_pieces_and_threads_change_nothing(size: int) -> None:
    """The largest mantissas: nowhere do the sums grow faster."""
    values = torch.full((size,), float(np.float32(2) - np.float32(2.0**-23)))
    values[size // 2 :] *= 2.0**-20
    assert exact_norm(values, 1) == exact_norm(values, 3) == naive_norm(values)
    assert exact_norm(values.flip(0)) == exact_norm(values)


def test_shapes_and_views_and_no_elements() -> None:
    values = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    assert exact_norm(values.T) == exact_norm(values) == naive_norm(values)
    assert exact_norm(torch.empty(0)) == 0.0
    with pytest.raises(ValueError, match="float64"):
        exact_norm(values.double())


def test_what_is_no_number_stays_none() -> None:
    assert exact_norm(torch.tensor([1.0, math.inf])) == math.inf
    assert math.isnan(exact_norm(torch.tensor([math.inf, math.nan])))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("spoilt", [None, math.inf, math.nan])
def test_sums_of_bands_give_the_norm_of_the_tensor(ranks: int, spoilt: float | None) -> None:
    """Also where one rank has an infinity and another a NaN."""
    values = torch.from_numpy(np.random.default_rng(3).normal(size=(1000, 70)).astype(np.float32))
    values[500:] *= 1e-30
    if spoilt is not None:
        values[3, 3], values[990, 1] = math.inf, spoilt
    sums = sum(sum_squares(band_of(values, rank, ranks), 1) for rank in range(ranks))
    assert isinstance(sums, np.ndarray)
    assert repr(norm_of_squares(sums)) == repr(exact_norm(values))
    if spoilt is not None:
        assert repr(norm_of_squares(sums)) == repr(spoilt)
