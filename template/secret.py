"""A string that does not print itself.

Owns redaction only. It does not protect memory: whoever holds the object can reveal it.
"""

import hmac
from typing import NoReturn

REDACTED = "<secret>"


class Secret:
    """A credential that shows up redacted wherever text is made of it.

    `str`, `repr`, `format` and the `%` operator give a placeholder, and pickling and copying
    to another process are refused with a TypeError, so that neither a log line nor a traceback
    nor a dump can carry the value. Compares in constant time.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one place that signs with it."""
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
