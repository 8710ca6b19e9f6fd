"""Repeating a neuron's step until the run ends: the one place with a broad `except`.

Whatever goes wrong in a window is logged with its traceback and tried again; after too
many failures in a row the process ends with an error, so that whoever supervises it sees.
"""

import logging
import time
from collections.abc import Callable

from template.errors import ConfigError, ConsensusError

log = logging.getLogger(__name__)

MAX_FAILURES = 20
MAX_PAUSE_S = 12.0


def supervise(
    step: Callable[[], bool],
    *,
    max_failures: int = MAX_FAILURES,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Call `step` until it returns False. Re-raises the last error after `max_failures` in a
    row, and at once what no repetition can mend: ConfigError and ConsensusError.
    """
    failures = 0
    while True:
        try:
            if not step():
                return
            failures = 0
        except (ConfigError, ConsensusError):
            raise
        except Exception:
            failures += 1
            log.exception("window failed, %d in a row", failures)
            if failures >= max_failures:
                raise
            sleep(min(0.25 * 2**failures, MAX_PAUSE_S))
