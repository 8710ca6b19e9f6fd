"""Stop signals: the first signal unwinds the process, the second ends the process at once.

State is written completely or not at all, so an end at any moment loses no saved state: a process
that has not unwound in time is ended, whatever a bucket or a library does.
"""

import logging
import os
import signal
import sys
from contextlib import suppress
from threading import Timer
from types import FrameType
from typing import Final, NoReturn

from template.errors import EXIT_INTERRUPTED

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
STOP_LIMIT_S: Final = 8.0
"""Longest time from the first signal to the end of a neuron: containers kill after 10 s."""

_running: list[Timer] = []
"""The bound of the stop under way, if any."""


def leave_on_signals() -> None:
    """From now on a signal ends the process at once and quietly, even during imports."""
    for number in STOP_SIGNALS:
        signal.signal(number, _leave)


def unwind_on_signals(*, limit_s: float | None = None) -> None:
    """From now on the first signal raises KeyboardInterrupt, and the second ends the process.

    With `limit_s`, the process ends so many seconds after the first signal at the latest.
    """

    def unwind(_number: int, _frame: FrameType | None) -> NoReturn:
        leave_on_signals()
        if limit_s is not None:
            _bound_stop(limit_s)
        raise KeyboardInterrupt

    for number in STOP_SIGNALS:
        signal.signal(number, unwind)


def release_stop() -> None:
    """A caller goes on after a command that was stopped: the stop's bound no longer holds."""
    while _running:
        _running.pop().cancel()


def end_process(status: int) -> NoReturn:
    """End with a status at once: without waiting for threads that ask buckets, or for a library.

    The interpreter would wait for every request under way, and for exit handlers of libraries.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _bound_stop(limit_s: float) -> None:
    timer = Timer(limit_s, os._exit, (EXIT_INTERRUPTED,))
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError:
        # No thread is left on this machine, so nothing could end an unwinding that hangs.
        os._exit(EXIT_INTERRUPTED)
    _running.append(timer)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)
