"""Waits for blocks. Blocks are the only clock; the machine's clock paces the polling.

A wait of some length is told (`template.chain.voice`). An endpoint may answer and stand still all
the same: that is told after some block times, and ends the wait with a ChainError after
`STILL_LIMIT_S`.
"""

import logging
import time
from collections.abc import Callable
from functools import partial
from threading import RLock

from template.chain import Chain
from template.chain.health import format_duration
from template.chain.voice import Awaited, Position, Tell, Voice
from template.errors import ChainError

log = logging.getLogger(__name__)

MIN_POLL_S = 0.05
MAX_POLL_S = 3.0
HEAD_AGE_S, HEAD_AGE_BLOCKS = 0.25, 0.25
"""Age at which an answer about head or finality is asked for anew: the longer of the two, and
`MAX_POLL_S` at most. Several threads of a node ask, and a public endpoint counts the questions.
"""
STILL_BLOCKS, MIN_STILL_S, MAX_STILL_S = 20, 10.0, 120.0
"""Block times without a new block until it is told, and the bounds of that time in seconds."""
RECENT_BLOCKS = 16
"""The pace of the chain is the mean over the last blocks, this many at least and twice as many at
most: a chain that stood still, or caught up in a hurry, has its usual pace again soon after."""
STILL_LIMIT_S = 1800.0
"""Longest standstill: then the process ends, and a service manager starts it anew."""


class _Progress:
    """Watches a number that a live chain raises: the best block, or the last final block."""

    def __init__(self, what: str, now_s: Callable[[], float]) -> None:
        self._what, self._now_s = what, now_s
        self._value, self._since_s, self.is_told = -1, now_s(), False

    def start(self) -> None:
        """Count from now on."""
        self._since_s = self._now_s()

    def note(self, value: int, patience_s: float) -> None:
        """Take in an answer. ChainError after `STILL_LIMIT_S` without progress."""
        still_s = self._now_s() - self._since_s
        if value > self._value:
            if self.is_told:
                log.warning("%s %d after %s", self._what, value, format_duration(still_s))
            self._value, self._since_s, self.is_told = value, self._now_s(), False
        elif still_s >= STILL_LIMIT_S:
            raise ChainError(
                f"the chain endpoint answers and stands still: {self._what} {self._value} since "
                f"{format_duration(still_s)}; name another endpoint with --subtensor.network",
                "standstill",
                is_final=True,
            )
        elif still_s >= patience_s and not self.is_told:
            self.is_told = True
            log.warning(
                "the chain endpoint answers and stands still: %s %d since %s; waiting for up to "
                "%s. Windows are missed meanwhile; if other endpoints go on, name one with "
                "--subtensor.network",
                self._what,
                self._value,
                format_duration(still_s),
                format_duration(STILL_LIMIT_S),
            )


def _log_line(line: str) -> None:
    log.info("%s", line)


class Waiter:
    """Polls a chain, more often as the awaited block comes near, and tells of long waits.

    For any thread.

    Every method that waits takes `what` the node waits for, in words that follow "waiting for",
    and `by_block`, where the whole wait ends with another block than the call. `tell` gets the
    lines: the log, or the standard error of a command without a log. `nominal_block_s` is the
    chain's own word for seconds per block, named until the waiter has observed blocks.
    """

    def __init__(
        self,
        chain: Chain,
        *,
        sleep: Callable[[float], None] = time.sleep,
        now_s: Callable[[], float] = time.monotonic,
        utc_s: Callable[[], float] = time.time,
        tell: Tell = _log_line,
        nominal_block_s: Callable[[], float] | None = None,
    ) -> None:
        self._chain = chain
        self._sleep = sleep
        self._now_s = now_s
        self._voice = Voice(tell, now_s, utc_s)
        self._ask_block_s = nominal_block_s
        self._nominal_block_s: float | None = None
        self._first: tuple[float, int] | None = None
        """The read that the pace is measured from."""
        self._next_first = (0.0, 0)
        self._last = (0.0, 0)
        self._last_final: tuple[float, int] | None = None
        self._lock = RLock()
        self._head = _Progress("block", now_s)
        self._final = _Progress("final block", now_s)

    def recent_head(self) -> int:
        """The best block, read again if the last read is too old: see `HEAD_AGE_S`."""
        if self._first is None or self._is_old(self._last[0]):
            self._observe(self._chain.head())
        return self._last[1]

    def recent_final(self) -> int:
        """The last final block, read again if the last read is too old: see `HEAD_AGE_S`."""
        known = self._last_final
        if known is None or self._is_old(known[0]):
            known = self._last_final = self._now_s(), self._chain.finalized()
        return known[1]

    def _is_old(self, read_s: float) -> bool:
        pace_s = HEAD_AGE_BLOCKS * self._block_time_s()
        return self._now_s() - read_s > min(max(HEAD_AGE_S, pace_s), MAX_POLL_S)

    def until_head(self, block: int, what: str = "", *, by_block: int | None = None) -> None:
        """Return once `block` exists."""
        self._until(self._chain.head, block, self._head, _awaited(block, what, by_block))

    def until_finalized(self, block: int, what: str = "", *, by_block: int | None = None) -> None:
        """Return once `block` is finalised: reads at `block` then give their final answer."""
        self._until(self._chain.finalized, block, self._final, _awaited(block, what, by_block))

    def pause(
        self, what: str = "", *, by_block: int | None = None, most_s: float = MAX_POLL_S
    ) -> None:
        """Sleep for about one block, in a wait for something else than a block.

        `most_s`: at most, where the caller has to look more often.
        """
        self.tell(what, by_block=by_block)
        self.nap(most_s)

    def nap(self, most_s: float) -> None:
        """Sleep for about one block without a word, beside a thread that speaks."""
        self._sleep(min(max(self._block_time_s(), MIN_POLL_S), most_s))

    def sleep(self, seconds: float) -> None:
        """Sleep without a word, by the clock of this waiter."""
        self._sleep(seconds)

    def tell(self, what: str, *, by_block: int | None = None, progress: str = "") -> None:
        """Say that a wait goes on, without a sleep: for waits with a clock of their own."""
        if what and not self._head.is_told:
            awaited = Awaited(what=what, by_block=by_block)
            with self._lock:
                self._voice.note(awaited, lambda: self._position(self.recent_head()), progress)

    def expected_head(self) -> int:
        """The best block by the pace of the chain, without asking; 0 before the first read."""
        if self._first is None or self._last[1] <= self._first[1]:
            return self._last[1]
        return self._last[1] + int((self._now_s() - self._last[0]) / self._block_time_s())

    def when(self, block: int) -> str:
        """A block ahead in words: number, distance and about what time; asks no chain.

        The number alone before the first read of the chain.
        """
        if self._first is None:
            return f"block {block}"
        return self._voice.describe(block, self._position(self.expected_head()))

    def _until(
        self, current: Callable[[], int], block: int, progress: _Progress, awaited: Awaited
    ) -> None:
        while block > (reached := current()):
            self._observe(self._chain.head())
            with self._lock:
                if self._head.is_told and progress is self._final:
                    progress.start()  # without blocks nothing becomes final: one cause, one line
                else:
                    progress.note(reached, self._patience_s())
                if not (self._head.is_told or progress.is_told):
                    self._voice.note(awaited, partial(self._position, reached))
            estimate_s = 0.5 * (block - reached) * self._block_time_s()
            self._sleep(min(max(estimate_s, MIN_POLL_S), MAX_POLL_S))

    def _position(self, reached: int) -> Position:
        if self._first is not None and self._last[1] > self._first[1]:
            return Position(block=reached, block_s=self._block_time_s())
        return Position(block=reached, block_s=self._nominal_block_s)

    def _ask_nominal_block_s(self) -> float | None:
        if self._ask_block_s is None:
            return None
        try:
            return self._ask_block_s()
        except ChainError as error:
            log.debug("the chain does not say its block time: %s", error)
            return None

    def _observe(self, block: int) -> int:
        with self._lock:
            if self._first is None:
                self._nominal_block_s = self._ask_nominal_block_s()
                self._first = self._next_first = (self._now_s(), block)
            self._head.note(block, self._patience_s())
            self._last = (self._now_s(), block)
            if block >= self._next_first[1] + RECENT_BLOCKS:
                self._first, self._next_first = self._next_first, self._last
            return block

    def _patience_s(self) -> float:
        """Seconds without a new block until it is told; the bound until the pace is known."""
        if self._first is None or self._last[1] <= self._first[1]:
            return MAX_STILL_S
        return min(max(STILL_BLOCKS * self._block_time_s(), MIN_STILL_S), MAX_STILL_S)

    def _block_time_s(self) -> float:
        """Seconds per block as observed lately; `MIN_POLL_S` until two blocks were observed."""
        first, last = self._first, self._last
        if first is None or last[1] <= first[1]:
            return MIN_POLL_S
        return (last[0] - first[0]) / (last[1] - first[1])


def _awaited(block: int, what: str, by_block: int | None) -> Awaited:
    return Awaited(what=what or f"block {block}", by_block=block if by_block is None else by_block)
