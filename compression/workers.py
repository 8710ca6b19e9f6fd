"""Threads for the codec's work: compiled loops run without the interpreter lock.

The result must not depend on the assignment of pieces to threads: pieces write to disjoint memory.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


BATCHES_PER_THREAD = 4
"""Few enough for negligible overhead, enough for an even finish of all threads."""


def for_each(
    work: Callable[[Piece], Result], pieces: Iterable[Piece], num_threads: int | None
) -> list[Result]:
    """Results in the order of the pieces. After errors in several pieces, raises the earliest's.

    `num_threads` None means PyTorch's number of threads. A thread takes batches of consecutive
    pieces.
    """
    pieces = list(pieces)
    threads = min(num_threads or torch.get_num_threads(), len(pieces))
    if threads <= 1:
        return [work(piece) for piece in pieces]
    step = -(-len(pieces) // (threads * BATCHES_PER_THREAD))
    batches = [pieces[first : first + step] for first in range(0, len(pieces), step)]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        done = pool.map(lambda batch: [work(piece) for piece in batch], batches)
        return [result for results in done for result in results]
