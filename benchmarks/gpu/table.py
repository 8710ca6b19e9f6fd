"""The one table of `benchmarks.gpu`: rows, printed as they come, and the time they may take.

A part of the benchmark that would end after the limit is left out with a line. How long a part will
take is a guess, corrected by how long the parts before took against their guesses.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from template.errors import SubnetError

FORESEEN = (RuntimeError, ValueError, LookupError, TypeError, OSError, SubnetError)
"""A part that ends with one of these is a row that says so, and the next part goes on."""
COLUMNS = (("what", 40), ("seconds", 9), ("rate", 17), ("share", 18), ("GB", 7), ("holds", 5))
MAX_NOTE = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line. `share`: of `of`. `peak_bytes`: of tensors on the device. `holds`: whether what was
    compared is as it has to be; None where nothing was.
    """

    what: str
    seconds: float | None = None
    rate: float | None = None
    unit: str = ""
    share: float | None = None
    of: str = ""
    peak_bytes: int | None = None
    holds: bool | None = None
    note: str = ""

    def line(self) -> str:
        """As printed."""
        rate = "" if self.rate is None else f"{self.rate:,.4g} {self.unit}"
        share = "" if self.share is None else f"{self.share:.1%} of {self.of}"
        fields = (
            self.what,
            "" if self.seconds is None else f"{self.seconds:.4g}",
            rate,
            share,
            "" if self.peak_bytes is None else f"{self.peak_bytes / 1e9:.2f}",
            {True: "yes", False: "NO", None: ""}[self.holds],
        )
        return "  ".join([*_padded(fields), self.note]).rstrip()


def header() -> str:
    """The first line of the table."""
    return "  ".join([*_padded(tuple(name for name, _ in COLUMNS)), "note"])


def _padded(fields: tuple[str, ...]) -> list[str]:
    return [field.ljust(width) for field, (_, width) in zip(fields, COLUMNS, strict=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A piece of the benchmark: `guess_s` on an H200 with 16 cores."""

    name: str
    guess_s: float
    run: Callable[[], Iterator[Row]]


class Clock:
    """The time that is left, and how good the guesses are."""

    def __init__(self, limit_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s, self._limit_s = now_s, limit_s
        self._begin_s = now_s()
        self._guessed_s, self._taken_s = 0.0, 0.0

    @property
    def elapsed_s(self) -> float:
        """Since the clock was made."""
        return self._now_s() - self._begin_s

    def expected_s(self, guess_s: float) -> float:
        """A guess, longer by as much as the parts before were; never shorter."""
        return guess_s * max(1.0, self._taken_s / self._guessed_s if self._guessed_s else 1.0)

    def has_time(self, guess_s: float) -> bool:
        """Whether a part would end before the limit."""
        return self.elapsed_s + self.expected_s(guess_s) <= self._limit_s

    def note(self, guess_s: float, taken_s: float) -> None:
        """A part has taken so long."""
        self._guessed_s, self._taken_s = self._guessed_s + guess_s, self._taken_s + taken_s


def run_parts(
    parts: list[Part], clock: Clock, release: Callable[[], None], say: Callable[[str], object]
) -> list[Row]:
    """All rows of the parts that fit; `release` frees what a part has left on the device."""
    rows: list[Row] = []
    say(header())
    for part in parts:
        if not clock.has_time(part.guess_s):
            late = f"left out: {clock.expected_s(part.guess_s):.0f} s would pass the limit"
            rows.append(Row(what=part.name, note=late))
            say(rows[-1].line())
            continue
        begin_s = clock.elapsed_s
        for row in _guarded(part):
            rows.append(row)
            say(row.line())
        release()
        clock.note(part.guess_s, clock.elapsed_s - begin_s)
    return rows


def _guarded(part: Part) -> Iterator[Row]:
    try:
        yield from part.run()
    except FORESEEN as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        yield Row(what=part.name, holds=False, note=words[:MAX_NOTE])


def say(line: str) -> None:
    """To the screen, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write_record(path: Path, rows: list[Row], machine: dict[str, object]) -> None:
    """The rows as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", "utf-8")
