"""The values of a verdict log, read from a stranger's JSON: each with a type and bounds.

A log within these bounds overflows no later computation, and every text in it can be printed. The
bounds admit every figure that an honest validator can measure.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from evaluation.work import MOST_SHOWN, QUARTERS, Floats, Ints

MAX_UID = 65_535
MAX_WINDOW = 2**32 - 1
MAX_PAGES = 2**32 - 1
"""A payload's header counts pages and windows in 32 bits."""
MAX_WIDTH = MAX_PARTS = 2**16 - 1
MIN_SHARE = 1e-12
"""Of a model's parameters: below one parameter of the largest model."""
MAX_PAGE_ID = 2**53
MAX_LOSS = 1e39
"""Nats per token; beyond every float32."""
MAX_GAIN = 2 * MAX_LOSS
MAX_RELATIVE_GAIN = 17.0
"""Bound of a gain over the root mean square of at most 256 gains: sqrt(256), and rounding."""
MIN_VARIANCE, MAX_VARIANCE = 1e-9, 1e150
MAX_SQUARE = MOST_SHOWN * MOST_SHOWN
MAX_LOG_RATIO = 1000.0
"""Beyond the logarithm of every double: the bound of a sequential test at any error."""
MAX_RATING = 1e6
MAX_EXPONENT = 64
"""Of alpha; the run's own bound."""
MAX_DETAIL_CHARS = 300
MAX_NUMBER_CHARS = 40
MAX_FAULT_CHARS = 240

MALFORMED = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip
"""Exceptions from a stranger's values: wrong type or form, too large, nested too deep."""

_HOTKEY = re.compile(r"[!-~]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_STATUS = re.compile(r"[a-z_]{1,32}")
_DETAIL = re.compile(rf"[ -~]{{0,{MAX_DETAIL_CHARS}}}")


def parse_row(line: str) -> Any:
    """A line of JSON with finite numbers of at most `MAX_NUMBER_CHARS` characters."""
    return json.loads(line, parse_int=_parse_int, parse_constant=_refuse_constant)


def _parse_int(text: str) -> int:
    if len(text) > MAX_NUMBER_CHARS:
        raise ValueError(f"a number of {len(text)} characters")
    return int(text)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")


def fault(error: Exception) -> str:
    """The kind and the text of an error in printable ASCII, cut to `MAX_FAULT_CHARS`."""
    text = str(error)
    return f"{type(error).__name__}: {ascii(text[:MAX_FAULT_CHARS])[1:-1][:MAX_FAULT_CHARS]}"


def whole(value: object, name: str, most: int, least: int = 0) -> int:
    """An integer in [least, most]; ValueError otherwise."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is no integer in [{least}, {most}]")
    return value


def real(value: object, name: str, most: float, least: float) -> float:
    """A number in [least, most]; ValueError otherwise."""
    if type(value) is not float and type(value) is not int:
        raise ValueError(f"{name} is no number")
    if not least <= value <= most:
        raise ValueError(f"{name} is no number in [{least}, {most}]")
    return float(value)


def maybe(
    value: object, name: str, most: float, least: float, read: Callable[..., Any] = real
) -> Any:
    """None, or a number in [least, most]."""
    return None if value is None else read(value, name, most, least)


def text_like(pattern: re.Pattern[str], value: object, name: str) -> str:
    """A text of a pattern; ValueError otherwise."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{name} is no text of the form {pattern.pattern}")
    return value


def hotkey_of(value: object) -> str:
    """A hotkey: printable and short. The chain says whether the hotkey exists."""
    return text_like(_HOTKEY, value, "hotkey")


def digest_of(value: object, name: str) -> str:
    """64 lower-case hexadecimal digits."""
    return text_like(_DIGEST, value, name)


def uids_of(values: Iterable[object], name: str) -> tuple[int, ...]:
    """Distinct uids in ascending order."""
    uids = tuple(whole(value, name, MAX_UID) for value in values)
    if list(uids) != sorted(set(uids)):
        raise ValueError(f"{name}: not in ascending order")
    return uids


def status_of(value: object) -> str:
    """A word of lower-case letters and underscores."""
    return text_like(_STATUS, value, "status")


def detail_of(value: object) -> str:
    """Printable ASCII of at most `MAX_DETAIL_CHARS` characters."""
    return text_like(_DETAIL, value, "detail")


def flag(value: object, name: str) -> bool:
    """True or false; ValueError otherwise."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is neither true nor false")
    return value


def whole_numbers(values: Iterable[object], name: str, most: int, least: int = 0) -> Ints:
    """int64 [N], each in [least, most]."""
    return np.array([whole(value, name, most, least) for value in values], dtype=np.int64)


def losses(values: Iterable[object]) -> Floats:
    """float64 [N]; null is a loss without a finite value, and becomes infinity."""
    listed = list(values)
    if not all(value is None or type(value) is float for value in listed):
        raise ValueError("a loss is no number")
    read = np.array([math.inf if value is None else value for value in listed], dtype=np.float64)
    if np.abs(read[np.isfinite(read)]).max(initial=0.0) > MAX_LOSS:
        raise ValueError(f"a loss exceeds {MAX_LOSS}")
    return read


def quarters(values: Iterable[Iterable[object]]) -> Floats:
    """float64 [N, QUARTERS], from N lists; see `losses`."""
    rows = [losses(row) for row in values]
    if not all(row.size == QUARTERS for row in rows):
        raise ValueError(f"losses that are not of {QUARTERS} quarters")
    return np.stack(rows) if rows else np.empty((0, QUARTERS))


def table(value: object, name: str) -> Mapping[str, Any]:
    """A JSON object; ValueError otherwise."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no JSON object")
    return value
