"""A command gives the process back as it found it: signal handlers, logging, environment.

A command's `main` sets log levels and signal handlers for the whole process. A caller that goes
on after `main` (a test, another command) gets back the state from before the call.
"""

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from template.cli.signals import STOP_SIGNALS, release_stop


@contextmanager
def restored_process_state() -> Iterator[None]:
    """Restore signal handlers, log handlers, log levels and environment variables at the end.

    Also a decorator, for the `main` of a command. Closes the log handlers added meanwhile. Only
    the main thread may enter, as only the main thread may set signal handlers.
    """
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    environment = dict(os.environ)
    with restored_logging():
        try:
            yield
        finally:
            release_stop()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.environ.clear()
            os.environ.update(environment)


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
