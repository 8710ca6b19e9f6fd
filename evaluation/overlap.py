"""Payloads that say the same: how many of their kept places two have in common.

Nobody can read a payload of a window before all are fixed, so two of one window that overlap far
beyond chance have one author, and one of them counts. One that overlaps with a payload of a
window before is a copy or a replay. Honest ones share 3 to 22 % of their places within a
window, most in the first, up to 12 % with those of others a window before, and next to nothing
with their own, since error feedback takes out what was sent.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

Places = npt.NDArray[np.int32]
"""Where kept values lie among the elements of the model, or its first so many; ascending."""

MAX_ELEMENTS = 1 << 25

BLOCK_PLACES, BLOCK_ELEMENTS = 1 << 18, 1 << 16
"""Places that are compared at once, about, and elements at most: 16 bits sort in linear time."""


def kept_positions(places: Iterable[tuple[int, Ints]], num_elements: int) -> Places:
    """`places`: for each tensor where it begins among all elements, and its flat indices, none
    twice. Only the first `MAX_ELEMENTS` elements count.
    """
    parts = [start + indices for start, indices in places]
    absolute = np.concatenate([np.empty(0, dtype=np.int64), *parts])
    return np.sort(absolute[absolute < min(num_elements, MAX_ELEMENTS)].astype(np.int32))


def shared_counts(rows: Sequence[Places], num_first: int) -> Ints:
    """How many places each of the first rows has in common with each row; [num_first, rows].

    The places of all rows are sorted together, and the rows that meet at each are counted: where
    one place in 64 is kept that is less than comparing bit by bit.
    """
    counts = np.zeros(num_first * len(rows), dtype=np.int64)
    for places, owners in _sorted_blocks(rows):
        starts = np.flatnonzero(np.append(True, places[1:] != places[:-1]))
        sizes = np.diff(np.append(starts, places.size))
        ours = np.flatnonzero(owners < num_first)
        meeting = np.searchsorted(starts, ours, side="right") - 1
        met = sizes[meeting]
        within = np.arange(met.sum()) - np.repeat(np.cumsum(met) - met, met)
        others = owners[np.repeat(starts[meeting], met) + within]
        pairs = np.repeat(owners[ours], met) * len(rows) + others
        counts += np.bincount(pairs, minlength=counts.size)
    return counts.reshape(num_first, len(rows))


def _sorted_blocks(rows: Sequence[Places]) -> Iterator[tuple[npt.NDArray[np.uint16], Ints]]:
    """The places of all rows in some elements after another, ascending, and whose they are."""
    last = max((int(row[-1]) for row in rows if row.size), default=-1)
    total = sum(row.size for row in rows)
    length = min(BLOCK_ELEMENTS, 1 + max(0, last) * BLOCK_PLACES // max(1, total))
    edges = np.arange(0, last + 1 + length, length, dtype=np.int32)
    cuts = [np.searchsorted(row, edges) for row in rows]
    for block, edge in enumerate(edges[:-1]):
        parts = [row[cut[block] : cut[block + 1]] for row, cut in zip(rows, cuts, strict=True)]
        places = np.concatenate(parts)
        if places.size:
            near = (places - edge).astype(np.uint16)
            order = np.argsort(near, kind="stable")
            owners = np.repeat(np.arange(len(rows)), [part.size for part in parts])
            yield near[order], owners[order]


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """A payload of a window before. `applied`: it was accepted, and its author cannot send it
    again.
    """

    window: int
    author: str
    places: Places
    applied: bool


def mark_applied(earlier: Iterable[Earlier], window: int, authors: Container[str]) -> list[Earlier]:
    """As it stands once the votes on a window have accepted payloads of these authors."""
    return [
        replace(each, applied=each.author in authors) if each.window == window else each
        for each in earlier
    ]


def find_repeats(
    places: Mapping[int, Places],
    authors: Mapping[int, str],
    earlier: Sequence[Earlier],
    limit: float,
) -> dict[int, str]:
    """uid -> what it repeats, in words. Within the window the lowest uid of those alike counts.

    Of the places of the smaller of two, more than `limit` must be the other's too. An author's
    own payload that was not applied may come again: it went back into error feedback.
    """
    uids = sorted(places)
    rows = [*(places[uid] for uid in uids), *(e.places for e in earlier)]
    sizes = np.array([row.size for row in rows], dtype=np.int64)
    counts = shared_counts(rows, len(uids))
    found: dict[int, str] = {}
    for index, uid in enumerate(uids):
        shares = counts[index] / np.maximum(1, np.minimum(sizes[index], sizes))
        for other in np.flatnonzero(shares > limit).tolist():
            if other < len(uids):
                alike = other < index and uids[other] not in found
                name = f"uid {uids[other]} in this window"
            else:
                before = earlier[other - len(uids)]
                alike = before.applied or before.author != authors[uid]
                name = f"{before.author} in window {before.window}"
            if alike:
                found[uid] = f"{shares[other]:.0%} of its places are those of {name}"
                break
    return found
