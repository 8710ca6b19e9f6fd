"""Index overlap: the share of kept positions in common between two payloads.

All payloads of a window are fixed before the first can be read, so two payloads of a window with
an overlap far beyond chance come from one training: `evaluation.judge` finds the author by the
evidence of work. Overlap with a payload of an earlier window means a copy or a replay: what was
committed belongs first to its committer. Measured: honest payloads of a window share 3 to 22 % of
the kept positions (most in window 0), up to 12 % with rivals of the window before, and close to 0
with the same miner's earlier payload, because error feedback removes sent values.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

Places = npt.NDArray[np.int32]
"""Ascending positions of kept values among at most `MAX_ELEMENTS` elements that are compared.

Of a larger model the caller draws the elements over the whole of it.
"""

MAX_ELEMENTS = 1 << 25

TABLE_BYTES = 1 << 27
"""Bytes of the table of owners, at most, or one per element: 32 payloads of `MAX_ELEMENTS`. More
payloads are counted in several passes over all rows.
"""

PART_PLACES = 1 << 18
"""Positions between two looks at the deadline: bounds memory too."""

WORD_BYTES = (1, 2, 4, 8)
"""A word of the table has a bit for each row of a pass."""
_ADDENDS = 255
"""Words of ones in each byte whose sum has no carry from byte to byte."""
_ONES = np.uint64(0x0101010101010101)

IsLate = Callable[[], bool]
"""Whether the time is spent."""


class TimeSpentError(Exception):
    """The time was spent before every payload was compared."""


def never_late() -> bool:
    """The deadline of a caller with time."""
    return False


def kept_positions(places: Iterable[tuple[int, Ints]], num_elements: int) -> Places:
    """Ascending positions of a payload's kept values, int32.

    `places`: per tensor the offset among all elements and the distinct flat indices. Elements from
    `MAX_ELEMENTS` on are ignored.
    """
    parts = [start + indices for start, indices in places]
    absolute = np.concatenate([np.empty(0, dtype=np.int64), *parts])
    return np.sort(absolute[absolute < min(num_elements, MAX_ELEMENTS)].astype(np.int32))


def shared_counts(rows: Sequence[Places], num_first: int, is_late: IsLate = never_late) -> Ints:
    """Number of common positions of each of the first rows with each row: [num_first, rows].

    TimeSpentError once `is_late`, asked after each part of bounded work. The work is about
    num_first bits per kept position, whatever the rows hold.
    """
    counts, _ = _compare(rows[:num_first], lambda: rows, is_late)
    return counts.reshape(num_first, len(rows))


def _compare(
    firsts: Sequence[Places], each_row: Callable[[], Iterable[Places]], is_late: IsLate
) -> tuple[Ints, Ints]:
    """Number of common positions of each of `firsts` with each row of `each_row()`, and the number
    of positions of each row: [firsts, rows] and [rows].

    One row after another: beside `firsts` and the table of owners, one row is in memory.
    """
    parts, sizes = [], np.empty(0, dtype=np.int64)
    for some in _passes(firsts):
        owners = _owners(some)
        columns, counted = [], []
        for row in each_row():
            columns.append(_count_owners(owners, row, is_late)[: len(some)])
            counted.append(row.size)
        sizes = np.array(counted, dtype=np.int64)
        parts.append(np.array(columns, dtype=np.int64).reshape(len(columns), len(some)).T)
    empty = np.zeros((0, sizes.size), dtype=np.int64)
    return np.concatenate([empty, *parts]), sizes


def _passes(firsts: Sequence[Places]) -> Iterator[Sequence[Places]]:
    """The rows in groups, as large as a table of `TABLE_BYTES` takes."""
    num_elements = 1 + max((int(row[-1]) for row in firsts if row.size), default=0)
    word_bytes = max(
        size for size in (1, 2, 4, 8) if size * num_elements <= TABLE_BYTES or size == 1
    )
    for start in range(0, len(firsts), 8 * word_bytes):
        yield firsts[start : start + 8 * word_bytes]


def _owners(some: Sequence[Places]) -> npt.NDArray[Any]:
    """For each element the rows that keep a value there: bit n of a word is row n."""
    num_elements = 1 + max((int(row[-1]) for row in some if row.size), default=0)
    word_bytes = next(size for size in WORD_BYTES if len(some) <= 8 * size)
    # Little-endian on every machine: the bytes of the words are looked at one by one.
    table = np.zeros(num_elements, dtype=f"<u{word_bytes}")
    for number, row in enumerate(some):
        table[row] |= table.dtype.type(1 << number)
    return table


def _count_owners(owners: npt.NDArray[Any], row: Places, is_late: IsLate) -> Ints:
    """How many positions of a row each row of the table has too, [bits of a word]."""
    counts = np.zeros(8 * owners.itemsize, dtype=np.int64)
    known = row[: np.searchsorted(row, owners.size)]
    for start in range(0, max(1, known.size), PART_PLACES):
        counts += _count_bits(owners, known[start : start + PART_PLACES])
        if is_late():
            raise TimeSpentError
    return counts


def _count_bits(owners: npt.NDArray[Any], places: Places) -> Ints:
    """How many of the words at these places have each bit, [bits of a word]."""
    # Bit n of every byte at once, in words of eight bytes: 255 of these add up without a carry.
    num_lanes = -(-places.size * owners.itemsize // (8 * _ADDENDS))
    words = np.zeros(num_lanes * _ADDENDS * 8 // owners.itemsize, dtype=owners.dtype)
    # "clip" for speed alone: every place is in the table.
    np.take(owners, places, out=words[: places.size], mode="clip")
    lanes = words.view(np.uint64).reshape(_ADDENDS, num_lanes)
    counts = np.empty((owners.itemsize, 8), dtype=np.int64)
    for bit in range(8):
        sums = ((lanes >> np.uint64(bit)) & _ONES).sum(axis=0, dtype=np.uint64)
        counts[:, bit] = sums.view(np.uint8).reshape(-1, owners.itemsize).sum(axis=0)
    return counts.reshape(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """A payload of an earlier window. `applied`: accepted, so the author cannot repeat it.

    `is_first`: nobody else committed the same before, as far as that could be known; otherwise the
    payload is no obstacle to others.
    """

    window: int
    author: str
    places: Places
    applied: bool
    is_first: bool = True


def mark_applied(earlier: Iterable[Earlier], window: int, authors: Container[str]) -> list[Earlier]:
    """Set `applied` for the payloads of `window` from the accepted `authors`."""
    return [
        replace(each, applied=each.author in authors) if each.window == window else each
        for each in earlier
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlaps:
    """The overlaps of a window's payloads.

    `repeats`: uid -> sentence about the earlier payload repeated. `alike`: uid -> ascending uids
    of the window that overlap, repeats left out on both sides.
    """

    repeats: Mapping[int, str]
    alike: Mapping[int, tuple[int, ...]]


def find_overlaps(
    places: Mapping[int, Places],
    authors: Mapping[int, str],
    earlier: Sequence[Earlier],
    limit: float,
    is_late: IsLate = never_late,
    look: Callable[[Earlier], Places] = attrgetter("places"),
) -> Overlaps:
    """Overlaps of the payloads of a window (`places`, `authors`: by uid) with each other and with
    `earlier`.

    Overlap: common positions over the positions of the smaller payload; above `limit` is a repeat.
    An author may repeat an own payload without acceptance, returned to error feedback, whatever
    others have sent at the same time or later: it was the author's first.
    `look`: the places of an earlier payload, asked for one payload after another, and once more for
    each pass of a larger window. TimeSpentError once `is_late`.
    """
    uids = sorted(places)
    if not uids:
        return Overlaps(repeats={}, alike={})
    firsts = [places[uid] for uid in uids]
    shares = _shares(firsts, lambda: chain(firsts, map(look, earlier)), is_late)
    within, before = shares[:, : len(uids)] > limit, shares[:, len(uids) :] > limit
    repeats: dict[int, str] = {}
    for index, uid in enumerate(uids):
        alike_before = [(earlier[n], n) for n in np.flatnonzero(before[index]).tolist()]
        own = [e.window for e, _ in alike_before if e.author == authors[uid] and not e.applied]
        for each, other in alike_before:
            if each.author == authors[uid]:
                is_repeat = each.applied
            else:
                is_repeat = each.is_first and each.window < min(own, default=each.window + 1)
            if is_repeat:
                share = shares[index, len(uids) + other]
                name = f"{each.author} in window {each.window}"
                repeats[uid] = f"shares {share:.0%} of its kept positions with {name}"
                break
    left = [index for index, uid in enumerate(uids) if uid not in repeats]
    alike = {
        uids[index]: tuple(uids[o] for o in left if o != index and within[index, o])
        for index in left
    }
    return Overlaps(repeats=repeats, alike={uid: others for uid, others in alike.items() if others})


def _shares(
    firsts: Sequence[Places], each_row: Callable[[], Iterable[Places]], is_late: IsLate
) -> npt.NDArray[np.float64]:
    """Common positions over the positions of the smaller row: [firsts, rows]."""
    counts, sizes = _compare(firsts, each_row, is_late)
    shares: npt.NDArray[np.float64] = counts / np.maximum(
        1, np.minimum(sizes[: len(firsts), None], sizes)
    )
    return shares
