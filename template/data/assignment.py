"""Draws from a seed: a miner's pages, a window's held-out pages, the sample of claimed pages.

Pure. The caller supplies the block hash of a seed and the pages assigned in the past. Consensus
depends on every bit of this module: a change needs a new run.

Source of the idea (random access into a seeded stream of pages): templar,
`src/tplr/sharded_sampler.py`, with a PRNG of numpy; SHA-256 in counter mode, used here, can be
recomputed in any language.
"""

import hashlib
from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from template.protocol.hashing import labelled_hash, uint_bytes

SEED_BYTES = 32
WORDS_PER_DIGEST = 4
MAX_PAGES = 2**32
"""The bias of `word mod num_pages` stays below 2**-32 up to here."""

QUARTERS = 4

_MIN_DRAW = 256

OPEN_ONE_IN = 2
"""One page in so many stays open to the draw of held-out pages, whatever is assigned: with fewer,
a crowd of hotkeys could leave so few that a miner trains on the test.
"""


def assignment_seed(block_hash: bytes, hotkey: str, window: int) -> bytes:
    """Seed of a hotkey's page list for a window, unknown before the block with `block_hash`."""
    return labelled_hash("assignment", block_hash, hotkey.encode("ascii"), uint_bytes(window))


def assigned_page(seed: bytes, index: int, num_pages: int) -> int:
    """Entry `index` (>= 0) of the endless page list of `seed`, drawn without earlier entries."""
    if index < 0:
        raise ValueError(f"index is {index}, must not be negative")
    _check(seed, 1, num_pages)
    word = _words(seed, index, 1)[0]
    return int(word % np.uint64(num_pages))


def assigned_pages(seed: bytes, count: int, num_pages: int) -> npt.NDArray[np.int64]:
    """The first `count` entries of the page list, int64 [count]; a page may repeat.

    Equal to `assigned_page(seed, i, num_pages)` for every i. Raises ValueError if `seed` is
    not 32 bytes, `count` is negative or `num_pages` is not in [1, 2**32].
    """
    _check(seed, count, num_pages)
    return (_words(seed, 0, count) % np.uint64(num_pages)).astype(np.int64)


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
    _check(secret, pages.size, 1)
    words, places = _words(secret, 0, pages.size), np.arange(pages.size)
    return pages[np.lexsort((words, places // block))]


def held_out_pages(
    seed: bytes, count: int, num_pages: int, excluded: Collection[int] | npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The first `count` distinct pages of the list of `seed` outside `excluded`.

    int64 [count], in the order drawn. `excluded` are page ids, repeats allowed. The draw skips
    excluded pages instead of renumbering the rest, so two nodes with excluded sets that differ in
    a page draw sets that differ in at most a page. Raises ValueError as `assigned_pages`, if an
    excluded id is out of range and if fewer than `count` pages remain (`barred_pages` leaves
    enough).
    """
    _check(seed, count, num_pages)
    barred = _sorted_ids(excluded, num_pages)
    num_left = num_pages - barred.size
    if count > num_left:
        raise ValueError(f"{num_left} of {num_pages} pages are left, fewer than {count}")
    chosen = np.empty(0, dtype=np.int64)
    # Rounded up to whole digests, so that every draw starts where the last one ended.
    draw = -(-max(count, _MIN_DRAW) // WORDS_PER_DIGEST) * WORDS_PER_DIGEST
    start = 0
    while chosen.size < count:
        pages = (_words(seed, start, draw) % np.uint64(num_pages)).astype(np.int64)
        chosen = _first_distinct(np.concatenate([chosen, pages[~_contains(barred, pages)]]))
        start += draw
    return chosen[:count]


def barred_pages(
    assigned: Iterable[npt.NDArray[np.int64]], count: int, num_pages: int
) -> npt.NDArray[np.int64]:
    """The assigned pages to exclude from a draw of `count` held-out pages; distinct, ascending.

    `assigned`: the pages of each window, newest window first, a page as often as assigned. Half of
    the dataset, and `count` pages, stay open at least: windows bar pages from the newest back
    until a window is too many. If the newest window alone is too many, pages assigned least often
    come free, all pages of equal frequency together. Raises ValueError unless `count` is in
    [0, num_pages].
    """
    most = max_barred_pages(count, num_pages)
    if most < 0 or count < 0:
        raise ValueError(f"count is {count}, must be in [0, {num_pages}]")
    barred = np.empty(0, dtype=np.int64)
    for pages in assigned:
        wider = np.union1d(barred, pages)
        if wider.size > most:
            return barred if barred.size else _most_frequent(pages, most)
        barred = wider
    return barred


def max_barred_pages(count: int, num_pages: int) -> int:
    """Pages that may be excluded from a draw of `count` held-out pages; negative if none fit."""
    return num_pages - max(count, -(-num_pages // OPEN_ONE_IN))


def _most_frequent(pages: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """The pages above the lowest frequency that leaves at most `most` pages."""
    distinct, times = np.unique(pages, return_counts=True)
    return distinct[times > np.sort(times)[::-1][most]]


def claimed_pages(
    seed: bytes, consumed: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    """A sample of `count` pages claimed by a miner as trained on, equally from each quarter.

    `consumed`: the front of the miner's page list, int64 [C], in order; a quarter with too few
    pages gives all its pages. The untrained pages of an exaggerated claim are in the last quarters,
    which are sampled too.
    """
    _check(seed, count, 1)
    words, chosen = _words(seed, 0, consumed.size), []
    for quarter in range(QUARTERS):
        start, stop = (consumed.size * (quarter + i) // QUARTERS for i in (0, 1))
        num = count * (quarter + 1) // QUARTERS - count * quarter // QUARTERS
        order = np.argsort(words[start:stop], kind="stable")[:num]
        chosen.append(consumed[start:stop][order])
    return np.concatenate(chosen)


def _check(seed: bytes, count: int, num_pages: int) -> None:
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
    if count < 0:
        raise ValueError(f"count is {count}, must not be negative")
    if not 1 <= num_pages <= MAX_PAGES:
        raise ValueError(f"num_pages is {num_pages}, must be in [1, {MAX_PAGES}]")


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
    ids: Collection[int] | npt.NDArray[np.int64], num_pages: int
) -> npt.NDArray[np.int64]:
    values = ids if isinstance(ids, np.ndarray) else np.fromiter(ids, np.int64, len(ids))
    if values.dtype.kind not in "iu":
        raise ValueError(f"excluded pages are ids, not an array of {values.dtype}")
    unique = np.unique(values).astype(np.int64)
    if unique.size and not (unique[0] >= 0 and unique[-1] < num_pages):
        raise ValueError(f"an excluded page is outside [0, {num_pages})")
    return unique


def _contains(
    sorted_ids: npt.NDArray[np.int64], values: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    left = np.searchsorted(sorted_ids, values, side="left")
    return np.searchsorted(sorted_ids, values, side="right") > left


def _first_distinct(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """`values` without repeats, in order of first appearance."""
    _, first = np.unique(values, return_index=True)
    return values[np.sort(first)]
