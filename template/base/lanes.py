"""Lanes: work that a node does beside its main thread, each lane in a thread of its own.

A lane repeats a turn as `supervise` repeats a node's step: passing faults are logged and tried
again, and an error beyond repetition ends the lane and, at the node's next look, the node.
"""

import logging
import time
from collections.abc import Callable, Mapping
from threading import Event, Thread
from typing import Final

from template.base.supervisor import supervise_to_error
from template.chain.waiter import Waiter

log = logging.getLogger(__name__)

Turn = Callable[[], bool]
"""A piece of work if there is any; whether there was."""

LOOK_S: Final = 1.0
"""Longest wait of a lane without work until it looks again."""
END_S: Final = 3.0
"""How long the end of a node waits for its lanes to notice."""


class Lanes:
    """Named turns, each in a thread; `waiter` says how long a block is."""

    def __init__(self, turns: Mapping[str, Turn], waiter: Waiter) -> None:
        self._waiter = waiter
        self._is_over = Event()
        self._errors: list[Exception] = []
        self._threads = [
            Thread(target=self._run, args=(turn,), name=name, daemon=True)
            for name, turn in turns.items()
        ]

    def start(self) -> None:
        """Begin all lanes that have not begun; RuntimeError if the machine refuses a thread."""
        for thread in self._threads:
            if thread.ident is None:
                thread.start()

    @property
    def are_over(self) -> bool:
        """Whether the lanes end: long work looks here, and breaks off."""
        return self._is_over.is_set()

    def check(self) -> None:
        """Raise the error that has ended a lane, if any has."""
        if self._errors:
            raise self._errors[0]

    def end(self, limit_s: float = END_S) -> bool:
        """Let no turn follow the one under way; whether all lanes have ended within the limit."""
        self._is_over.set()
        until_s = time.monotonic() + limit_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, turn: Turn) -> None:
        error = supervise_to_error(lambda: self._take(turn), self._waiter.sleep)
        if error is not None:
            self._errors.append(error)

    def _take(self, turn: Turn) -> bool:
        if self.are_over:
            return False
        if not turn():
            self._waiter.nap(LOOK_S)
        return not self.are_over
