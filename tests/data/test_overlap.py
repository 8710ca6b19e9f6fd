"""Overlap against the naive definition, and its boundaries."""

import random

import pytest

from template.data.overlap import shingle_overlap


def _naive(text: bytes, reference: bytes, num_bytes: int) -> float:
    windows = [text[i : i + num_bytes] for i in range(len(text) - num_bytes + 1)]
    return sum(window in reference for window in windows) / len(windows)


@pytest.mark.parametrize("num_bytes", [1, 2, 3, 5])
def test_matches_naive_definition(num_bytes: int) -> None:
    rng = random.Random(7)
    text = bytes(rng.choices(b"\0ab\xff", k=200))
    reference = bytes(rng.choices(b"\0ab\xff", k=60))
    expected = _naive(text, reference, num_bytes)
    assert shingle_overlap(text, reference, num_bytes) == pytest.approx(expected, abs=1e-12)


def test_whole_part_and_none() -> None:
    text = bytes(range(100))
    assert shingle_overlap(text, b"x" + text + b"y") == 1
    assert shingle_overlap(text, text[:50]) == pytest.approx(11 / 61)
    assert shingle_overlap(text, text[::-1]) == 0
    assert shingle_overlap(text, b"short") == 0


def test_text_of_one_window_and_one_byte_less() -> None:
    assert shingle_overlap(b"a" * 40, b"a" * 40) == 1
    with pytest.raises(ValueError, match="39 bytes"):
        shingle_overlap(b"a" * 39, b"a" * 40)
