"""Chains whose blocks come by a clock that only sleeps move."""

from typing import cast

from template.chain import Chain
from template.chain.waiter import Waiter

FINALITY_LAG = 2


class ClockworkChain:
    """A block every `block_s`; a sleep is what moves the time."""

    def __init__(self, block_s: float) -> None:
        self.block_s = block_s
        self.now = 0.0
        self.sleeps: list[float] = []
        self.asked = self.asked_final = 0

    def head(self) -> int:
        self.asked += 1
        return int(self.now / self.block_s)

    def finalized(self) -> int:
        self.asked_final += 1
        return max(0, int(self.now / self.block_s) - FINALITY_LAG)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    def waiter(self) -> Waiter:
        return Waiter(cast(Chain, self), sleep=self.sleep, now_s=lambda: self.now)


class ChangingChain(ClockworkChain):
    """So many blocks `ahead` of the clock, after a hurry; below 0 after a standstill."""

    ahead = 0

    def head(self) -> int:
        return super().head() + self.ahead

    def finalized(self) -> int:
        return super().finalized() + self.ahead


class StoppingChain(ClockworkChain):
    """No block after `last`, until `goes_on_at` seconds; finality may stop alone."""

    last, goes_on_at, only_final = 30, float("inf"), False

    def head(self) -> int:
        return super().head() if self.only_final else self._stopped(super().head())

    def finalized(self) -> int:
        return self._stopped(super().finalized())

    def _stopped(self, block: int) -> int:
        return block if self.now >= self.goes_on_at else min(block, self.last)
