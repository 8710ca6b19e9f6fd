"""Waiting for something to become true, in tests with real processes."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], limit_s: float, every_s: float = 0.1) -> None:
    """Return once the condition holds; AssertionError if it never does within the limit."""
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, f"not within {limit_s} s"
        time.sleep(every_s)
