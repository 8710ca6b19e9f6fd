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

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

Places = npt.NDArray[np.int32]
"""Ascending positions of kept values among at most `MAX_ELEMENTS` elements that are compared.

Of a larger model the caller draws the elements over the whole of it.
"""

MAX_ELEMENTS = 1 << 25

BLOCK_PLACES, BLOCK_ELEMENTS, CELL_ELEMENTS = 1 << 18, 1 << 16, 1 << 8
"""Positions and elements per block, at most: 16-bit keys sort in linear time. A block ends at a
cell, so the positions of one cell may come on top.
"""

PAIRS_PER_CELL = 1 / 128
"""Cost of a cell of a dense product beside the cost of a listed pair of payloads."""

PART_PAIRS, PART_CELLS = 1 << 18, 1 << 21
"""Pairs or cells between two looks at the deadline: bounds memory too."""

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

    TimeSpentError once `is_late`, asked after each part of bounded work. The work is at most
    about sqrt(num_first * rows) pairs per kept position, whatever the rows hold.
    """
    # Sort all positions together and count the rows at each position: with 1 kept value in 64
    # this is cheaper than comparing bit maps.
    counts = np.zeros((num_first, len(rows)), dtype=np.int64)
    for places, owners in _sorted_blocks(rows):
        for part in _count_block(places, owners, num_first, len(rows)):
            counts += part
            if is_late():
                raise TimeSpentError
    return counts


def _count_block(
    places: npt.NDArray[np.uint16], owners: Ints, num_first: int, num_rows: int
) -> Iterator[Ints]:
    """Counts of a block, in parts: crowded positions by dense products, others pair by pair."""
    ids = np.cumsum(np.append(True, places[1:] != places[:-1])) - 1
    sizes = np.bincount(ids)
    firsts = np.bincount(ids[owners < num_first], minlength=sizes.size)
    # A position with many owners has a pair for each two of them, but one column of a product.
    is_crowded = firsts * sizes > num_first * num_rows * PAIRS_PER_CELL
    yield from _count_crowded(ids, owners, is_crowded, num_first, num_rows)
    yield from _count_pairs(ids, owners, sizes, is_crowded, num_first, num_rows)


def _count_crowded(
    ids: Ints, owners: Ints, is_crowded: npt.NDArray[np.bool_], num_first: int, num_rows: int
) -> Iterator[Ints]:
    """Counts at the crowded positions: products of matrices of 0 and 1."""
    wanted = is_crowded[ids]
    columns, owners = (np.cumsum(is_crowded) - 1)[ids[wanted]], owners[wanted]
    # Sums of at most PART_CELLS ones: exact in float32, in any order.
    width = max(1, PART_CELLS // num_rows)
    first_columns = np.arange(0, int(is_crowded.sum()), width)
    cuts = np.append(np.searchsorted(columns, first_columns), columns.size)
    for first, start, stop in zip(first_columns, cuts, cuts[1:], strict=False):
        last = int(columns[stop - 1])
        matrix = np.zeros((num_rows, last + 1 - first), dtype=np.float32)
        matrix[owners[start:stop], columns[start:stop] - first] = 1.0
        yield (matrix[:num_first] @ matrix.T).astype(np.int64)


def _count_pairs(
    ids: Ints,
    owners: Ints,
    sizes: Ints,
    is_crowded: npt.NDArray[np.bool_],
    num_first: int,
    num_rows: int,
) -> Iterator[Ints]:
    """Counts at the other positions: each of the first rows with each owner of its position."""
    starts = np.cumsum(sizes) - sizes
    ours = np.flatnonzero((owners < num_first) & ~is_crowded[ids])
    ends = np.cumsum(sizes[ids[ours]])
    total = int(ends[-1]) if ends.size else 0
    cuts = np.searchsorted(ends, np.arange(PART_PAIRS, total, PART_PAIRS))
    for part in np.split(ours, cuts):
        met = sizes[ids[part]]
        within = np.arange(met.sum()) - np.repeat(np.cumsum(met) - met, met)
        others = owners[np.repeat(starts[ids[part]], met) + within]
        pairs = np.repeat(owners[part], met) * num_rows + others
        yield np.bincount(pairs, minlength=num_first * num_rows).reshape(num_first, num_rows)


def _sorted_blocks(rows: Sequence[Places]) -> Iterator[tuple[npt.NDArray[np.uint16], Ints]]:
    """Blocks of ascending positions of all rows, with the row number of each position."""
    edges = _block_edges(rows)
    cuts = [np.searchsorted(row, edges) for row in rows]
    for block, edge in enumerate(edges[:-1]):
        parts = [row[cut[block] : cut[block + 1]] for row, cut in zip(rows, cuts, strict=True)]
        places = np.concatenate(parts)
        if places.size:
            near = (places - edge).astype(np.uint16)
            order = np.argsort(near, kind="stable")
            owners = np.repeat(np.arange(len(rows)), [part.size for part in parts])
            yield near[order], owners[order]


def _block_edges(rows: Sequence[Places]) -> Places:
    """First elements of the blocks, and the end: authors decide how close the positions lie."""
    last = max((int(row[-1]) for row in rows if row.size), default=-1)
    num_cells = last // CELL_ELEMENTS + 1
    fills = np.zeros(num_cells, dtype=np.int64)
    for row in rows:
        fills += np.bincount(row // CELL_ELEMENTS, minlength=num_cells)
    by_places = np.cumsum(fills) // BLOCK_PLACES
    by_elements = np.arange(num_cells) // (BLOCK_ELEMENTS // CELL_ELEMENTS)
    is_first = (np.diff(by_places, prepend=-1) > 0) | (np.diff(by_elements, prepend=-1) > 0)
    edges = np.append(np.flatnonzero(is_first), num_cells) * CELL_ELEMENTS
    return edges.astype(np.int32)


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
) -> Overlaps:
    """Overlaps of the payloads of a window (`places`, `authors`: by uid) with each other and with
    `earlier`.

    Overlap: common positions over the positions of the smaller payload; above `limit` is a repeat.
    An author may repeat an own payload without acceptance, returned to error feedback, whatever
    others have sent at the same time or later: it was the author's first.
    TimeSpentError once `is_late`.
    """
    uids = sorted(places)
    rows = [*(places[uid] for uid in uids), *(each.places for each in earlier)]
    shares = _shares(rows, len(uids), is_late)
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


def _shares(rows: Sequence[Places], num_first: int, is_late: IsLate) -> npt.NDArray[np.float64]:
    """Common positions over the positions of the smaller row: [num_first, rows]."""
    sizes = np.array([row.size for row in rows], dtype=np.int64)
    counts = shared_counts(rows, num_first, is_late)
    shares: npt.NDArray[np.float64] = counts / np.maximum(
        1, np.minimum(sizes[:num_first, None], sizes)
    )
    return shares
