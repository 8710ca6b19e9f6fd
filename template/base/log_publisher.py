"""Verdict logs: written to the state folder first, published in the validator's bucket after."""

import logging
from pathlib import Path

from evaluation.verdict_log import LogError, WindowLog, decode_log, encode_log, split_logs
from template.context import NodeContext
from template.errors import StoreError, disk_trouble
from template.protocol.keys import verdict_key

log = logging.getLogger(__name__)

LOG_FILE = "verdicts.jsonl"


class LogPublisher:
    """Holds the verdict logs on disk and not yet in the bucket."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._path = context.state_dir / LOG_FILE
        self._unpublished = read_last_log(self._path)

    def write(self, window_log: WindowLog) -> bytes:
        """Append the log to the file; returns the bytes. StateError if the disk is full."""
        text = encode_log(window_log)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise disk_trouble(self._path, error) from error
        # A log older than what pay looks at helps no auditor: give up on publishing it.
        oldest = window_log.window - self._context.spec.weights.history_windows
        recent = {w: data for w, data in self._unpublished.items() if w > oldest}
        self._unpublished = recent | {window_log.window: text.encode()}
        return self._unpublished[window_log.window]

    def publish(self) -> None:
        """Put the unpublished logs; the next call retries after the first failure."""
        for window, data in sorted(self._unpublished.items()):
            try:
                self._context.bucket.put(verdict_key(self._context.spec.run_id, window), data)
            except StoreError as error:
                log.warning("window %d: its verdict log is not in the bucket: %s", window, error)
                return
            del self._unpublished[window]


def read_last_log(path: Path) -> dict[int, bytes]:
    """window -> the newest verdict log on disk: a kill may have prevented publication."""
    try:
        texts = split_logs(path.read_text(encoding="utf-8")) if path.exists() else []
        return {decode_log(text).window: text.encode() for text in list(texts)[-1:]}
    except (OSError, UnicodeDecodeError, LogError) as error:
        log.warning("%s: the last verdict log is unreadable and stays unpublished: %s", path, error)
        return {}
