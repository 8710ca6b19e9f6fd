"""Draws from a seed: a miner's pages, a window's held-out pages, the sample of claimed pages.

Pages are drawn a *segment* at a time, the unit that a node can fetch and verify, and ordered inside
a segment by the seed: a window's pages come from few segments. Pure. The caller supplies the block
hash of a seed and the segments assigned in the past. Consensus depends on every bit of this module:
a change needs a new run.

Source of the idea (random access into a seeded stream of pages): templar,
`src/tplr/sharded_sampler.py`, with a PRNG of numpy; SHA-256 in counter mode, used here, can be
recomputed in any language.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from template.data.manifest import MAX_SEGMENTS
from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.spec.training import MAX_SEGMENT_PAGES

SEED_BYTES = 32
WORDS_PER_DIGEST = 4

QUARTERS = 4
CLAIM_SEGMENTS = 2
"""Segments of a quarter from which claimed pages are drawn, if they hold enough: two, because the
pages of a long document are alike, and no more, because each costs a fetch."""

HELD_OUT_SEGMENTS = 16
"""Segments from which the held-out pages of a window come at least, where the dataset has them: the
pages of a long document are alike, and each segment costs a fetch."""

_MIN_DRAW = 256

OPEN_ONE_IN = 2
"""One segment in so many stays open to the draw of held-out pages, whatever is assigned: with
fewer, a crowd of hotkeys could leave so few that a miner trains on the test.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paging:
    """The pages of a dataset: page `p` is in segment `p // segment_pages`.

    ValueError unless there are 1 to 2**32 segments of 1 to 2**16 pages.
    """

    num_segments: int
    segment_pages: int

    def __post_init__(self) -> None:
        if not 1 <= self.segment_pages <= MAX_SEGMENT_PAGES:
            raise ValueError(f"segment_pages is {self.segment_pages}, not in [1, 2**16]")
        if not 1 <= self.num_segments <= MAX_SEGMENTS:
            raise ValueError(f"num_segments is {self.num_segments}, not in [1, {MAX_SEGMENTS}]")

    @property
    def num_pages(self) -> int:
        return self.num_segments * self.segment_pages

    def segments_for(self, num_pages: int) -> int:
        """Segments that hold so many pages."""
        return -(-num_pages // self.segment_pages)


def assignment_seed(block_hash: bytes, hotkey: str, window: int) -> bytes:
    """Seed of a hotkey's page list for a window, unknown before the block with `block_hash`."""
    return labelled_hash("assignment", block_hash, hotkey.encode("ascii"), uint_bytes(window))


def assigned_page(seed: bytes, index: int, paging: Paging) -> int:
    """Entry `index` (>= 0) of the endless page list of `seed`, drawn without earlier entries."""
    if index < 0:
        raise ValueError(f"index is {index}, must not be negative")
    _check(seed, 1)
    entry, place = divmod(index, paging.segment_pages)
    segment = int(_words(seed, entry, 1)[0] % np.uint64(paging.num_segments))
    order = _page_orders(seed, np.array([entry]), paging.segment_pages)[0]
    return segment * paging.segment_pages + int(order[place])


def assigned_pages(seed: bytes, count: int, paging: Paging) -> npt.NDArray[np.int64]:
    """The first `count` entries of the page list, int64 [count]; a page may repeat.

    Entry k of the list of segments is word k of the seed's stream, and all pages of the segment
    follow in an order of their own, drawn for this entry. Equal to `assigned_page(seed, i, paging)`
    for every i. Raises ValueError if `seed` is not 32 bytes or `count` is negative.
    """
    segments = assigned_segments(seed, count, paging)
    orders = _page_orders(seed, np.arange(segments.size), paging.segment_pages)
    return (segments[:, None] * paging.segment_pages + orders).reshape(-1)[:count]


def assigned_segments(seed: bytes, count: int, paging: Paging) -> npt.NDArray[np.int64]:
    """The segments of the first `count` pages of the list, int64 [ceil(count / segment_pages)]."""
    _check(seed, count)
    words = _words(seed, 0, paging.segments_for(count))
    return (words % np.uint64(paging.num_segments)).astype(np.int64)


def shuffled_blocks(
    pages: npt.NDArray[np.int64], secret: bytes, block: int
) -> npt.NDArray[np.int64]:
    """The pages with each block of `block` neighbours in an order of its own, int64 [len(pages)].

    Whole blocks stay a front of the list, so the pages trained on can be claimed. The order
    follows from `secret`, 32 bytes, never revealed: start, pages and rules are public, and without
    a secret anybody could repeat the training to the byte. Raises ValueError unless block >= 1.
    """
    if block < 1:
        raise ValueError(f"block is {block}, must be at least 1")
    _check(secret, pages.size)
    words, places = _words(secret, 0, pages.size), np.arange(pages.size)
    return pages[np.lexsort((words, places // block))]


def held_out_pages(
    seed: bytes,
    count: int,
    paging: Paging,
    excluded: Collection[int] | npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """`count` distinct pages of the segments drawn from `seed` outside the `excluded` segments.

    int64 [count], segment by segment in the order drawn; of each segment as many pages as let
    `HELD_OUT_SEGMENTS` segments make the count, in an order drawn for the segment. `excluded` are
    segment ids, repeats allowed. The draw skips excluded segments instead of renumbering the rest,
    so two nodes with excluded sets that differ in a segment draw sets that differ in at most a
    segment's pages. Raises ValueError as `assigned_pages`, if an excluded id is out of range and if
    fewer than `count` pages remain (`barred_segments` leaves enough).
    """
    _check(seed, count)
    barred = _sorted_ids(excluded, paging.num_segments)
    num_open = paging.num_segments - barred.size
    if count > num_open * paging.segment_pages:
        raise ValueError(
            f"{num_open * paging.segment_pages} of {paging.num_pages} pages are left, fewer than "
            f"{count}"
        )
    if count == 0:
        return np.empty(0, dtype=np.int64)
    each = min(paging.segment_pages, -(-count // min(HELD_OUT_SEGMENTS, num_open)))
    segments = _open_segments(seed, -(-count // each), paging.num_segments, barred)
    orders = _page_orders(seed, segments, paging.segment_pages)[:, :each]
    return (segments[:, None] * paging.segment_pages + orders).reshape(-1)[:count]


def _open_segments(
    seed: bytes, count: int, num_segments: int, barred: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The first `count` distinct segments of the list of `seed` that are not barred."""
    chosen = np.empty(0, dtype=np.int64)
    # Rounded up to whole digests, so that every draw starts where the last one ended.
    draw = -(-max(count, _MIN_DRAW) // WORDS_PER_DIGEST) * WORDS_PER_DIGEST
    start = 0
    while chosen.size < count:
        drawn = (_words(seed, start, draw) % np.uint64(num_segments)).astype(np.int64)
        chosen = _first_distinct(np.concatenate([chosen, drawn[~_contains(barred, drawn)]]))
        start += draw
    return chosen[:count]


def barred_segments(
    assigned: Iterable[npt.NDArray[np.int64]],
    count: int,
    paging: Paging,
    fronts: Sequence[int] = (),
) -> npt.NDArray[np.int64]:
    """The assigned segments to exclude from a draw of `count` held-out pages; distinct, ascending.

    `assigned`: the segments of each window, newest window first, int64 [hotkeys, entries]: a list
    in each row, a segment as often as assigned. Half of the dataset, and `count` pages, stay open
    at least: windows bar segments from the newest back until a window is too many. If the newest
    window alone is too many, its lists are cut to the first so many entries of `fronts`, in turn;
    if the last cut is too many, segments assigned least often come free, all of equal frequency
    together. Raises ValueError unless `count` is in [0, num_pages].
    """
    most = max_barred_segments(count, paging)
    if most < 0 or count < 0:
        raise ValueError(f"count is {count}, must be in [0, {paging.num_pages}]")
    barred = np.empty(0, dtype=np.int64)
    for lists in assigned:
        wider = _distinct(np.concatenate([barred, lists.reshape(-1)]))
        if wider.size > most:
            return barred if barred.size else _barred_fronts(lists, fronts, most)
        barred = wider
    return barred


def _barred_fronts(
    lists: npt.NDArray[np.int64], fronts: Sequence[int], most: int
) -> npt.NDArray[np.int64]:
    """At most `most` segments of lists that are too many."""
    for num_entries in fronts:
        lists = lists[:, :num_entries]
        barred = _distinct(lists.reshape(-1))
        if barred.size <= most:
            return barred
    return _most_frequent(lists.reshape(-1), most)


def max_barred_segments(count: int, paging: Paging) -> int:
    """Segments that may be excluded from a draw of `count` held-out pages; negative if none fit."""
    num_open = max(paging.segments_for(count), -(-paging.num_segments // OPEN_ONE_IN))
    return paging.num_segments - num_open


def _most_frequent(segments: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """The segments above the lowest frequency that leaves at most `most` segments."""
    ordered = np.sort(segments)
    first = np.flatnonzero(_is_new(ordered))
    times = np.diff(first, append=ordered.size)
    return ordered[first][times > np.sort(times)[::-1][most]]


def claimed_pages(
    seed: bytes, consumed: npt.NDArray[np.int64], count: int, segment_pages: int
) -> npt.NDArray[np.int64]:
    """A sample of `count` pages claimed by a miner as trained on, equally from each quarter.

    `consumed`: the front of the miner's page list, int64 [C], in order; a quarter with too few
    pages gives all its pages. The untrained pages of an exaggerated claim are in the last quarters,
    which are sampled too. In a quarter the pages come in a drawn order, first those that share
    their entry of the list of segments with the first pages: from `CLAIM_SEGMENTS` entries, then
    from as many more.
    """
    _check(seed, count)
    words, chosen = _words(seed, 0, consumed.size), []
    for quarter in range(QUARTERS):
        start, stop = (consumed.size * (quarter + i) // QUARTERS for i in (0, 1))
        num = count * (quarter + 1) // QUARTERS - count * quarter // QUARTERS
        order = start + np.argsort(words[start:stop], kind="stable")
        rank = _ranks_of_appearance(order // segment_pages)
        order = order[np.argsort(rank // CLAIM_SEGMENTS, kind="stable")[:num]]
        chosen.append(consumed[order])
    return np.concatenate(chosen)


def _ranks_of_appearance(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each value the number of distinct values that appear before its first appearance."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    ranks = np.empty(first.size, dtype=np.int64)
    ranks[np.argsort(first)] = np.arange(first.size)
    return ranks[inverse]


def _page_orders(
    seed: bytes, labels: npt.NDArray[np.int64], segment_pages: int
) -> npt.NDArray[np.int64]:
    """An order of a segment's pages for each label, int64 [len(labels), segment_pages].

    By ascending words of a stream whose seed is the labelled hash of `seed` and label.
    """
    orders = np.zeros((labels.size, segment_pages), dtype=np.int64)
    if segment_pages > 1:
        for row, label in enumerate(labels.tolist()):
            stream = labelled_hash("page order", seed, uint_bytes(label))
            orders[row] = np.argsort(_words(stream, 0, segment_pages), kind="stable")
    return orders


def _check(seed: bytes, count: int) -> None:
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
    if count < 0:
        raise ValueError(f"count is {count}, must not be negative")


def _words(seed: bytes, start: int, count: int) -> npt.NDArray[np.uint64]:
    """Words [start, start + count) of the stream SHA-256(seed, counter), counter = 0, 1, ..."""
    first = start // WORDS_PER_DIGEST
    last = -(-(start + count) // WORDS_PER_DIGEST)
    stream = b"".join(
        hashlib.sha256(seed + uint_bytes(counter)).digest() for counter in range(first, last)
    )
    offset = start - first * WORDS_PER_DIGEST
    return np.frombuffer(stream, dtype="<u8")[offset : offset + count].astype(np.uint64)


def _sorted_ids(
    ids: Collection[int] | npt.NDArray[np.int64], num_segments: int
) -> npt.NDArray[np.int64]:
    values = ids if isinstance(ids, np.ndarray) else np.fromiter(ids, np.int64, len(ids))
    if values.dtype.kind not in "iu":
        raise ValueError(f"excluded segments are ids, not an array of {values.dtype}")
    unique = _distinct(values.astype(np.int64))
    if unique.size and not (unique[0] >= 0 and unique[-1] < num_segments):
        raise ValueError(f"an excluded segment is outside [0, {num_segments})")
    return unique


def _contains(
    sorted_ids: npt.NDArray[np.int64], values: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    left = np.searchsorted(sorted_ids, values, side="left")
    return np.searchsorted(sorted_ids, values, side="right") > left


def _distinct(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The distinct values, ascending; `np.unique` hashes, which is many times slower."""
    ordered = np.sort(values)
    return ordered[_is_new(ordered)]


def _is_new(ordered: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether a value differs from the value before."""
    is_new = np.ones(ordered.size, dtype=bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    return is_new


def _first_distinct(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """`values` without repeats, in order of first appearance."""
    _, first = np.unique(values, return_index=True)
    return values[np.sort(first)]
