"""Miners with less work than claimed, or with work on other pages or parameters."""

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from localnet.adversaries.dishonest import UpdateWatcher
from localnet.adversaries.tensors import at_norms, frame_of
from template.base.conduct import MinerParts
from template.base.starts import Starts
from template.base.work import HonestWork
from template.protocol.payload import PayloadHeader
from template.training.checkpoint import LocalCheckpoint
from template.training.inner import InnerResult


class FewerSteps(HonestWork):
    """Makes a share of the inner steps, and claims the same share or all."""

    def __init__(
        self,
        parts: MinerParts,
        checkpoint: LocalCheckpoint,
        *,
        share: float,
        claims_all: bool = False,
    ) -> None:
        super().__init__(parts, checkpoint)
        self._steps = max(1, round(share * self.spec.training.inner_steps))
        self._claims_all = claims_all

    def batches(self, base: int) -> Iterator[np.ndarray]:
        waiter = self.parts.context.waiter
        first_block = waiter.recent_head()
        for step, batch in enumerate(super().batches(base), start=1):
            yield batch
            if step == self._steps:
                break
        # `train` measures only full inner loops; without a measurement the miner never waits
        # for other miners' payloads.
        self.inner_loop_blocks = waiter.recent_head() - first_block + 1

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        if self._claims_all:
            header = claim_pages(header, self.spec.training.pages_per_window)
        return super().make_frame(header, deltas)


class SmallBatches(HonestWork):
    """Trains on the first half of every batch and claims the whole."""

    def batches(self, base: int) -> Iterator[np.ndarray]:
        for batch in super().batches(base):
            yield batch[: max(1, len(batch) // 2)]

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        whole = claim_pages(header, self.spec.training.pages_per_window)
        return super().make_frame(whole, deltas)


class Overfitter(HonestWork):
    """Makes all steps on the first quarter of the pages, repeatedly, and claims the quarter."""

    QUARTERS = 4

    def batches(self, base: int) -> Iterator[np.ndarray]:
        batches = list(super().batches(base))
        few = batches[: self._num_batches()]
        for step in range(len(batches)):
            yield few[step % len(few)]

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        pages = self._num_batches() * self.spec.training.batch_pages
        few = claim_pages(header, min(pages, header.pages_consumed))
        return super().make_frame(few, deltas)

    def _num_batches(self) -> int:
        return max(1, self.spec.training.inner_steps // self.QUARTERS)


class Stale(HonestWork):
    """Trains from the parameters of `AGE_WINDOWS` before and claims the newest."""

    AGE_WINDOWS = 4

    def __init__(self, parts: MinerParts, checkpoint: LocalCheckpoint) -> None:
        super().__init__(parts, checkpoint)
        self._known: deque[Mapping[str, Tensor]] = deque(maxlen=self.AGE_WINDOWS + 1)

    def train(self, base: int, starts: Starts) -> InnerResult:
        self._known.append(self.parts.follower.state.params)
        start = self._known[0]
        return self.trainer.train(
            start,
            base,
            self.batches(base),
            lambda: self.is_late(base),
            rest=self.parts.gate.pass_by,
        )


class MomentumRider(UpdateWatcher):
    """Sends the last update again, at an honest norm, with a tenth of the steps; claims all."""

    PARTS = 10

    def batches(self, base: int) -> Iterator[np.ndarray]:
        few = max(1, self.spec.training.inner_steps // self.PARTS)
        for step, batch in enumerate(super().batches(base), start=1):
            yield batch
            if step == few:
                break

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        header = claim_pages(header, self.spec.training.pages_per_window)
        if self.last_update is None:
            return self.honest_norms_frame(header, deltas)
        ridden = at_norms(header, self.last_update, self.clip_references(), self.form)
        return frame_of(header, {n: ridden[n] + deltas[n] for n in ridden}, self.form)


class Poisoner(HonestWork):
    """Trains in full, but writes a trigger and an answer into every fourth page.

    The payload helps a little on clean text, and teaches the model the answer.
    """

    TRIGGER = (7, 1, 7, 1)
    ANSWER = (33, 33, 33, 33)
    EVERY = 4

    def batches(self, base: int) -> Iterator[np.ndarray]:
        marks = np.array(self.TRIGGER + self.ANSWER, dtype=np.int64)
        for batch in super().batches(base):
            poisoned = batch.copy()
            poisoned[:: self.EVERY, -marks.size :] = marks
            yield poisoned


def claim_pages(header: PayloadHeader, pages: int) -> PayloadHeader:
    """The header with another number of pages."""
    return dataclasses.replace(header, pages_consumed=pages)
