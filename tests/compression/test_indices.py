"""Elias-Fano sections: size from (n, k) alone, round trip, and refusal of everything else."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.indices import section_bytes
from compression.kernels import LOW_PADDING, NOT_ASCENDING, TOO_LARGE, WRONG_ONES
from compression.quantize import TensorScale
from tests.support.codec_sections import Refused, places_of, read, write

SCALE = TensorScale(exponent_byte=56, ratio_byte=8)

SIZES = [
    (1, 1),
    (2, 1),
    (2, 2),
    (7, 3),
    (64, 1),
    (100, 99),
    (128, 2),
    (384, 6),
    (4095, 64),
    (4096, 1),
    (4096, 64),
    (4096, 1000),
    (4096, 4095),
    (4096, 4096),
]


def draw_indices(num_chunks: int, num_elements: int, k: int) -> np.ndarray:
    generator = np.random.default_rng(num_elements * 5000 + k)
    rows = [np.sort(generator.permutation(num_elements)[:k]) for _ in range(num_chunks)]
    return np.stack(rows).astype(np.int64)


def pack(index_NK: np.ndarray, num_elements: int) -> bytes:
    """Lows and uppers of chunks whose values are zero."""
    num_chunks, k = index_NK.shape
    values_NK, best_N = np.zeros((num_chunks, k), np.float32), np.zeros(num_chunks, np.float32)
    places = places_of(num_chunks, num_elements, k)
    section = write(values_NK, index_NK, num_elements, SCALE, best_N)
    return section[places.lows : places.codes].tobytes()


def unpack(data: bytes, num_chunks: int, num_elements: int, k: int) -> np.ndarray:
    places = places_of(num_chunks, num_elements, k)
    codes = bytes(num_chunks * places.code_bytes)
    section = np.frombuffer(bytes(num_chunks) + data + codes, dtype=np.uint8)
    return read(section, num_chunks, num_elements, k, SCALE)[0]


def naive_section(indices: list[int], num_elements: int) -> bytes:
    """One chunk's section, from strings of binary digits."""
    k, width = len(indices), (num_elements // len(indices)).bit_length() - 1
    low = "".join(format(index % 2**width, f"0{width}b") if width else "" for index in indices)
    upper = ["0"] * (k + ((num_elements - 1) >> width))
    for i, index in enumerate(indices):
        upper[(index >> width) + i] = "1"
    return _to_bytes(low) + _to_bytes("".join(upper))


def _to_bytes(digits: str) -> bytes:
    padded = digits + "0" * (-len(digits) % 8)
    return bytes(int(padded[i : i + 8], 2) for i in range(0, len(padded), 8))


@pytest.mark.parametrize(("num_elements", "k"), SIZES)
def test_round_trip_and_size(num_elements: int, k: int) -> None:
    index_NK = draw_indices(3, num_elements, k)
    data = pack(index_NK, num_elements)
    assert len(data) == 3 * sum(section_bytes(num_elements, k))
    assert np.array_equal(unpack(data, 3, num_elements, k), index_NK)


@pytest.mark.parametrize(("num_elements", "k"), SIZES)
@pytest.mark.parametrize("edge", ["first", "last"])
def test_extreme_sets_round_trip(num_elements: int, k: int, edge: str) -> None:
    start = 0 if edge == "first" else num_elements - k
    index_NK = np.arange(start, start + k)[None]
    data = pack(index_NK, num_elements)
    assert np.array_equal(unpack(data, 1, num_elements, k), index_NK)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_sections_are_those_of_the_definition(data: st.DataObject) -> None:
    num_elements = data.draw(st.integers(1, 600))
    chosen = data.draw(st.sets(st.integers(0, num_elements - 1), min_size=1))
    indices = sorted(chosen)
    packed = pack(np.array([indices]), num_elements)
    assert packed == naive_section(indices, num_elements)
    assert unpack(packed, 1, num_elements, len(indices)).tolist() == [indices]


def test_64_of_4096_take_64_bytes() -> None:
    assert section_bytes(4096, 64) == (48, 16)
    assert len(pack(draw_indices(1, 4096, 64), 4096)) == 64


@pytest.mark.parametrize(("num_elements", "k"), [(n, k) for n, k in SIZES if 2 * k <= n])
def test_a_section_is_near_the_information_bound(num_elements: int, k: int) -> None:
    bound_bits = math.log2(math.comb(num_elements, k))
    num_bits = 8 * sum(section_bytes(num_elements, k))
    assert bound_bits <= num_bits <= bound_bits + 1.5 * k + 16


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_are_refused_or_are_a_valid_set(data: st.DataObject) -> None:
    num_elements, k = data.draw(st.sampled_from([(1, 1), (7, 3), (20, 9), (64, 1), (100, 5)]))
    size = 2 * sum(section_bytes(num_elements, k))
    raw = data.draw(st.binary(min_size=size, max_size=size))
    try:
        index_NK = unpack(raw, 2, num_elements, k)
    except Refused:
        return
    assert index_NK.shape == (2, k)
    assert ((index_NK >= 0) & (index_NK < num_elements)).all()
    assert (np.diff(index_NK, axis=1) > 0).all()
    assert pack(index_NK, num_elements) == raw


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x00\x00", WRONG_ONES),
        (b"\x00\xf0", WRONG_ONES),
        (b"\x10\xa8", LOW_PADDING),
        (b"\x00\xe0", NOT_ASCENDING),
        (b"\x00\x0e", TOO_LARGE),
    ],
    ids=["no ones", "one too many", "padding in the low parts", "duplicates", "too large"],
)
def test_what_no_encoder_writes_is_named(data: bytes, kind: int) -> None:
    """3 of 7 indices: one low bit each (3 + 5 padding), an upper map of 6 bits (+ 2 padding)."""
    assert section_bytes(7, 3) == (1, 1)
    with pytest.raises(Refused) as caught:
        unpack(data, 1, 7, 3)
    assert caught.value.kind == kind
