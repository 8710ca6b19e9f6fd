"""Runs: documents sorted by key on disk, written in bounded memory, read a range at once.

A part of the sources leaves one or more runs in a pair of files, `.text` with the texts and `.rows`
with a row for each. Within a run texts and rows lie in the order of the keys, so a range of keys is
one read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from template.data.preparing.documents import Piece

ROW: Final = np.dtype(
    [
        ("key", "<u8", (4,)),
        ("source", "<u4"),
        ("place", "<u8"),
        ("number", "<u4"),
        ("held_out", "u1"),
        ("start", "<u8"),
        ("length", "<u4"),
    ]
)
"""A piece: the key as four big-endian numbers, where its document lies, where its text lies."""
KEYS: Final = 2**64
"""Ranges of keys are ranges of the key's first number."""

Rows = npt.NDArray[np.void]


class RunWriter:
    """Gathers pieces to `run_bytes` of text, and writes them as sorted runs.

    `peak_bytes`: the most text that was held at once; at most `run_bytes` and one piece.
    """

    def __init__(self, text: Path, rows: Path, run_bytes: int) -> None:
        self._text = text.open("wb")
        self._rows = rows.open("wb")
        self._run_bytes = run_bytes
        self._pieces: list[Piece] = []
        self._num_bytes = 0
        self._written_bytes = 0
        self.peak_bytes = 0
        self.run_rows: list[int] = []

    def add(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._num_bytes += len(piece.text)
        self.peak_bytes = max(self.peak_bytes, self._num_bytes)
        if self._num_bytes >= self._run_bytes:
            self._write_run()

    def close(self) -> None:
        """Write the last run."""
        if self._pieces:
            self._write_run()
        self._text.close()
        self._rows.close()

    def _write_run(self) -> None:
        self._pieces.sort(key=lambda piece: (piece.key, piece.source, piece.place, piece.number))
        rows = np.zeros(len(self._pieces), ROW)
        keys = np.frombuffer(b"".join(piece.key for piece in self._pieces), ">u8")
        rows["key"] = keys.reshape(-1, 4)
        for name in ("source", "place", "number"):
            rows[name] = [getattr(piece, name) for piece in self._pieces]
        rows["held_out"] = [piece.is_held_out for piece in self._pieces]
        rows["length"] = [len(piece.text) for piece in self._pieces]
        ends = np.cumsum(rows["length"], dtype=np.uint64)
        rows["start"] = np.uint64(self._written_bytes) + ends - rows["length"]
        self._text.writelines(piece.text for piece in self._pieces)
        self._rows.write(rows.tobytes())
        self.run_rows.append(len(rows))
        self._written_bytes += self._num_bytes
        self._pieces, self._num_bytes = [], 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFile:
    """The runs of a part: the two files, and the number of rows of each run."""

    text: Path
    rows: Path
    run_rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece as it is read back."""

    text: bytes
    is_held_out: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """The pieces of a range of keys in the order of the keys. `repeats`: left out as repeated."""

    texts: list[Text]
    repeats: int
    repeated_bytes: int


def bucket_bounds(number: int, num_buckets: int) -> tuple[int, int]:
    """The range [low, high) of first key numbers of a bucket; all buckets together are all keys."""
    return KEYS * number // num_buckets, KEYS * (number + 1) // num_buckets


def read_bucket(files: Sequence[RunFile], low: int, high: int, *, dedup: bool) -> Bucket:
    """Every piece with a key in [low, high); with `dedup` the first of equal documents alone.

    Without `dedup` no two keys are equal but by a collision of SHA-256, so the place never decides.
    """
    rows: list[Rows] = []
    homes: list[int] = []
    for home, file in enumerate(files):
        for found in _rows_between(file, low, high):
            rows.append(found)
            homes.append(home)
    if not rows:
        return Bucket(texts=[], repeats=0, repeated_bytes=0)
    table = np.concatenate(rows)
    home_of = np.repeat(homes, [len(found) for found in rows])
    keys = table["key"]
    order = np.lexsort(
        (table["number"], table["place"], table["source"], *(keys[:, i] for i in (3, 2, 1, 0)))
    )
    table, home_of = table[order], home_of[order]
    repeats = repeated_bytes = 0
    if dedup:
        is_repeat = np.zeros(len(table), bool)
        is_repeat[1:] = (table["key"][1:] == table["key"][:-1]).all(axis=1)
        repeats = int(np.count_nonzero(is_repeat & (table["number"] == 0)))
        repeated_bytes = int(table["length"][is_repeat].sum())
        table, home_of = table[~is_repeat], home_of[~is_repeat]
    return Bucket(
        texts=_read_texts(files, table, home_of), repeats=repeats, repeated_bytes=repeated_bytes
    )


def _rows_between(file: RunFile, low: int, high: int) -> Iterator[Rows]:
    """The rows of each run with keys in [low, high)."""
    if not file.run_rows:
        return
    table = np.memmap(file.rows, ROW, mode="r")
    start = 0
    for count in file.run_rows:
        run = table[start : start + count]
        firsts = run["key"][:, 0]
        begin = _first_at_least(firsts, low)
        end = len(run) if high >= KEYS else _first_at_least(firsts, high)
        if begin < end:
            yield np.array(run[begin:end])
        start += count


def _first_at_least(firsts: npt.NDArray[np.uint64], bound: int) -> int:
    """Binary search by hand: numpy's would copy the strided column into memory."""
    low, high = 0, len(firsts)
    while low < high:
        middle = (low + high) // 2
        if int(firsts[middle]) < bound:
            low = middle + 1
        else:
            high = middle
    return low


def _read_texts(
    files: Sequence[RunFile], table: Rows, home_of: npt.NDArray[np.int64]
) -> list[Text]:
    """Texts in the order of the table, each file read from front to back."""
    texts: list[Text | None] = [None] * len(table)
    by_place = np.lexsort((table["start"], home_of))
    for home in np.unique(home_of):
        with files[home].text.open("rb") as file:
            for index in by_place[home_of[by_place] == home]:
                row = table[index]
                file.seek(int(row["start"]))
                text = file.read(int(row["length"]))
                texts[index] = Text(text=text, is_held_out=bool(row["held_out"]))
    return [text for text in texts if text is not None]
