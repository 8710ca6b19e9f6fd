"""The project's only retry loop: growing delays, named exceptions, a deadline.

Owns the times of the tries. The caller names the exception classes worth another try, and
receives the last failure exactly as raised.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

DELAY_GROWTH = 2.0
MAX_DELAY_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryClock:
    """The clock and the sleep of `retry`; tests pass their own."""

    now_s: Callable[[], float] = time.monotonic
    sleep_s: Callable[[float], None] = time.sleep


SYSTEM_CLOCK = RetryClock()


def retry(
    fn: Callable[[], T],
    *,
    on: tuple[type[Exception], ...],
    deadline_s: float,
    first_delay_s: float = 0.2,
    max_tries: int | None = None,
    clock: RetryClock = SYSTEM_CLOCK,
) -> T:
    """Call `fn` until success: an exception in `on` is followed by another try, others pass on.

    The delay doubles from `first_delay_s` up to `MAX_DELAY_S`. The last try starts at
    `deadline_s` after the call, so a deadline of 0 means a single try; a running try is never cut
    short. `max_tries` bounds the tries, however early they fail. Raises the exception of the last
    try, or ValueError for a negative deadline, a first delay outside (0, MAX_DELAY_S] or less than
    one try.
    """
    if not deadline_s >= 0 or not 0 < first_delay_s <= MAX_DELAY_S:
        raise ValueError(f"retry needs deadline_s >= 0 and 0 < first_delay_s <= {MAX_DELAY_S}")
    if max_tries is not None and max_tries < 1:
        raise ValueError("retry needs max_tries >= 1")
    end_s = clock.now_s() + deadline_s
    delay_s = first_delay_s
    for num_tries in itertools.count(1):
        try:
            return fn()
        except on:
            remaining_s = end_s - clock.now_s()
            if remaining_s <= 0 or num_tries == max_tries:
                raise
        clock.sleep_s(min(delay_s, remaining_s))
        delay_s = min(delay_s * DELAY_GROWTH, MAX_DELAY_S)
    raise AssertionError("the loop ends with an answer or an exception")
