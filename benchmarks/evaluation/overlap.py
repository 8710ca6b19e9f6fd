"""Time and memory of the overlap check, whatever the payloads hold: before and after in one run.

    python -m benchmarks.evaluation.overlap            0.11 M and 3.2 M elements (three minutes)
    python -m benchmarks.evaluation.overlap --quick    0.11 M elements

Before: the check that listed every two payloads at every common position. Each window has 256
payloads of one kept value in 64: noise; identical; near (every two share half of their positions,
and hardly two positions have the same owners); close (all positions in a corner of the model).
History: 16 payloads of noise against 14 windows of 16 earlier ones, as in a run of large models.
Processor seconds of one thread, and bytes at the peak in a second pass.
"""

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from evaluation.overlap import Ints, Places, shared_counts

NUM_PAYLOADS, KEPT_SHARE = 256, 1 / 64
NUM_COMPARED = {"history": 16}
"""Payloads compared with all others; of other kinds all."""
ELEMENTS = (110_000, 3_200_000)
BLOCK_PLACES, BLOCK_ELEMENTS = 1 << 18, 1 << 16

Count = Callable[[Sequence[Places], int], Ints]


def main(argv: Sequence[str]) -> None:
    """Print a row for each size and content."""
    parser = argparse.ArgumentParser(prog="benchmarks.evaluation.overlap", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="0.11 M elements alone")
    sizes = ELEMENTS[:1] if parser.parse_args(argv).quick else ELEMENTS
    print("| elements | payloads | before, s | after, s | ratio | before, MB | after, MB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for num_elements in sizes:
        for name, rows in windows(num_elements, np.random.default_rng(0)).items():
            num_first = NUM_COMPARED.get(name, len(rows))
            before_s, before_bytes, expected = _measure(listed_counts, rows, num_first)
            after_s, after_bytes, counts = _measure(shared_counts, rows, num_first)
            assert np.array_equal(expected, counts), "both count the same"
            print(
                f"| {num_elements:,} | {name} | {before_s:.3f} | {after_s:.3f} | "
                f"{before_s / after_s:.1f} | {before_bytes / 1e6:.0f} | {after_bytes / 1e6:.0f} | "
                f"{before_bytes / after_bytes:.1f} |",
                flush=True,
            )


def windows(num_elements: int, rng: np.random.Generator) -> Mapping[str, Sequence[Places]]:
    """The payloads of a window, by kind."""
    kept = int(num_elements * KEPT_SHARE)

    def drawn(universe: npt.NDArray[np.int64]) -> Places:
        return np.sort(rng.choice(universe, kept, replace=False)).astype(np.int32)

    def window(universe: npt.NDArray[np.int64]) -> list[Places]:
        return [drawn(universe) for _ in range(NUM_PAYLOADS)]

    whole = np.arange(num_elements)
    return {
        "noise": window(whole),
        "identical": [drawn(whole)] * NUM_PAYLOADS,
        "near": window(rng.choice(whole, 2 * kept, replace=False)),
        "close": window(whole[: 16 * kept]),
        "history": [drawn(whole) for _ in range(15 * NUM_COMPARED["history"])],
    }


def listed_counts(rows: Sequence[Places], num_first: int) -> Ints:
    """The counts as computed before: from a list of every two rows at every position."""
    counts = np.zeros(num_first * len(rows), dtype=np.int64)
    for places, owners in _blocks(rows):
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


def _blocks(rows: Sequence[Places]) -> Iterator[tuple[npt.NDArray[np.uint16], Ints]]:
    last = max((int(row[-1]) for row in rows if row.size), default=-1)
    total = sum(row.size for row in rows)
    length = min(BLOCK_ELEMENTS, 1 + max(0, last) * BLOCK_PLACES // max(1, total))
    edges = np.arange(0, last + 1 + length, length, dtype=np.int32)
    cuts = [np.searchsorted(row, edges) for row in rows]
    for block, edge in enumerate(edges[:-1]):
        parts = [row[cut[block] : cut[block + 1]] for row, cut in zip(rows, cuts, strict=True)]
        near = (np.concatenate(parts) - edge).astype(np.uint16)
        order = np.argsort(near, kind="stable")
        yield near[order], np.repeat(np.arange(len(rows)), [part.size for part in parts])[order]


def _measure(count: Count, rows: Sequence[Places], num_first: int) -> tuple[float, int, Ints]:
    started_s = time.process_time()
    counts = count(rows, num_first)
    took_s = time.process_time() - started_s
    tracemalloc.start()
    count(rows, num_first)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return took_s, peak_bytes, counts


if __name__ == "__main__":
    main(sys.argv[1:])
