"""A command run inside the test, and what it left."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """What a command left."""

    status: int
    out: str
    err: str


Run = Callable[..., Ended]
