"""A command gives the process back as it found it: signal handlers, logging, environment, memory.

A command's `main` sets log levels and signal handlers for the whole process. A caller that goes
on after `main` (a test, another command) gets back the state from before the call.
"""

import ctypes
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from template.cli.signals import STOP_SIGNALS, release_stop

log = logging.getLogger(__name__)

PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4


def hide_memory() -> None:
    """From now on the keys in this process's memory reach no core file and no other process.

    No core file is written, not even through a crash reporter, and other processes of this user
    can neither trace this process nor read its memory and environment. On other systems than
    Linux core files alone are off.
    """
    _, most_bytes = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most_bytes))
    _set_dumpable(0)


def _dumpable() -> int:
    """Linux's flag: 1 for a process that may be dumped and traced, 0 for a hidden process."""
    return ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) if _is_linux() else 1


def _set_dumpable(flag: int) -> None:
    if _is_linux() and ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, flag, 0, 0, 0) != 0:
        log.warning("this process cannot be hidden from tracers of the same user (prctl refused)")


def _is_linux() -> bool:
    return sys.platform.startswith("linux")


@contextmanager
def restored_process_state() -> Iterator[None]:
    """Restore signals, log handlers and levels, environment and `hide_memory` at the end.

    Also a decorator, for the `main` of a command. Closes the log handlers added meanwhile. Only
    the main thread may enter, as only the main thread may set signal handlers.
    """
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    environment = dict(os.environ)
    core_bytes, dumpable = resource.getrlimit(resource.RLIMIT_CORE), _dumpable()
    with restored_logging():
        try:
            yield
        finally:
            release_stop()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.environ.clear()
            os.environ.update(environment)
            resource.setrlimit(resource.RLIMIT_CORE, core_bytes)
            if _dumpable() != dumpable:
                _set_dumpable(dumpable)


@contextmanager
def restored_logging() -> Iterator[None]:
    """Restore the root logger's handlers and the level of every logger at the end."""
    root, showwarning = logging.getLogger(), warnings.showwarning
    handlers, levels = root.handlers[:], _levels()
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        for name, logger in _loggers().items():
            logger.setLevel(levels.get(name, logging.NOTSET))
        if warnings.showwarning is not showwarning:
            logging.captureWarnings(False)


def _loggers() -> dict[str, logging.Logger]:
    known = logging.Logger.manager.loggerDict.copy()
    named = {name: log for name, log in known.items() if isinstance(log, logging.Logger)}
    return {"": logging.getLogger(), **named}


def _levels() -> dict[str, int]:
    return {name: logger.level for name, logger in _loggers().items()}
