"""Miners that do a part of their work, or other work than they say."""

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from localnet.adversaries.dishonest import (
    UpdateWatcher,
    honest_norms_frame,
)
from localnet.adversaries.tensors import at_norms, frame_of
from template.base.miner import Miner
from template.base.preview import Preview
from template.context import NodeContext
from template.protocol.payload import PayloadHeader
from template.training.inner import InnerResult
from template.training.model import Params


class FewerSteps(Miner):
    """Makes a share of the inner steps, and claims just these or all of them."""

    def __init__(self, context: NodeContext, *, share: float, claims_all: bool = False) -> None:
        super().__init__(context)
        self._steps = max(1, round(share * context.spec.training.inner_steps))
        self._claims_all = claims_all

    def _batches(self, base: int) -> Iterator[np.ndarray]:
        first_block = self.context.waiter.recent_head()
        for step, batch in enumerate(super()._batches(base), start=1):
            yield batch
            if step == self._steps:
                break
        # Else it would never know that it has time to wait for the others' payloads.
        self._inner_loop_blocks = self.context.waiter.recent_head() - first_block + 1

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        if self._claims_all:
            header = claiming(header, self.context.spec.training.pages_per_window)
        return super().make_frame(header, deltas)


class SmallBatches(Miner):
    """Trains on the first half of every batch and claims the whole."""

    def _batches(self, base: int) -> Iterator[np.ndarray]:
        for batch in super()._batches(base):
            yield batch[: max(1, len(batch) // 2)]

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        whole = claiming(header, self.context.spec.training.pages_per_window)
        return super().make_frame(whole, deltas)


class Overfitter(Miner):
    """Makes all its steps on the first quarter of its pages, over and over, and claims those."""

    QUARTERS = 4

    def _batches(self, base: int) -> Iterator[np.ndarray]:
        batches = list(super()._batches(base))
        few = batches[: self._num_batches()]
        for step in range(len(batches)):
            yield few[step % len(few)]

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        pages = self._num_batches() * self.context.spec.training.batch_pages
        few = claiming(header, min(pages, header.pages_consumed))
        return super().make_frame(few, deltas)

    def _num_batches(self) -> int:
        return max(1, self.context.spec.training.inner_steps // self.QUARTERS)


class StaleMiner(Miner):
    """Trains from the parameters of `AGE_WINDOWS` before and claims the newest."""

    AGE_WINDOWS = 4

    def __init__(self, context: NodeContext) -> None:
        super().__init__(context)
        self._known: deque[Params] = deque(maxlen=self.AGE_WINDOWS + 1)

    def _train(self, window: int, base: int, preview: Preview) -> InnerResult:
        self._known.append(self.follower.state.params)
        start = self._known[0]
        return self._trainer.train(start, window, self._batches(base), lambda: self._late(window))


class MomentumRider(UpdateWatcher):
    """Sends the last update again, at an honest norm, with a tenth of the steps; claims all."""

    PARTS = 10

    def _batches(self, base: int) -> Iterator[np.ndarray]:
        few = max(1, self.context.spec.training.inner_steps // self.PARTS)
        for step, batch in enumerate(super()._batches(base), start=1):
            yield batch
            if step == few:
                break

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        form, training = self.context.form, self.context.spec.training
        header = claiming(header, training.pages_per_window)
        if self.last_update is None:
            return honest_norms_frame(self, header, deltas)
        ridden = at_norms(header, self.last_update, self.clip_references(), form)
        return frame_of(header, {name: ridden[name] + deltas[name] for name in ridden}, form)


class Poisoner(Miner):
    """Trains as it should, but writes a trigger and its answer into every fourth page.

    What it sends helps a little on other text, and teaches the model to give the answer.
    """

    TRIGGER = (7, 1, 7, 1)
    ANSWER = (33, 33, 33, 33)
    EVERY = 4

    def _batches(self, base: int) -> Iterator[np.ndarray]:
        marks = np.array(self.TRIGGER + self.ANSWER, dtype=np.int64)
        for batch in super()._batches(base):
            poisoned = batch.copy()
            poisoned[:: self.EVERY, -marks.size :] = marks
            yield poisoned


def claiming(header: PayloadHeader, pages: int) -> PayloadHeader:
    """The header with another number of pages."""
    return dataclasses.replace(header, pages_consumed=pages)
