"""The door for strangers' bytes: short printable quotations, and JSON within limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import log_values
from template.errors import ObjectError
from template.protocol import strangers
from template.protocol.strangers import (
    fault,
    finite,
    in_ascii,
    parse_json,
    quoted,
    refusing,
    shown,
    whole,
)


@given(st.text(), st.integers(1, 50))
def test_what_is_shown_is_short_and_printable(text: str, limit: int) -> None:
    found = shown(text, limit)
    assert len(found) <= limit + len("...") + strangers.DIGEST_CHARS
    assert found.isascii()
    assert found.isprintable()


@given(st.text("\\x1b\x1b.", max_size=12), st.text("\\x1b\x1b.", max_size=12), st.integers(1, 9))
def test_different_texts_are_shown_differently(text: str, other: str, limit: int) -> None:
    assert (shown(text, limit) == shown(other, limit)) == (text == other)
    assert (quoted(text.encode()) == quoted(other.encode())) == (text == other)


@given(st.text(), st.integers(1, 50))
def test_a_message_in_ascii_is_short_and_shown_values_stay_as_they_are(
    text: str, limit: int
) -> None:
    found = in_ascii(text, limit)
    assert len(found) <= limit + len("...")
    assert found.isascii()
    assert found.isprintable()
    assert in_ascii(shown(text), 1000) == shown(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        (r"\x1b", r"\\x1b"),
        ("", ""),
        ("a" * 80, "a" * 80),
        ("a" * 81, "a" * 80 + "...8c48280d"),
        ("\x1b[2Jx", r"\x1b[2Jx"),
        ("a\nb", r"a\nb"),
        ("\u202e\ud800", r"\u202e\ud800"),
    ],
)
def test_shown(text: str, expected: str) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "'text'"),
        (b"\xff", r"'\xff'"),
        (7, "7"),
        (-7, "-7"),
        (16**5000, "an integer of 20001 bits"),
        (1.5, "1.5"),
        (True, "True"),
        (None, "None"),
        ([[]] * 10**6, "a value of type list"),
        ({}, "a value of type dict"),
    ],
    ids=range(10),
)
def test_quoted(value: object, expected: str) -> None:
    assert quoted(value) == expected


def test_a_deep_value_is_quoted_without_descending() -> None:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    assert quoted(value) == "a value of type list"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", "{}".encode("utf-16"), b"[" * 100_000, b'{"a":' * 100_000, b"9" * 41,
        b"9" * 5000, b"[1" + b"0" * 400 + b"]", b"1e999", b"-1e999", b"1." + b"0" * 99, b"NaN",
        b"Infinity", b"-Infinity", b'{"a": 1', b"{} {}",
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_shortly(data: bytes) -> None:
    with pytest.raises(ObjectError, match="the object: refused: ") as caught:
        parse_json(data, "the object")
    assert len(str(caught.value)) < 300


def test_json_within_limits_is_read() -> None:
    data = b'{"a": [1, -2.5e-300, true, null, "x"], "b": 1' + b"0" * 39 + b"}"
    expected = {"a": [1, -2.5e-300, True, None, "x"], "b": 10**39}
    assert parse_json(data, "the object", max_bytes=len(data)) == expected
    with pytest.raises(ObjectError, match=f"{len(data)} bytes, at most {len(data) - 1} allowed"):
        parse_json(data, "the object", max_bytes=len(data) - 1)


@pytest.mark.parametrize("error", [*strangers.MALFORMED, OverflowError, KeyError, UnicodeError])
def test_every_fault_of_a_value_is_an_error_of_the_object(error: type[Exception]) -> None:
    def fail() -> None:
        with refusing("the object"):
            raise error("x" * 10_000)

    with pytest.raises(ObjectError, match="the object: refused: ") as caught:
        fail()
    assert len(str(caught.value)) < 400


def test_running_out_of_memory_is_not_the_objects_fault() -> None:
    with pytest.raises(MemoryError), refusing("the object"):
        raise MemoryError


@pytest.mark.parametrize("value", [-1, 10, True, 1.0, "1", None, [], 10**40])
def test_whole_numbers_out_of_range_or_of_another_type(value: object) -> None:
    with pytest.raises((ValueError, TypeError), match="the window is "):
        whole(value, "the window", 10)
    assert whole(9, "the window", 10) == 9


@pytest.mark.parametrize("value", [float("inf"), float("nan"), True, "1", None, []])
def test_numbers_that_are_not_finite_or_of_another_type(value: object) -> None:
    with pytest.raises((ValueError, TypeError), match="the norm is "):
        finite(value, "the norm")
    assert finite(3, "the norm") == 3.0


def test_the_door_of_verdict_logs_has_the_same_limits() -> None:
    """`evaluation` imports nothing of `template`, so the limits stand in both."""
    assert strangers.MALFORMED == log_values.MALFORMED
    assert strangers.MAX_NUMBER_CHARS == log_values.MAX_NUMBER_CHARS
    error = ValueError("\x1b[2J" + "x" * 1000)
    assert fault(error).removesuffix("...") == log_values.fault(error)
