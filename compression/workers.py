"""Work shared out over threads: compiled loops let go of the interpreter.

Which thread does which piece must never matter: pieces write to places of their own.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def for_each(
    work: Callable[[Piece], Result], pieces: Iterable[Piece], num_threads: int | None
) -> list[Result]:
    """Results in the order of the pieces; of several errors the earliest piece's is raised.

    `num_threads` None means as many as PyTorch uses.
    """
    pieces = list(pieces)
    threads = min(num_threads or torch.get_num_threads(), len(pieces))
    if threads <= 1:
        return [work(piece) for piece in pieces]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(work, pieces))
