"""Verdict logs: written to the state folder first, published in the validator's bucket after.

Where duels are part of the pay, a log is kept back until the weights that rest on it are old: a
validator that reads another's log must not have it in time to set the weights of one that scored.
The vote holds the log's digest from the start.
"""

import logging
import os
from itertools import islice
from pathlib import Path

from evaluation.log_values import MALFORMED, MAX_WINDOW, fault, parse_row, whole
from evaluation.verdict_log import (
    END_MARK,
    HEAD_MARK,
    LogError,
    WindowLog,
    decode_log,
    encode_log,
)
from template.bucket.budget import payload_windows
from template.context import NodeContext
from template.errors import StoreError, disk_trouble
from template.files import append_whole
from template.protocol.keys import verdict_key
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.scoring.rules import pay_rules, verdict_log_limit_bytes

log = logging.getLogger(__name__)

LOG_FILE = "verdicts.jsonl"
OLDER_LOG_FILE = "verdicts-older.jsonl"


def windows_kept(spec: RunSpec) -> int:
    """Windows whose logs stay on disk: as many as pay and audits look at, as in the bucket."""
    return pay_rules(spec).length + payload_windows(spec) + 1


def public_from(run: Run, window: int) -> int:
    """The window after whose vote the verdict log of `window` is published.

    With duels the pay window of the next period, whose weights are set by then; else `window`. It
    follows from the run as it is known now: a succession may move periods and the run's end.
    """
    if run.at(window).weights.duel_share == 0:
        return window
    last = max(window, run.num_windows - 1)
    later = (w for w in range(window, last) if run.at(w).schedule.pay_window(w) == w)
    return next(islice(later, 1, None), last)


def windows_secret(spec: RunSpec) -> int:
    """Maximum number of windows with a log that is not public yet, the newest included."""
    return 1 if spec.weights.duel_share == 0 else 2 * spec.schedule.period_windows


class LogPublisher:
    """Holds the verdict logs on disk and not yet in the bucket."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._file = LogFile(context.state_dir, context.run)
        self._unpublished = self._file.recover()

    def write(self, window_log: WindowLog) -> bytes:
        """Append the log to the file; returns the bytes. StateError if the disk is full."""
        data = encode_log(window_log).encode()
        self._file.append(window_log.window, data)
        # A log older than what pay looks at helps no auditor: give up on publishing it.
        run = self._context.run
        history_windows = run.at(window_log.window).weights.history_windows
        oldest = window_log.window - max(history_windows, *map(windows_secret, run))
        recent = {w: data for w, data in self._unpublished.items() if w > oldest}
        self._unpublished = recent | {window_log.window: data}
        return data

    def publish(self, voted: int) -> None:
        """Put the logs that are public once the votes on `voted` are out.

        The next call retries after the first failure.
        """
        run = self._context.run
        for window, data in sorted(self._unpublished.items()):
            if public_from(run, window) > voted:
                return
            try:
                self._context.bucket.put(verdict_key(run.run_id, window), data)
            except StoreError as error:
                log.warning("window %d: its verdict log is not in the bucket: %s", window, error)
                return
            del self._unpublished[window]


class LogFile:
    """The logs of the last `windows_kept` windows at least, and of twice as many at most.

    Two files: a full file becomes the older file in one rename, so a kill loses no log.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        self._path, self._older = folder / LOG_FILE, folder / OLDER_LOG_FILE
        self._run = run
        self._first: int | None = None

    @property
    def _num_kept(self) -> int:
        return max(map(windows_kept, self._run))

    @property
    def _num_secret(self) -> int:
        return max(map(windows_secret, self._run))

    @property
    def _limit_bytes(self) -> int:
        return max(map(verdict_log_limit_bytes, self._run))

    def recover(self) -> dict[int, bytes]:
        """window -> log, of the newest logs on disk: those not public yet, or not for certain.

        Reads the first line and one log more than that at most, and cuts off a log torn by a kill:
        the window of a torn log was not voted on, and is scored again.
        """
        num_bytes = (self._num_secret + 1) * self._limit_bytes
        try:
            found: dict[int, bytes] = {}
            if self._path.exists():
                tail = _read_tail(self._path, num_bytes)
                torn_bytes = len(tail) - _whole_end(tail)
                if torn_bytes:
                    log.warning("%s: cut off %d bytes of a torn log", self._path, torn_bytes)
                    os.truncate(self._path, self._path.stat().st_size - torn_bytes)
                self._first = self._first_window()
                found = _last_logs(tail[: len(tail) - torn_bytes], self._num_secret)
            if len(found) < self._num_secret:
                wanted = self._num_secret - len(found)
                found = _last_logs(_read_tail(self._older, num_bytes), wanted) | found
            return found
        except OSError as error:
            raise disk_trouble(self._path, error) from error

    def append(self, window: int, data: bytes) -> None:
        """Write a log at the end, whole or not at all. StateError if the disk is full."""
        try:
            if self._first is not None and window - self._first >= self._num_kept:
                self._path.replace(self._older)
                self._first = None
            append_whole(self._path, data)
        except OSError as error:
            raise disk_trouble(self._path, error) from error
        self._first = window if self._first is None else self._first

    def _first_window(self) -> int | None:
        """The window of the first log; None without a readable first line."""
        with self._path.open("rb") as file:
            line = file.readline(self._limit_bytes)
        try:
            return whole(parse_row(line.decode())["window"], "window", MAX_WINDOW) if line else None
        except MALFORMED as error:
            log.warning("%s: the first line is unreadable: %s", self._path, fault(error))
            return None


def _read_tail(path: Path, num_bytes: int) -> bytes:
    """The last `num_bytes` bytes of a file; b"" without a file."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - num_bytes))
        return file.read()


def _whole_end(data: bytes) -> int:
    """The position behind the last whole log."""
    mark = data.rfind(END_MARK.encode())
    end = data.find(b"\n", mark) + 1 if mark >= 0 else 0
    # The last line of all is itself torn: the whole logs end before its log.
    return end if end or mark < 0 else _whole_end(data[:mark])


def _last_logs(data: bytes, count: int) -> dict[int, bytes]:
    """window -> log, of the last `count` logs in the data; an unreadable log ends the search.

    An unreadable log is told, and stays unpublished.
    """
    found: dict[int, bytes] = {}
    end = len(data)
    while end and len(found) < count:
        start = data.rfind(b"\n", 0, max(0, data.rfind(HEAD_MARK.encode(), 0, end))) + 1
        try:
            # A log torn at its front: the data began within it.
            window = decode_log(data[start:end].decode()).window
        except (UnicodeDecodeError, LogError) as error:
            if not found:
                log.warning("the last verdict log is unreadable and stays unpublished: %s", error)
            break
        found.setdefault(window, data[start:end])
        end = start
    return dict(sorted(found.items()))
