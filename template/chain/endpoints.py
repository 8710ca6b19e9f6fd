"""The chain endpoints that an operator named: one in use, the others for when it fails. No SDK.

Owns which endpoint is in use, which were refused, and the lines that say so. The adapter asks the
endpoints and tells the outcome.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from template.chain.health import format_duration, redact_endpoint

logger = logging.getLogger(__name__)

FAILURES_UNTIL_NEXT: Final = 2
"""A socket that broke while idle is one failure; a second in a row is the endpoint's."""


class Endpoints:
    """The endpoints in the operator's order. Safe to share between threads.

    The endpoint in use stays in use until it fails in its turn, though an earlier one comes back.
    """

    def __init__(self, named: Sequence[str]) -> None:
        """Raises ValueError for an empty list."""
        if not named:
            raise ValueError("no chain endpoint was named")
        self._lock = threading.Lock()
        self._usable = list(dict.fromkeys(named))
        self._current = self._usable[0]
        self._genesis: str | None = None
        self._num_failures = 0
        self._left: tuple[str, str] | None = None

    @property
    def current(self) -> str:
        """The endpoint in use."""
        return self._current

    @property
    def others(self) -> tuple[str, ...]:
        """The endpoints not in use, in the order of their turns."""
        with self._lock:
            return self._turns()

    def is_same_chain(self, genesis: str) -> bool:
        """Whether an endpoint with this genesis hash serves the chain of the first answer."""
        with self._lock:
            self._genesis = self._genesis or genesis
            return self._genesis == genesis

    def refuse(self, endpoint: str) -> bool:
        """Use an endpoint of another chain no more; False if it is the only endpoint."""
        with self._lock:
            if endpoint not in self._usable:
                return True
            if len(self._usable) == 1:
                return False
            if endpoint == self._current:
                self._go_on(endpoint, "it serves another chain than before")
            self._usable.remove(endpoint)
        logger.error(
            "the chain endpoint %s serves another chain than the one in use (another genesis "
            "hash): it is not used; mend --subtensor.fallback_endpoints",
            redact_endpoint(endpoint),
        )
        return True

    def note_failure(self, endpoint: str, reason: str, *, is_silent: bool) -> None:
        """Record a call without an answer; `is_silent`: it took all the time that a call has."""
        with self._lock:
            if endpoint != self._current:
                return
            self._num_failures += 1
            if self._turns() and (is_silent or self._num_failures >= FAILURES_UNTIL_NEXT):
                self._go_on(endpoint, f"it does not answer: {reason}")

    def note_answer(self, endpoint: str) -> bool:
        """Record an answer; whether it is the first from an endpoint taken for another one."""
        with self._lock:
            if endpoint != self._current:
                return False
            self._num_failures = 0
            left, self._left = self._left, None
        if left is None or left[0] == endpoint:
            return False
        _tell_change(left[0], left[1], endpoint)
        return True

    def take(self, endpoint: str, why: str) -> None:
        """Use an endpoint that has answered instead of the current one."""
        with self._lock:
            left, self._current = self._current, endpoint
            self._num_failures, self._left = 0, None
        _tell_change(left, why, endpoint)

    def _turns(self) -> tuple[str, ...]:
        at = self._usable.index(self._current)
        return tuple(self._usable[at + 1 :] + self._usable[:at])

    def _go_on(self, left: str, why: str) -> None:
        # Told once the next one has answered: while none does, nothing has changed.
        self._left = self._left or (left, why)
        self._current, self._num_failures = self._turns()[0], 0


def _tell_change(left: str, why: str, taken: str) -> None:
    logger.warning(
        "the chain endpoint %s is used from now on instead of %s (%s)",
        redact_endpoint(taken),
        redact_endpoint(left),
        why,
    )


class Standstill:
    """Tells when a number that a live chain raises has stood for too long.

    Safe to share between threads.
    """

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self.start()

    def start(self) -> None:
        """Know nothing: another endpoint answers from now on."""
        with self._lock:
            self._value, self._since_s = -1, self._now_s()
            self._told_s = self._since_s

    def is_due(self, value: int, patience_s: Callable[[], float]) -> bool:
        """Whether the number has stood for `patience_s`; True once in as many seconds."""
        with self._lock:
            now_s = self._now_s()
            if value > self._value:
                self._value, self._since_s, self._told_s = value, now_s, now_s
                return False
        limit_s = patience_s()
        with self._lock:
            is_due = now_s - self._told_s >= limit_s
            if is_due:
                self._told_s = now_s
            return is_due

    def describe(self) -> str:
        """How long the number has stood."""
        return format_duration(self._now_s() - self._since_s)
