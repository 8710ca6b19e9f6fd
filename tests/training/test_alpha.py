"""Alpha by its exponent: the same bits everywhere, and bounded."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from template.training.alpha import MAX_EXPONENT, alpha_at, next_exponent

EIGHTHS = [
    "0x1.0000000000000p+0",
    "0x1.172b83c7d517bp+0",
    "0x1.306fe0a31b715p+0",
    "0x1.4bfdad5362a27p+0",
    "0x1.6a09e667f3bcdp+0",
    "0x1.8ace5422aa0dcp+0",
    "0x1.ae89f995ad3aep+0",
    "0x1.d5818dcfba488p+0",
]
exponents = st.integers(-MAX_EXPONENT, MAX_EXPONENT)


def test_the_eight_factors_of_a_doubling_are_pinned_to_the_bit() -> None:
    """Another value here moves another model: it needs a new run."""
    assert [alpha_at(exponent, 1.0).hex() for exponent in range(8)] == EIGHTHS


@given(exponents, st.floats(1e-6, 1000))
def test_alpha_is_the_power_to_the_last_bits(exponent: int, first: float) -> None:
    assert alpha_at(exponent, first) == pytest.approx(first * 2 ** (exponent / 8), rel=2e-15)


@given(st.integers(-8, 8), st.floats(1e-6, 1000))
def test_a_doubling_is_exact(doublings: int, first: float) -> None:
    assert alpha_at(8 * doublings, first) == math.ldexp(first, doublings)


@given(st.integers(-MAX_EXPONENT, MAX_EXPONENT - 1), st.floats(1e-6, 1000))
def test_a_larger_exponent_is_a_larger_alpha(exponent: int, first: float) -> None:
    assert alpha_at(exponent, first) < alpha_at(exponent + 1, first)


@given(exponents, st.sampled_from([-1, 0, 1]))
def test_an_exponent_moves_by_the_pace_within_its_bounds(exponent: int, pace: int) -> None:
    after = next_exponent(exponent, pace)
    assert abs(after) <= MAX_EXPONENT
    assert after == exponent + pace or abs(exponent + pace) > MAX_EXPONENT
    assert (next_exponent(64, 1), next_exponent(-64, -1)) == (64, -64)
