"""Waits for blocks. Blocks are the only clock; the machine's clock paces the polling."""

import time
from collections.abc import Callable

from template.chain import Chain

MIN_POLL_S = 0.05
MAX_POLL_S = 3.0
HEAD_AGE_S = 0.25


class Waiter:
    """Polls a chain, more often as the awaited block comes near."""

    def __init__(
        self,
        chain: Chain,
        *,
        sleep: Callable[[float], None] = time.sleep,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain = chain
        self._sleep = sleep
        self._now_s = now_s
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def recent_head(self) -> int:
        """The best block, read again if the last read is older than `HEAD_AGE_S`."""
        if self._first is None or self._now_s() - self._last[0] > HEAD_AGE_S:
            self._observe(self._chain.head())
        return self._last[1]

    def until_head(self, block: int) -> None:
        """Return once `block` exists."""
        self._until(self._chain.head, block)

    def until_finalized(self, block: int) -> None:
        """Return once `block` is finalised: reads at `block` then give their final answer."""
        self._until(self._chain.finalized, block)

    def pause(self) -> None:
        """Sleep for about one block."""
        self._sleep(min(max(self._block_time_s(), MIN_POLL_S), MAX_POLL_S))

    def _until(self, current: Callable[[], int], block: int) -> None:
        while (missing := block - current()) > 0:
            self._observe(self._chain.head())
            estimate_s = 0.5 * missing * self._block_time_s()
            self._sleep(min(max(estimate_s, MIN_POLL_S), MAX_POLL_S))

    def _observe(self, block: int) -> int:
        if self._first is None:
            self._first = (self._now_s(), block)
        self._last = (self._now_s(), block)
        return block

    def _block_time_s(self) -> float:
        """Seconds per block as observed; `MIN_POLL_S` until two blocks were observed."""
        if self._first is None or self._last[1] == self._first[1]:
            return MIN_POLL_S
        return (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])
