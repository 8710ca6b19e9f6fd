"""Rounding to 24 bits against exact arithmetic, and three bytes that hold every rounded value."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression import SHORT_BYTES, pack_short, round_to_short, unpack_short
from compression.rounding import PIECE_ELEMENTS, pack_bits, round_bits, unpack_bits

LARGEST = 0x7F7FFF00
INFINITY = 0x7F800000
QUIET = 0x7FC00000

patterns = st.one_of(
    st.integers(0, 2**32 - 1),
    # Ties and their neighbours, of every exponent and sign, subnormals among them.
    st.builds(
        lambda high, low: (high << 8) | low,
        st.integers(0, 2**24 - 1),
        st.sampled_from([0, 1, 0x7F, 0x80, 0x81, 0xFF]),
    ),
    st.sampled_from([0, 1, 0x80, 0x17F, 0x7FFFFF, 0x7F7FFF7F, 0x7F7FFF80, 0x7F7FFFFF, INFINITY]),
)


def _value(bits: int) -> Fraction:
    return Fraction(float(np.uint32(bits).view(np.float32)))


def _nearest(bits: int) -> int:
    """The nearest of the two neighbours with 24 bits, by exact fractions; the even one of a tie."""
    sign, magnitude = bits & 0x80000000, bits & 0x7FFFFFFF
    if magnitude > INFINITY:
        return QUIET
    if magnitude == INFINITY:
        return bits
    below = magnitude - magnitude % 256
    above = below + 256
    if above >= INFINITY:
        return sign | LARGEST
    down, up = _value(magnitude) - _value(below), _value(above) - _value(magnitude)
    if down == up:
        return sign | (below if (below >> 8) % 2 == 0 else above)
    return sign | (below if down < up else above)


def _rounded(bits: list[int]) -> np.ndarray:
    tensor = torch.from_numpy(np.array(bits, dtype=np.uint32).view(np.float32).copy())
    round_to_short(tensor, 1)
    return tensor.numpy().view(np.uint32)


@given(st.lists(patterns, max_size=50))
def test_every_value_becomes_the_nearest_of_24_bits(bits: list[int]) -> None:
    once = _rounded(bits)
    assert once.tolist() == [_nearest(one) for one in bits]
    assert not np.any(once & 0xFF)
    assert _rounded(once.tolist()).tolist() == once.tolist()  # rounded values stay


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0x3F800080, 0x3F800000),  # a tie goes down to the even value
        (0x3F800180, 0x3F800200),  # and up to the even value
        (0x3F80007F, 0x3F800000),
        (0x3F800081, 0x3F800100),
        (0x3FFFFF80, 0x40000000),  # into the next exponent
        (0x00000000, 0x00000000),
        (0x80000000, 0x80000000),  # the sign of zero stays
        (0x00000080, 0x00000000),  # a subnormal tie
        (0x80000081, 0x80000100),
        (0x007FFFFF, 0x00800000),  # the largest subnormal becomes the smallest normal
        (0x7F7FFFFF, LARGEST),  # never to infinity
        (0xFF7FFFFF, 0x80000000 | LARGEST),
        (0xFF800000, 0xFF800000),
        (0xFFC12345, QUIET),
        (0x7F800001, QUIET),
    ],
)
def test_the_edges(bits: int, expected: int) -> None:
    assert _nearest(bits) == expected
    assert _rounded([bits]).tolist() == [expected]


def test_the_relative_error_is_2_to_the_minus_16_at_most() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(1))
    after = values.clone()
    round_to_short(after)
    error = ((after.double() - values.double()) / values.double()).abs().max()
    assert 2.0**-17 < error <= 2.0**-16


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_threads_and_bands_have_the_same_bits(num_threads: int) -> None:
    values = torch.randn(3 * PIECE_ELEMENTS + 5, generator=torch.Generator().manual_seed(2))
    whole, bands = values.clone(), values.clone()
    round_to_short(whole, 1)
    for start in range(0, values.numel(), 300_000):
        round_to_short(bands[start : start + 300_000], num_threads)
    assert torch.equal(whole, bands)
    shaped = values[: 6 * 7].clone().view(6, 7)
    round_to_short(shaped, num_threads)
    assert torch.equal(shaped.view(-1), whole[: 6 * 7])


@pytest.mark.parametrize("tensor", [torch.zeros(4, 4).t()[1:], torch.zeros(3, dtype=torch.float64)])
def test_what_cannot_be_rounded_in_place_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="contiguous float32"):
        round_to_short(tensor)


@given(st.lists(st.integers(0, 2**24 - 1), max_size=50))
def test_three_bytes_hold_every_rounded_value(high: list[int]) -> None:
    """Of any bit pattern: infinities and NaNs too, which others refuse."""
    values = (np.array(high, dtype=np.uint32) << np.uint32(8)).view(np.float32)
    packed = pack_short(values)
    assert packed.tobytes() == b"".join(one.to_bytes(3, "little") for one in high)
    again = np.full(len(high), math.pi, dtype=np.float32)
    unpack_short(packed, again)
    assert again.tobytes() == values.tobytes()


@given(st.lists(patterns, min_size=1, max_size=20))
def test_a_value_of_more_bits_is_refused_and_never_cut(bits: list[int]) -> None:
    values = np.array(bits, dtype=np.uint32).view(np.float32)
    if any(one & 0xFF for one in bits):
        with pytest.raises(ValueError, match="more than 24 bits"):
            pack_short(values)
    else:
        assert pack_short(values).size == SHORT_BYTES * len(bits)


def test_the_loops_are_the_same_without_a_compiler() -> None:
    """The fuzzer runs them as plain Python."""
    generator = np.random.default_rng(3)
    bits = generator.integers(0, 2**32, 500, dtype=np.uint32)
    compiled, plain = bits.copy(), bits.copy()
    round_bits(compiled)
    round_bits.py_func(plain)  # type: ignore[attr-defined]
    assert np.array_equal(compiled, plain)
    packed = np.empty((2, 1500), dtype=np.uint8)
    assert pack_bits(compiled, packed[0]) == 0
    assert pack_bits.py_func(plain, packed[1]) == 0  # type: ignore[attr-defined]
    assert np.array_equal(packed[0], packed[1])
    back = np.empty((2, 500), dtype=np.uint32)
    unpack_bits(packed[0], back[0])
    unpack_bits.py_func(packed[1], back[1])  # type: ignore[attr-defined]
    assert np.array_equal(back[0], compiled)
    assert np.array_equal(back[1], compiled)
