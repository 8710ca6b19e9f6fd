"""The record of ended runs, one JSON line each; of two lines with one key the later counts.

    python -m benchmarks.learning.record RECORD.jsonl     pack a record into RECORD.jsonl.xz

A record is a packed file, where there is one, and the lines appended since in the plain file.
Two processes may append to one file: a line is one write to a file opened for appending,
under a lock. `load` skips a line cut off by a crash.
"""

import fcntl
import json
import lzma
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.learning.trial import Trial

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Two-sided 95 % points of Student's t for 1, 2, ... 10 degrees of freedom."""
NORMAL_95 = 1.96

Rows = Mapping[str, Mapping[str, Any]]
"""Key -> line of the record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean with the half-width of its 95 % interval; NaN from a single number."""

    mean: float
    half: float
    count: int


def append(path: Path, row: dict[str, Any]) -> None:
    """Add one line; other processes may do the same at once."""
    line = json.dumps(row, sort_keys=True) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, (b"\n" if torn else b"") + line.encode())
    finally:
        os.close(file)


def load(path: Path) -> dict[str, dict[str, Any]]:
    """Key -> row of every whole line, packed or plain; empty without files."""
    rows = {}
    for line in _lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["key"]] = row
    return rows


def pack(path: Path) -> None:
    """Move all rows of a record into its packed file. Not while runs are appended."""
    rows = load(path).values()
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
    whole = packed(path).with_suffix(".new")
    whole.write_bytes(lzma.compress(text.encode(), preset=9))
    whole.replace(packed(path))
    path.unlink(missing_ok=True)


def packed(path: Path) -> Path:
    """The packed file of a record."""
    return path.with_name(path.name + ".xz")


def _lines(path: Path) -> list[str]:
    old = lzma.decompress(packed(path).read_bytes()).decode() if packed(path).exists() else ""
    new = path.read_text() if path.exists() else ""
    return [*old.splitlines(), *new.splitlines()]


def losses(trials: Sequence[Trial], rows: Rows) -> list[float]:
    """Held-out losses of those trials that have ended."""
    return [rows[t.key]["outcome"]["held_out_loss"] for t in trials if t.key in rows]


def interval(values: Sequence[float]) -> Interval:
    """Student's t interval; ValueError without values."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Interval(mean=mean, half=math.nan, count=count)
    factor = T_95[count - 2] if count - 2 < len(T_95) else NORMAL_95
    half = factor * statistics.stdev(values) / math.sqrt(count)
    return Interval(mean=mean, half=half, count=count)


def paired_percent(ours: Sequence[float], reference: Sequence[float]) -> Interval:
    """How much larger, in percent, seed by seed."""
    pairs = zip(ours, reference, strict=True)
    return interval([100 * (mine / other - 1) for mine, other in pairs])


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
