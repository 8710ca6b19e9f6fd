"""Miners whose inner steps take blocks of the chain, in a run of windows of 24 blocks."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from simulation.swarm import Drive, to_the_end
from template.base.miner import Miner
from template.base.starts import Starts
from template.base.work import HonestWork
from template.context import NodeContext
from template.protocol.payload import PayloadHeader
from template.training.options import InnerOptions

BLOCKS, STEPS, BATCH = 24, 6, 4
LONG = {
    "schedule__blocks_per_window": BLOCKS,
    "schedule__vote_margin_blocks": 8,
    "schedule__finality_lag_blocks": 2,
    "schedule__num_windows": 10,
    "outer__max_staleness": 4,
    "outer__staleness_decay": 1.0,
    "training__max_width": 4,
}
PATIENT = InnerOptions(windows=13)
"""As many windows for a payload as the run allows."""


class Paced(HonestWork):
    """`BATCH` pages of an inner step take so many blocks of the chain."""

    blocks_of_batch = 1.0
    sent: list[PayloadHeader]
    steps_at: list[int]
    under_way: list[tuple[int, list[int]]]
    """Of each inner loop: its page list's window, and those of own payloads without a decision."""

    def starts(self, window: int) -> Starts:
        made = super().starts(window)
        own = [payload.header.window for payload in made._under_way()]
        self.under_way.append((window, own))
        return made

    def batches(self, base: int) -> Iterator[np.ndarray]:
        waiter = self.parts.context.waiter
        due = float(waiter.recent_head())
        for batch in super().batches(base):
            yield batch
            due += self.blocks_of_batch * len(batch) / BATCH
            self.steps_at.append(waiter.recent_head())
            with self.parts.gate.apart():
                while waiter.recent_head() < due and not self.parts.is_over():
                    waiter.pause()

    def make_frame(self, header: PayloadHeader, deltas: Any) -> bytes:
        self.sent.append(header)
        return super().make_frame(header, deltas)


def paced(blocks: float, inner: InnerOptions | None = None) -> tuple[type[Paced], Drive]:
    """A miner whose batches take so many blocks, and its notes."""

    class Mine(Paced):
        blocks_of_batch = blocks

    Mine.sent, Mine.steps_at, Mine.under_way = [], [], []

    def make(context: NodeContext) -> Miner:
        own = context if inner is None else replace(context, inner=inner)
        return Miner(own, work=Mine)

    return Mine, to_the_end(make)
