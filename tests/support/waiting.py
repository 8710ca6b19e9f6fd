"""Waiting for something to become true, in tests with real processes."""

import time
from collections.abc import Callable
from typing import Final

HANG_S: Final = 300.0
"""A wait of this length is a hang, on a machine of any load. Ends before pytest's own limit."""


def wait_until(
    condition: Callable[[], bool],
    every_s: float = 0.1,
    *,
    describe: Callable[[], str] = lambda: "the condition never became true",
) -> None:
    """Return once the condition holds; AssertionError with the description after `HANG_S`."""
    end_s = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < end_s, f"{describe()} ({HANG_S:.0f} s)"
        time.sleep(every_s)
