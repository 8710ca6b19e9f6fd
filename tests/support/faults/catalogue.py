"""The faults that an operator must have one clear answer to, by name.

A row of a table names those that it shows with `fault=`, a test of the running subnet with
`@shows`. `test_catalogue.py` holds both against this list: a fault without a row fails it.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., None])

SHOWS = "shows_fault"


class Named(StrEnum):
    """A fault, whatever it is planted with and whichever neuron meets it."""

    SPEC_UNKNOWN_KEY = "bad run spec: unknown key"
    SPEC_WRONG_TYPE = "bad run spec: wrong type"
    SPEC_OTHER_DIGEST = "bad run spec: other digest"
    WRONG_READ_CREDENTIALS = "wrong read credentials"
    WRONG_WRITE_CREDENTIALS = "wrong write credentials"
    BUCKET_MISSING = "bucket missing"
    BUCKET_NOT_WRITABLE = "bucket not writable"
    MISSING_WALLET = "missing wallet"
    LOCKED_WALLET = "locked wallet"
    UNREGISTERED = "unregistered hotkey"
    DEREGISTERED = "deregistered in mid-run"
    CHAIN_DOWN_AT_START = "chain down at the start"
    CHAIN_DOWN_IN_MID_RUN = "chain down in mid-run"
    SLOW_RPC = "RPC slow"
    SOCKET_DROPPED = "socket dropped"
    WEIGHTS_TOO_SOON = "weights too soon"
    NO_PERMIT = "not enough stake for a permit"
    COMMITMENT_TOO_LONG = "commitment too long"
    WRONG_SHARD = "dataset shard with a wrong digest"
    DISK_FULL = "disk full"
    CLOCK_OFF = "clock an hour off"


def shows(fault: Named) -> Callable[[Test], Test]:
    """Says which fault a test is about."""

    def mark(test: Test) -> Test:
        setattr(test, SHOWS, fault)
        return test

    return mark
