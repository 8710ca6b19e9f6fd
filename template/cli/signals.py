"""Stop signals: the first signal unwinds the process, the second ends the process at once.

State is written completely or not at all, so an end at any moment loses no saved state.
"""

import os
import signal
import sys
from types import FrameType
from typing import Final, NoReturn

from template.errors import EXIT_INTERRUPTED

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def leave_on_signals() -> None:
    """From now on a signal ends the process at once and quietly, even during imports."""
    for number in STOP_SIGNALS:
        signal.signal(number, _leave)


def unwind_on_signals() -> None:
    """From now on the first signal raises KeyboardInterrupt, and the second ends the process."""
    for number in STOP_SIGNALS:
        signal.signal(number, _unwind)


def _unwind(_number: int, _frame: FrameType | None) -> NoReturn:
    leave_on_signals()
    raise KeyboardInterrupt


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)
