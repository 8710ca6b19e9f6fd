"""Threads that ask buckets, on a machine that may refuse another thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from template.errors import NodeTrouble

T = TypeVar("T")


def start(pool: ThreadPoolExecutor, ask: Callable[[], T]) -> Future[T]:
    """`ask()` on a thread of the pool; a future with NodeTrouble if no thread can be started."""
    try:
        return pool.submit(ask)
    except RuntimeError as error:
        refused: Future[T] = Future()
        refused.set_exception(NodeTrouble(f"this node could not start a thread ({error})"))
        return refused
