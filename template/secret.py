"""A string hidden from logs, tracebacks and dumps.

Owns redaction only, without protection of memory: code with the object can reveal the value.
"""

import hmac
from typing import NoReturn

REDACTED = "<secret>"


class Secret:
    """A credential with a placeholder in place of the value in all text.

    `str`, `repr`, `format` and the `%` operator give the placeholder; pickling and copying to
    another process raise TypeError. No log line, traceback or dump can carry the value. Compares
    in constant time.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for signing requests and for publishing a read key."""
        return self._value

    def __repr__(self) -> str:
        return REDACTED

    def __format__(self, format_spec: str) -> str:
        return format(REDACTED, format_spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled: pass the revealed value by a private channel")
