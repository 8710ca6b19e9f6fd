"""Work shared out over threads: numpy lets go of the interpreter inside its loops.

Which thread does which piece must never matter: pieces write to places of their own.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def for_each(
    pieces: Sequence[Piece], work: Callable[[Iterator[Piece]], None], num_threads: int
) -> None:
    """Call `work` in each thread with an iterator that hands out the pieces, each one once.

    (A list's iterator is safe to share: its step is one operation of the interpreter.)
    The first error of any thread is raised after all have stopped.
    """
    shared = iter(list(pieces))
    if num_threads <= 1 or len(pieces) <= 1:
        work(shared)
        return
    with ThreadPoolExecutor(max_workers=num_threads) as pool:
        running = [pool.submit(work, shared) for _ in range(num_threads)]
    for future in running:
        future.result()


def map_ordered(
    work: Callable[[Piece], Result], pieces: Iterable[Piece], num_threads: int
) -> list[Result]:
    """Results in the order of the pieces; of several errors the earliest piece's is raised."""
    if num_threads <= 1:
        return [work(piece) for piece in pieces]
    with ThreadPoolExecutor(max_workers=num_threads) as pool:
        return list(pool.map(work, pieces))
