"""The one retry loop of the project: growing delays, named exceptions, a deadline.

Owns when to try again and when to stop. It does not own which faults pass (the caller names
the exception classes) nor what the last failure becomes (it leaves exactly as raised).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

DELAY_GROWTH = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryClock:
    """How `retry` tells the time and waits; a test hands in its own."""

    now_s: Callable[[], float] = time.monotonic
    sleep_s: Callable[[float], None] = time.sleep


SYSTEM_CLOCK = RetryClock()


def retry(
    fn: Callable[[], T],
    *,
    on: tuple[type[Exception], ...],
    deadline_s: float,
    first_delay_s: float = 0.2,
    max_delay_s: float = 5.0,
    clock: RetryClock = SYSTEM_CLOCK,
) -> T:
    """Call `fn` until it returns; an exception in `on` earns another try, any other leaves at once.

    The delay doubles from `first_delay_s` up to `max_delay_s`. The last try starts at
    `deadline_s` after the call, so a deadline of 0 means one try; a try that is under way is
    never cut short. Raises the exception of the last try, or ValueError for a negative
    deadline, a first delay that is not positive or a maximum below it.
    """
    if not deadline_s >= 0 or not 0 < first_delay_s <= max_delay_s:
        raise ValueError("retry needs deadline_s >= 0 and 0 < first_delay_s <= max_delay_s")
    end_s = clock.now_s() + deadline_s
    delay_s = first_delay_s
    while True:
        try:
            return fn()
        except on:
            remaining_s = end_s - clock.now_s()
            if remaining_s <= 0:
                raise
        clock.sleep_s(min(delay_s, remaining_s))
        delay_s = min(delay_s * DELAY_GROWTH, max_delay_s)
