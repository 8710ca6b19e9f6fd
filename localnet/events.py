"""Reads metrics and verdicts of running nodes: files with one JSON object per line.

Owns the tolerance for torn lines of killed processes and the reading of growing files.
`report` and `snapshot` combine the lines of several nodes.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from template.metrics import EVENTS_FILE

VERDICTS_FILES: Final = ("verdicts-older.jsonl", "verdicts.jsonl")
"""Files of a validator's verdict logs, oldest first."""

Row = dict[str, Any]


def read_jsonl(path: Path) -> list[Row]:
    """All JSON objects of a file in order; [] without a file.

    Skips lines of anything else: a process killed in the middle of a write leaves a torn line
    at the end of the file or, after a restart, in the middle.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    return _rows(data.split(b"\n"))


def verdict_files(state_dir: Path) -> tuple[Path, ...]:
    """The files with a validator's verdict logs, oldest first; a file may be missing."""
    return tuple(state_dir / name for name in VERDICTS_FILES)


class JsonlTail:
    """A growing JSONL file; each `read_new` reads only the bytes appended since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset_bytes = 0
        self._partial = b""

    def read_new(self) -> list[Row]:
        """Objects on the lines completed since the last call; [] while the file is missing.

        A shorter file counts as a new file, read from the start.
        """
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._offset_bytes:
                    self._offset_bytes, self._partial = 0, b""
                file.seek(self._offset_bytes)
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return []
        self._offset_bytes += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        return _rows(lines)


@dataclass(kw_only=True)
class NodeEvents:
    """One node's metrics by window; a later line of a window replaces an earlier line.

    `decisions`: window -> row with "state_window", "state_root", "accepted_uids".
    `digests`: state window -> digest over all tensors (hex). `losses`: state window ->
    held-out loss in nats per token, None if not finite. `utilisations`: window -> share of the time
    in inner steps. `specs`: first window -> id of an adopted spec. `last_row`: the newest row.
    """

    decisions: dict[int, Row] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)
    losses: dict[int, float | None] = field(default_factory=dict)
    utilisations: dict[int, float] = field(default_factory=dict)
    specs: dict[int, str] = field(default_factory=dict)
    unigram_nats: float | None = None
    last_row: Row = field(default_factory=dict)

    def add(self, rows: list[Row]) -> None:
        for row in rows:
            if isinstance(row.get("window"), int):
                self._add_row(row["window"], row)

    def _add_row(self, window: int, row: Row) -> None:
        if "spec" in row:
            # Of a window to come: no news of the node's own window.
            self.specs[window] = str(row["spec"])
            return
        if "state_root" in row:
            self.decisions[window] = row
        if "params_digest" in row:
            self.digests[row["state_window"]] = row["params_digest"]
        if "held_out_loss" in row:
            self.losses[window] = _finite(row["held_out_loss"])
        if "utilisation" in row:
            self.utilisations[window] = float(row["utilisation"])
        if "unigram_entropy" in row:
            self.unigram_nats = _finite(row["unigram_entropy"])
        self.last_row = row


def read_node_events(state_dir: Path) -> NodeEvents:
    """The events of the node with this state directory; empty without a metrics file."""
    events = NodeEvents()
    events.add(read_jsonl(state_dir / EVENTS_FILE))
    return events


def accepted_uids(decision: Row) -> list[int]:
    """The uids of a decision's row; the row's text is "3,4", or "" for an empty list."""
    return [int(uid) for uid in decision["accepted_uids"].split(",") if uid]


def _rows(lines: list[bytes]) -> list[Row]:
    rows = (_row(line) for line in lines)
    return [row for row in rows if row is not None]


def _row(line: bytes) -> Row | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _finite(value: float | str) -> float | None:
    """The number; None for NaN and infinities, written as text ("nan") in the metrics file."""
    number = float(value)
    return number if math.isfinite(number) else None
