"""The checks of each role as data, and how they are made: in order, each with a deadline.

A check that fails stops none but those that need its result. A check that does not end in time is
given up and its thread is left behind: the process ends without waiting for the thread, which an
executor's threads would not allow.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Final

from template.doctor.findings import FAIL, OK, SKIPPED, WARN, Finding, bad, left_out
from template.errors import SubnetError

log = logging.getLogger(__name__)

RUN_SPEC: Final = "run spec"
WALLET: Final = "wallet"
CHAIN: Final = "chain"
CLOCK: Final = "clock"
SUBNET: Final = "subnet"
REGISTRATION: Final = "registration"
BALANCE: Final = "balance"
VERSION: Final = "version"
WEIGHTS: Final = "weights"
OFFER: Final = "offer"
BUCKET_KEYS: Final = "bucket keys"
BUCKET_CLOSED: Final = "bucket closed"
LINE: Final = "line"
OBJECTS: Final = "run objects"
STATE_FOLDER: Final = "state folder"
DISK: Final = "disk"
MEMORY: Final = "memory"
ACCELERATOR: Final = "accelerator"
CODEC: Final = "codec"
INNER_STEP: Final = "inner step"

TOTAL_LIMIT_S: Final = 420.0
"""Longest time of all checks together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A check of a role. `needs`: names of checks whose result it uses. `limit_s`: its deadline."""

    name: str
    needs: tuple[str, ...] = ()
    limit_s: float = 30.0


_SPEC = Check(name=RUN_SPEC, limit_s=10.0)
_WALLET = Check(name=WALLET, limit_s=10.0)
_CHAIN = Check(name=CHAIN, limit_s=60.0)
_ON_CHAIN = (
    Check(name=CLOCK, needs=(CHAIN,)),
    Check(name=SUBNET, needs=(CHAIN,)),
    Check(name=REGISTRATION, needs=(SUBNET, WALLET)),
    Check(name=BALANCE, needs=(SUBNET, WALLET)),
    Check(name=VERSION, needs=(SUBNET,)),
    Check(name=WEIGHTS, needs=(SUBNET,)),
    Check(name=OFFER, needs=(SUBNET, RUN_SPEC)),
)
_IN_BUCKET = (
    Check(name=BUCKET_KEYS, needs=(WALLET,), limit_s=60.0),
    Check(name=BUCKET_CLOSED, needs=(BUCKET_KEYS,), limit_s=30.0),
    Check(name=LINE, needs=(BUCKET_KEYS, RUN_SPEC, CHAIN), limit_s=90.0),
    Check(name=OBJECTS, needs=(SUBNET, RUN_SPEC), limit_s=120.0),
)
_HERE = (
    Check(name=STATE_FOLDER),
    Check(name=DISK, needs=(STATE_FOLDER, RUN_SPEC)),
    Check(name=ACCELERATOR, limit_s=60.0),
    Check(name=MEMORY, needs=(RUN_SPEC, ACCELERATOR)),
    Check(name=CODEC, limit_s=120.0),
)
_STEP = Check(name=INNER_STEP, needs=(RUN_SPEC, ACCELERATOR, MEMORY), limit_s=180.0)

CHECKS: Final[Mapping[str, tuple[Check, ...]]] = {
    "miner": (_SPEC, _WALLET, _CHAIN, *_ON_CHAIN, *_IN_BUCKET, *_HERE, _STEP),
    "validator": (_SPEC, _WALLET, _CHAIN, *_ON_CHAIN, *_IN_BUCKET, *_HERE),
    "owner": (_SPEC, _WALLET, _CHAIN, *_ON_CHAIN, *_IN_BUCKET),
}
"""Role -> the checks, in an order in which every check comes after those that it needs."""


def examine(
    checks: Sequence[Check],
    make: Mapping[str, Callable[[], Finding]],
    *,
    without: Collection[str] = (),
    total_s: float = TOTAL_LIMIT_S,
    now_s: Callable[[], float] = time.monotonic,
) -> Iterator[Finding]:
    """Make the checks in order; the findings as they come.

    `make`: name -> the check, on a thread of its own; a SubnetError is a failed check. `without`:
    names of checks to leave out. KeyError for a check without a function.
    """
    end_s = now_s() + total_s
    states: dict[str, str] = {}
    for check in checks:
        missing = [need for need in check.needs if states.get(need) not in (OK, WARN)]
        if check.name in without:
            found = left_out(check.name, "left out (--without)")
        elif missing:
            found = left_out(check.name, f"not possible without: {', '.join(missing)}")
        elif now_s() >= end_s:
            found = left_out(check.name, f"no time left of {total_s:.0f} s for all checks")
        else:
            limit_s = min(check.limit_s, end_s - now_s())
            found = _made(check.name, make[check.name], limit_s, now_s)
        states[check.name] = found.state if found.state != SKIPPED else FAIL
        yield found


def _made(
    name: str, ask: Callable[[], Finding], limit_s: float, now_s: Callable[[], float]
) -> Finding:
    started_s = now_s()
    future: Future[Finding] = Future()
    context = copy_context()
    threading.Thread(
        target=context.run, args=(_answer, ask, future), name=f"check {name}", daemon=True
    ).start()
    try:
        error = future.exception(timeout=limit_s)
        found = future.result() if error is None else _failed(name, error)
    except TimeoutError:
        found = bad(
            name,
            f"no answer within {limit_s:.0f} s, and the check was given up: look at what this "
            "machine waits for (its network, its disk, its device), and start again",
        )
    return replace(found, took_s=now_s() - started_s)


def _answer(ask: Callable[[], Finding], future: Future[Finding]) -> None:
    """Make the check; its finding, or what it raised, goes to whoever waits."""
    try:
        future.set_result(ask())
    except BaseException as error:  # noqa: BLE001 - told by `_failed`, and Ctrl-C is the main thread's
        future.set_exception(error)


def _failed(name: str, error: BaseException) -> Finding:
    if isinstance(error, SubnetError):
        return bad(name, str(error))
    log.debug("check %s", name, exc_info=error)
    return bad(
        name,
        f"the check itself failed ({type(error).__name__}): a fault of the doctor; report it with "
        "the archive that --bundle writes",
    )
