"""A miner's work at a share of this machine's speed, by a duty cycle."""

import time
from collections.abc import Iterator
from typing import Final

import numpy as np

from template.base.conduct import MinerParts
from template.base.work import HonestWork
from template.training.checkpoint import LocalCheckpoint

SLICE_S: Final = 0.05
"""Longest sleep until the miner looks whether its idling is over early."""


class SlowedWork(HonestWork):
    """Honest work; after each inner step the miner idles, so that steps take 1 / `speed` as long.

    The idling falls where the loop waits for pages: no part of its busy time.
    """

    def __init__(self, parts: MinerParts, checkpoint: LocalCheckpoint, *, speed: float) -> None:
        super().__init__(parts, checkpoint)
        self._idle_share = 1.0 / speed - 1.0

    def batches(self, base: int) -> Iterator[np.ndarray]:
        for batch in super().batches(base):
            begun_s = time.monotonic()
            yield batch
            self._idle(base, (time.monotonic() - begun_s) * self._idle_share)

    def _idle(self, base: int, seconds: float) -> None:
        """Do nothing for so long, or until training has to stop; others may use the memory."""
        end_s = time.monotonic() + seconds
        with self.parts.gate.apart():
            while (left_s := end_s - time.monotonic()) > 0 and not self.is_late(base):
                time.sleep(min(left_s, SLICE_S))
