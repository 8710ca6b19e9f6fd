"""The door for strangers' bytes: JSON with limits, every fault as ObjectError, short quotations.

A parser of a stranger's object runs inside `refusing`, reads JSON by `parse_json`, checks values by
`whole`, `finite` and `text_of`, and quotes a value by `quoted` alone.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from template.errors import ObjectError, SubnetError

MAX_SHOWN_CHARS = 80
"""Maximum length of a stranger's text in a message."""
DIGEST_CHARS = 8
MAX_FAULT_CHARS = 240
"""Maximum length of another error's text in a message."""
MAX_NUMBER_CHARS = 40
"""Maximum length of a number in JSON: a 64-bit integer has 20 digits, a double 24 characters."""
MAX_SHOWN_BITS = 128

MALFORMED = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip
"""Exceptions from a stranger's values: wrong type or form, too large, nested too deep."""


def shown(text: str, limit: int = MAX_SHOWN_CHARS) -> str:
    """A stranger's text in printable ASCII, everything else and the backslash escaped.

    Different texts stay different: beyond `limit` characters a digest stands for the rest.
    """
    escaped = _escaped(text[:limit].replace("\\", "\\\\"))
    if len(text) <= limit and len(escaped) <= limit:
        return escaped
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{escaped[:limit]}...{digest[:DIGEST_CHARS]}"


def in_ascii(message: str, limit: int) -> str:
    """A message in printable ASCII, cut to `limit` characters. Values in it went through `shown`.

    No escape sequence reaches a terminal, and no line break forges a line of a log.
    """
    cut = _escaped(message[:limit])
    return cut if len(message) <= limit and len(cut) <= limit else cut[:limit] + "..."


def _escaped(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escaped_char, text))


def _escaped_char(char: str) -> str:
    return char if char.isascii() and char.isprintable() else ascii(char)[1:-1]


def quoted(value: object) -> str:
    """A stranger's value for a message: a text or a number, cut; of anything else the type."""
    if isinstance(value, str):
        return f"'{shown(value)}'"
    if isinstance(value, bytes):
        return quoted(value.decode("latin-1"))
    if isinstance(value, int) and not isinstance(value, bool):
        # Python refuses to write an integer of more than 4,300 digits.
        bits = value.bit_length()
        return str(value) if bits <= MAX_SHOWN_BITS else f"an integer of {bits} bits"
    if value is None or isinstance(value, bool | float):
        return str(value)
    return f"a value of type {type(value).__name__}"


def fault(error: BaseException) -> str:
    """The kind and the text of an error, cut and escaped."""
    text = in_ascii(str(error), MAX_FAULT_CHARS)
    return text if isinstance(error, SubnetError) else f"{type(error).__name__}: {text}"


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Every fault of a stranger's values as ObjectError. `what`: the object, for the message."""
    try:
        yield
    except MALFORMED as error:
        raise ObjectError(f"{what}: refused: {fault(error)}") from error


def parse_json(data: bytes | str, what: str, *, max_bytes: int | None = None) -> Any:
    """A stranger's JSON; ObjectError for anything else.

    UTF-8, finite numbers of at most `MAX_NUMBER_CHARS` characters. `what`: the object, for the
    message. Longer data than `max_bytes` is refused unread.
    """
    if max_bytes is not None and len(data) > max_bytes:
        raise ObjectError(f"{what}: refused: {len(data)} bytes, at most {max_bytes} allowed")
    with refusing(what):
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        return json.loads(
            text, parse_int=_parse_int, parse_float=_parse_float, parse_constant=_refuse_constant
        )


def _parse_int(text: str) -> int:
    _check_number_chars(text)
    return int(text)


def _parse_float(text: str) -> float:
    _check_number_chars(text)
    return finite(float(text), "a number")


def _check_number_chars(text: str) -> None:
    if len(text) > MAX_NUMBER_CHARS:
        raise ValueError(f"a number of {len(text)} characters")


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")


def whole(value: object, what: str, limit: int, least: int = 0) -> int:
    """An integer in [least, limit); ValueError otherwise, and TypeError for another type."""
    # bool is an int to Python, not to a reader of the object.
    if type(value) is not int:
        raise TypeError(f"{what} is {quoted(value)}, not an integer")
    if not least <= value < limit:
        raise ValueError(f"{what} is {quoted(value)}, must be in [{least}, {limit})")
    return value


def finite(value: object, what: str) -> float:
    """A finite number as a float; ValueError otherwise, and TypeError for another type."""
    if type(value) not in (int, float):
        raise TypeError(f"{what} is {quoted(value)}, not a number")
    number = float(value)  # type: ignore[arg-type]  # mypy does not narrow by `type(...) in`
    if not math.isfinite(number):
        raise ValueError(f"{what} is {number}, not a finite number")
    return number


def text_of(value: object, what: str) -> str:
    """A text; TypeError for another type."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is {quoted(value)}, not a text")
    return value
