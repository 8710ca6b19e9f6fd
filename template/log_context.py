"""The window shown in log lines: set by a neuron's loop, read by the log's formatter."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_window: ContextVar[int | None] = ContextVar("window", default=None)


@contextmanager
def window_context(window: int) -> Iterator[None]:
    """Every line logged inside the block carries `window`.

    The window follows asyncio tasks and `asyncio.to_thread`; a bare thread or executor starts
    without a window unless it runs in a copy of the context (`contextvars.copy_context().run`).
    """
    token = _window.set(window)
    try:
        yield
    finally:
        _window.reset(token)


def current_window() -> int | None:
    """The window of the innermost `window_context`, or None outside of all blocks."""
    return _window.get()
