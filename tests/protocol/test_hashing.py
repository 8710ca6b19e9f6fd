"""Labelled hashes: injective in label and parts, and the documented bytes."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template.protocol.hashing import labelled_hash, uint_bytes

inputs = st.tuples(st.text("ab/", max_size=4), st.lists(st.binary(max_size=4), max_size=3))


def test_definition() -> None:
    expected = b"\x02" + bytes(7) + b"ab" + b"\x01" + bytes(7) + b"c" + bytes(8)
    assert labelled_hash("ab", b"c", b"") == hashlib.sha256(expected).digest()


@settings(deadline=None)
@given(inputs, inputs)
def test_different_inputs_have_different_hashes(
    one: tuple[str, list[bytes]], other: tuple[str, list[bytes]]
) -> None:
    same = labelled_hash(one[0], *one[1]) == labelled_hash(other[0], *other[1])
    assert same == (one == other)


def test_moving_a_byte_between_parts_changes_the_hash() -> None:
    variants = {
        labelled_hash("a", b"bc", b"d"),
        labelled_hash("a", b"b", b"cd"),
        labelled_hash("a", b"bcd"),
        labelled_hash("a", b"bcd", b""),
        labelled_hash("ab", b"c", b"d"),
    }
    assert len(variants) == 5


def test_uint_bytes() -> None:
    assert uint_bytes(0) == bytes(8)
    assert uint_bytes(258) == b"\x02\x01" + bytes(6)
    assert uint_bytes(2**64 - 1) == b"\xff" * 8
    for value in (-1, 2**64):
        with pytest.raises(ValueError, match="64 unsigned bits"):
            uint_bytes(value)
