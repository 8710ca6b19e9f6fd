"""Logging of a neuron: a line per event, with role, hotkey and window.

Owns the format, the levels and the file; commands alone call `setup_logging`. Modules log through
`logging.getLogger(__name__)`; the loops set the window with `template.log_context`.
"""

import logging
import logging.handlers
import sys
import time
from pathlib import Path
from typing import Final, Literal

from template.cli.terminal import LineFormatter, complain
from template.errors import ConfigError
from template.files import reason, remedy
from template.log_context import current_window

Level = Literal["info", "debug", "trace"]

OWN_LOGGERS: Final = ("template", "compression", "evaluation", "neurons", "__main__")
TRACED_LIBRARIES: Final = ("bittensor", "websockets.client")
"""Raised to debug by "trace". Not botocore: debug lines of botocore show signed requests."""
FRAME_LOGGER: Final = "bittensor.transport.raw_websocket"
"""Never raised: debug lines show whole chain answers with the buckets' read keys."""
ANSWER_LOGGERS: Final = ("urllib3.connection", "urllib3.connectionpool")
"""Errors only: their warnings quote the bytes of a bucket's answer, with a traceback for each, and
tell of connections closed for want of room, which nobody has to mend."""

LOG_FILE_MAX_BYTES: Final = 20_000_000
NUM_OLD_LOG_FILES: Final = 4
SHORT_HOTKEY_CHARS: Final = 8
LINE_FORMAT: Final = (
    "%(asctime)s %(levelname)-7s %(role)s %(hotkey)s %(window)s %(name)s: %(message)s"
)


def setup_logging(level: Level, directory: Path | None, *, role: str, hotkey: str) -> None:
    """Send the log to standard error, and to `role`.log in `directory` if given.

    `hotkey`: the SS58 address; each line shows the first 8 characters. Libraries log warnings only,
    unless the level is "trace". A second call replaces the first set-up. Raises ConfigError if the
    file cannot be opened.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if directory is not None:
        handlers.append(_file_handler(directory, role))
    who = _WhoFilter(role, hotkey[:SHORT_HOTKEY_CHARS])
    for handler in handlers:
        handler.setFormatter(_UtcFormatter(LINE_FORMAT))
        handler.addFilter(who)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO if level == "info" else logging.DEBUG)
    for name in TRACED_LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "trace" else logging.NOTSET)
    logging.getLogger(FRAME_LOGGER).setLevel(logging.WARNING)
    _hush_answers()
    logging.captureWarnings(True)


def setup_warnings(line_format: str = "%(levelname)s: %(message)s") -> None:
    """Send warnings alone to standard error, for a command that reports on standard output."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(line_format))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    _hush_answers()


def _hush_answers() -> None:
    for name in ANSWER_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def _file_handler(directory: Path, role: str) -> logging.Handler:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return _LogFile(
            directory / f"{role}.log",
            maxBytes=LOG_FILE_MAX_BYTES,
            backupCount=NUM_OLD_LOG_FILES,
            encoding="utf-8",
        )
    except OSError as error:
        raise ConfigError(
            f"--logging.logging_dir {directory}: cannot be written ({reason(error)}); "
            f"{remedy(directory, error)}. Or name a folder "
            "that can be written"
        ) from error


class _LogFile(logging.handlers.RotatingFileHandler):
    """Reports a full disk once on standard error, instead of a traceback per line."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            complain(
                f"--logging.logging_dir: {self.baseFilename} cannot be written "
                f"({reason(error)}); {remedy(Path(self.baseFilename), error)}"
            )


class _WhoFilter(logging.Filter):
    """Adds role, hotkey and window to every record."""

    def __init__(self, role: str, hotkey: str) -> None:
        super().__init__()
        self._role = role
        self._hotkey = hotkey

    def filter(self, record: logging.LogRecord) -> bool:
        window = current_window()
        record.role = self._role
        record.hotkey = self._hotkey
        record.window = "w-" if window is None else f"w{window}"
        return True


class _UtcFormatter(LineFormatter):
    """Times in UTC, to the millisecond."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"
