"""The only door of text to the terminal and the log: whatever is written is shown, never obeyed.

Messages quote strangers: verdict logs, records, manifests, run specs, answers of buckets and of the
chain. Escaped here, at the last step, no caller can forget: no control or invisible character
reaches a terminal, no line is forged, and no text is longer than its bound. Not the place of
quotation marks and types: `template.protocol.strangers` quotes a single value.
"""

import hashlib
import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from getpass import getpass
from types import TracebackType
from typing import Any, Final, NoReturn, TextIO

MAX_LINE_CHARS: Final = 4000
"""Longest text of a line before escapes: two lists of 256 uids have 2,600 characters."""
MAX_TRACEBACK_LINES: Final = 200
CONTINUED: Final = "| "
"""Before each line of a traceback: such a line is never taken for a line of the log."""
EXIT_NO_READER: Final = 141
"""128 and the number of SIGPIPE: what shells know of a command whose reader has gone."""
_DIGEST_CHARS: Final = 8

_INVISIBLE: Final = frozenset(
    {
        0x034F,
        0x115F,
        0x1160,
        0x17B4,
        0x17B5,
        0x3164,
        0xFFA0,
        *range(0x180B, 0x1810),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    }
)
"""Letters and marks without a shape, which Python calls printable."""
_ESCAPE_LIKE: Final = re.compile(r"<(?=U\+)")


def one_line(text: str, limit: int = MAX_LINE_CHARS) -> str:
    """A text as one printable line; different texts stay different.

    A character that a terminal obeys or hides becomes `<U+001B>`, and the same letters in the text
    itself `<U+003C>U+001B>`. Beyond `limit` characters length and digest stand for the rest.
    """
    rest = len(text) - limit
    if rest <= 0:
        return _escaped(text)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]
    return f"{_escaped(text[:limit])}<U+2026> ({rest} more characters, SHA-256 {digest})"


def _escaped(text: str) -> str:
    text = _ESCAPE_LIKE.sub("<U+003C>", text)
    if text.isprintable() and text.isascii():
        return text
    return "".join(map(_escaped_char, text))


def _escaped_char(char: str) -> str:
    is_seen = char.isprintable() and ord(char) not in _INVISIBLE
    return char if is_seen else f"<U+{ord(char):04X}>"


def say(line: str) -> None:
    """Write a line to standard output."""
    _write(sys.stdout, one_line(line))


def say_piece(text: str) -> None:
    """Write a piece of a model's text to standard output; line feeds and tabs stay as they are."""
    pieces = re.split(r"([\n\t])", text)
    _write(sys.stdout, "".join(p if p in "\n\t" else _escaped(p) for p in pieces), end="")


def say_lines(text: str) -> None:
    """Write a text of this project's own lines; a value quoted in it must have none of its own."""
    for line in text.removesuffix("\n").split("\n"):
        say(line)


def complain(line: str) -> None:
    """Write a line to standard error."""
    _write(sys.stderr, one_line(line))


def ask_person(name: str, question: str) -> str:
    """The answer of a person at the terminal; a secret's letters are not shown while typed."""
    prompt = one_line(f"{name} ({question}): ")
    try:
        return getpass(prompt) if "KEY" in name or "SECRET" in name else input(prompt)
    except EOFError:
        return ""


def say_json(value: object) -> None:
    """Write a value to standard output as a line of JSON, in full and in printable ASCII."""
    # DEL is the only control character that JSON leaves as it is.
    _write(sys.stdout, json.dumps(value).replace("\x7f", "\\u007f"))


def _write(stream: TextIO, line: str, end: str = "\n") -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    # A terminal of another encoding refuses a letter, and a report must not end there.
    text = line.encode(encoding, "backslashreplace").decode(encoding) + end
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _leave_without_reader(stream)


def _leave_without_reader(stream: TextIO) -> NoReturn:
    """End as a process of Unix does whose reader, `head` perhaps, has read enough."""
    with suppress(OSError, ValueError):  # else the interpreter's last flush fails in its turn
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise SystemExit(EXIT_NO_READER)


class LineFormatter(logging.Formatter):
    """Escapes a record to one line, and a traceback to lines that nobody takes for records."""

    def format(self, record: logging.LogRecord) -> str:
        # A handler of a library may have formatted the traceback before, and left it there.
        own = logging.makeLogRecord(record.__dict__)
        own.exc_text = None
        return super().format(own)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return _continued(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _continued(stack_info)


def _continued(text: str) -> str:
    lines = text.rstrip("\n").split("\n")
    if len(lines) > MAX_TRACEBACK_LINES:
        half = MAX_TRACEBACK_LINES // 2
        left_out = f"({len(lines) - 2 * half} lines left out)"
        lines = [*lines[:half], left_out, *lines[-half:]]
    return "\n".join(CONTINUED + one_line(line) for line in lines)


@contextmanager
def escaped_faults() -> Iterator[None]:
    """Uncaught exceptions, and warnings of libraries without a log, are escaped too."""
    last, hook, thread_hook = logging.lastResort, sys.excepthook, threading.excepthook
    guard_faults()
    try:
        yield
    finally:
        logging.lastResort, sys.excepthook, threading.excepthook = last, hook, thread_hook


def guard_faults() -> None:
    """As `escaped_faults`, for a process that ends with its command."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(LineFormatter("%(levelname)s: %(message)s"))
    logging.lastResort = handler
    sys.excepthook = _print_uncaught
    threading.excepthook = _print_uncaught_of_thread


def _print_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr.write(_continued("".join(traceback.format_exception(kind, error, trace))) + "\n")


def _print_uncaught_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        _print_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
