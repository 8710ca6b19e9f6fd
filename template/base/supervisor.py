"""Repeating a neuron's step until the run ends: the only place with a broad `except`.

A passing fault (a bucket, a write to the chain) is logged in a line, retried, and logged again
when over; an unforeseen failure is logged with a traceback. After too long, or too many failures
in a row, the process ends with an error, visible to a service manager.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from template.errors import ChainError, ConfigError, RankLost, SpecChanged, StateError, SubnetError

log = logging.getLogger(__name__)

MAX_FAILURES: Final = 20
"""Unforeseen failures in a row before the process ends; passing faults have `GIVE_UP_S`."""
GIVE_UP_S: Final = 1800.0
"""Longest wait for the chain, the own bucket, or a shard missing at every mirror."""
MAX_PAUSE_S: Final = 12.0


class Crashed(SubnetError):
    """A step failed too often for an unforeseen reason; the log has the tracebacks."""


def supervise(
    step: Callable[[], bool],
    *,
    max_failures: int = MAX_FAILURES,
    give_up_s: float = GIVE_UP_S,
    sleep: Callable[[float], None] = time.sleep,
    now_s: Callable[[], float] = time.monotonic,
) -> None:
    """Call `step` until it returns False.

    An error beyond repetition is raised at once: a wrong configuration, a full disk, a chain
    gone for good. Other errors of this project are raised after `give_up_s`; `max_failures`
    unforeseen failures in a row become `Crashed`.
    """
    outage = _Outage(give_up_s, now_s)
    failures = 0
    while True:
        try:
            if not step():
                return
            outage.is_over()
            failures = 0
        except SubnetError as error:
            if _is_final(error) or outage.lasts_too_long(error):
                error.is_given_up = True
                raise
            sleep(_pause_s(outage.tries))
        except Exception as error:
            failures += 1
            log.exception("window failed, %d in a row", failures)
            if failures >= max_failures:
                crash = Crashed(f"gave up after {failures} failures in a row: {error!r}")
                crash.is_given_up = True
                raise crash from error
            sleep(_pause_s(failures))


def supervise_to_error(
    step: Callable[[], bool], sleep: Callable[[float], None]
) -> Exception | None:
    """As `supervise`, for a thread beside the main one: the error that ends it, or None."""
    try:
        supervise(step, sleep=sleep)
    except Exception as error:  # noqa: BLE001  raised again in the main thread
        return error
    return None


def _pause_s(tries: int) -> float:
    return min(0.25 * 2.0 ** min(tries, 10), MAX_PAUSE_S)


def _is_final(error: SubnetError) -> bool:
    if error.is_given_up:
        return True
    if isinstance(error, ChainError):
        return error.is_final
    return isinstance(error, (ConfigError, StateError, RankLost, SpecChanged))


class _Outage:
    """The failures since the last good step, and the logged kind of failure."""

    def __init__(self, give_up_s: float, now_s: Callable[[], float]) -> None:
        self._give_up_s = give_up_s
        self._now_s = now_s
        self._since_s: float | None = None
        self._told: type[SubnetError] | None = None
        self.tries = 0

    def lasts_too_long(self, error: SubnetError) -> bool:
        """Count a failure; the first of a kind is a warning, repetitions are debug lines."""
        self.tries += 1
        if self._since_s is None:
            self._since_s = self._now_s()
        if self._now_s() - self._since_s >= self._give_up_s:
            log.error("gave up after %.0f minutes of errors", self._give_up_s / 60)
            return True
        is_new, self._told = type(error) is not self._told, type(error)
        log.log(
            logging.WARNING if is_new else logging.DEBUG,
            "%s; retrying for up to %.0f minutes",
            error,
            self._give_up_s / 60,
        )
        return False

    def is_over(self) -> None:
        if self._since_s is not None:
            log.warning("recovered after %.0f s of errors", self._now_s() - self._since_s)
        self._since_s, self._told, self.tries = None, None, 0
