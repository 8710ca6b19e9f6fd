"""Miners whose payloads are no good: broken frames, noise, and work turned against the run."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from localnet.adversaries.dishonest import (
    DishonestMiner,
    Pretender,
    UpdateWatcher,
    noise_frame,
)
from localnet.adversaries.tensors import dense, frame_of, scaled, zeros
from template.base.miner import Miner
from template.context import NodeContext
from template.protocol.payload import PayloadHeader, decode_payload


class GarbageMiner(DishonestMiner):
    """Sends a well-formed payload of random values at the norm that honest miners have."""

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        return noise_frame(self, header)


class MalformedMiner(Miner):
    """Sends frames that break one rule each, a different one every window."""

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        return _break(super().make_frame(header, deltas), header.window)


def _break(frame: bytes, window: int) -> bytes:
    middle = len(frame) // 2
    broken = (
        frame[:-1],
        frame + b"\0",
        b"\xff" * len(frame),
        frame[:middle] + b"\xff" * (len(frame) - middle),
        b"X" + frame[1:],
        b"",
    )
    return broken[window % len(broken)]


class OversizedMiner(Miner):
    """Uploads an object `TIMES` as long as a payload, whose front is a good one."""

    TIMES = 1000

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        frame = super().make_frame(header, deltas)
        return frame + b"\0" * (self.TIMES - 1) * len(frame)


class IdleMiner:
    """Is registered and never commits anything."""

    def __init__(self, context: NodeContext) -> None:
        self.context = context

    def step(self) -> bool:
        schedule = self.context.schedule
        last = self.context.spec.schedule.num_windows
        self.context.waiter.until_finalized(schedule.vote_block(last - 1))
        return False


class FlippingMiner(Miner):
    """Honest, but flips one bit of its parameters in window `FLIP_WINDOW`: a faulty machine."""

    FLIP_WINDOW = 2

    def work(self, window: int) -> None:
        if window == self.FLIP_WINDOW:
            state = self.follower.state
            name = sorted(state.params)[0]
            flipped = state.params[name].clone()
            flipped.view(torch.int32).view(-1)[0] ^= 1
            params = {**state.params, name: flipped}
            faulty = dataclasses.replace(state, params=params)
            self.follower.ledger = dataclasses.replace(self.follower.ledger, state=faulty)
        super().work(window)


class ScaledMiner(DishonestMiner):
    """Does its work and sends it times `factor`; is honest before `first_window`."""

    def __init__(self, context: NodeContext, *, factor: float, first_window: int = 0) -> None:
        super().__init__(context)
        self._factor, self.first_window = factor, first_window

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        frame = super().make_frame(header, deltas)
        if header.window < self.first_window:
            return frame
        form = self.context.form
        return frame_of(header, scaled(dense(decode_payload(frame, form)), self._factor), form)


class ZeroMiner(Pretender):
    """Sends a payload that says nothing."""

    def forge(self, header: PayloadHeader) -> bytes | None:
        return frame_of(header, zeros(self.context.form), self.context.form)


class Hijacker(UpdateWatcher, Pretender):
    """Colludes with its like: all send minus three times the last update, on its coordinates."""

    FACTOR = -3.0

    def forge(self, header: PayloadHeader) -> bytes | None:
        if self.last_update is None:
            return None
        return frame_of(header, scaled(self.last_update, self.FACTOR), self.context.form)
