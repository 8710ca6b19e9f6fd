"""Constraints on single fields of the run spec, and the check of a table's fields.

A table declares a field as `Annotated[type, constraint, ...]`. A constraint describes the allowed
values in words, for error messages and docs/run_spec.md, and finds the fault of a value.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Protocol, get_args, get_origin, get_type_hints

from template.errors import ConfigError
from template.protocol.ss58 import public_key
from template.protocol.strangers import quoted

MAX_NAME_CHARS = 128
MAX_HOTKEYS = 256


class Constraint(Protocol):
    """The allowed values of one field."""

    @property
    def allowed(self) -> str:
        """The allowed values in words, to follow "must be"."""

    def fault(self, value: Any) -> str:
        """The end of the sentence "<table>.<key>: ..." for a bad value; "" for a good one."""


class Range:
    """A number within limits; `ge` and `le` belong to the range, `gt` and `lt` lie outside.

    NaN is refused by every limit. `because` is a reason, added to the error message.
    """

    def __init__(
        self,
        *,
        ge: float | None = None,
        gt: float | None = None,
        le: float | None = None,
        lt: float | None = None,
        because: str = "",
    ) -> None:
        self._ge, self._gt, self._le, self._lt = ge, gt, le, lt
        self._because = because

    @property
    def allowed(self) -> str:
        low = self._gt if self._ge is None else self._ge
        high = self._lt if self._le is None else self._le
        if high is None:
            return f"above {low}" if self._ge is None else f"{low} or more"
        left, right = "(" if self._ge is None else "[", ")" if self._le is None else "]"
        return f"in {left}{low}, {high}{right}"

    def fault(self, value: float) -> str:
        # Every comparison is written to be true for a good value, so that NaN fails.
        fits = (
            (self._ge is None or value >= self._ge)
            and (self._gt is None or value > self._gt)
            and (self._le is None or value <= self._le)
            and (self._lt is None or value < self._lt)
        )
        reason = f": {self._because}" if self._because else ""
        return "" if fits else f"is {quoted(value)}, must be {self.allowed}{reason}"


class Name:
    """A text for people: printable, and short."""

    allowed = f"at most {MAX_NAME_CHARS} printable characters"

    def fault(self, value: str) -> str:
        fits = len(value) <= MAX_NAME_CHARS and value.isprintable()
        return "" if fits else f"is {quoted(value)}, must be {self.allowed}"


class OneOf:
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self._words = words

    @property
    def allowed(self) -> str:
        return " or ".join(f'"{word}"' for word in self._words)

    def fault(self, value: str) -> str:
        return "" if value in self._words else f"is {quoted(value)}, must be {self.allowed}"


class Sha256:
    """A SHA-256 digest in hexadecimal."""

    allowed = "64 lower-case hexadecimal digits (a SHA-256)"

    def fault(self, value: str) -> str:
        return "" if re.fullmatch("[0-9a-f]{64}", value) else f"must be {self.allowed}"


class Hexadecimal:
    """So many bytes in hexadecimal."""

    def __init__(self, num_bytes: int) -> None:
        self._num_digits = 2 * num_bytes

    @property
    def allowed(self) -> str:
        return f"{self._num_digits} lower-case hexadecimal digits"

    def fault(self, value: str) -> str:
        fits = re.fullmatch(f"[0-9a-f]{{{self._num_digits}}}", value)
        return "" if fits else f"is {quoted(value)}, must be {self.allowed}"


class Version:
    """A version of the software."""

    allowed = "MAJOR.MINOR.PATCH, three decimal numbers below 1,000"

    def fault(self, value: str) -> str:
        fits = re.fullmatch(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){2}", value)
        return "" if fits else f"is {quoted(value)}, must be {self.allowed}"


class Hotkeys:
    """One or more hotkeys as SS58 addresses."""

    allowed = f"1 to {MAX_HOTKEYS} hotkeys as SS58 addresses"

    def fault(self, value: tuple[str, ...]) -> str:
        if not value:
            return "is empty, name at least one hotkey"
        if len(value) > MAX_HOTKEYS:
            return f"has {len(value)} entries, must be {self.allowed}"
        for hotkey in value:
            try:
                public_key(hotkey)
            except ValueError as error:
                return str(error)
        return ""


class Table:
    """Base of the tables of the run spec: a new instance checks each field by its declaration.

    `TABLE` is the name of the table in the TOML file, for error messages.
    """

    __slots__ = ()
    TABLE: ClassVar[str]

    def __post_init__(self) -> None:
        check_fields(self, f"{self.TABLE}.")


def check_fields(table: object, where: str) -> None:
    """ConfigError for the first field of a dataclass against its declaration.

    `where`: the prefix of keys in messages.
    """
    own: type = type(table)
    for key, constraints in declared_constraints(own).items():
        for constraint in constraints:
            fault = constraint.fault(getattr(table, key))
            require(not fault, f"{where}{key}", fault)


@cache
def declared_constraints(table: type) -> Mapping[str, tuple[Constraint, ...]]:
    """The constraints of every constrained field of a table, in the order of declaration."""
    hints = get_type_hints(table, include_extras=True)
    return {key: get_args(hint)[1:] for key, hint in hints.items() if get_origin(hint) is Annotated}


def require(ok: bool, field: str, remedy: str) -> None:
    """ConfigError that names `field` and the remedy, unless `ok`."""
    if not ok:
        raise ConfigError(f"run spec: {field}: {remedy}")
