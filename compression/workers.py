"""Work shared out over threads: compiled loops let go of the interpreter.

Which thread does which piece must never matter: pieces write to places of their own.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


BATCHES_PER_THREAD = 4
"""Few enough to cost nothing, enough that no thread waits long for the last."""


def for_each(
    work: Callable[[Piece], Result], pieces: Iterable[Piece], num_threads: int | None
) -> list[Result]:
    """Results in the order of the pieces; of several errors the earliest piece's is raised.

    `num_threads` None means as many as PyTorch uses. A thread takes pieces in batches that
    stand side by side.
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
