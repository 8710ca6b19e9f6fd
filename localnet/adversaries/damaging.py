"""Miners with harmful payloads: broken frames, noise, and work turned against the run."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from localnet.adversaries.dishonest import DishonestWork, Pretender, UpdateWatcher
from localnet.adversaries.tensors import dense, frame_of, reverse_update, scaled, zeros
from template.base.conduct import MinerParts
from template.base.work import HonestWork
from template.context import NodeContext
from template.protocol.payload import PayloadHeader, decode_payload
from template.protocol.quorum import Decision
from template.training.checkpoint import LocalCheckpoint


class Garbage(DishonestWork):
    """Sends a well-formed payload of random values at the norm of honest payloads."""

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        return self.noise_frame(header)


class Malformed(HonestWork):
    """Sends frames with one broken rule each, a different rule every window."""

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        return break_frame(super().make_frame(header, deltas), header.window)


def break_frame(frame: bytes, window: int) -> bytes:
    """Damage a valid frame, in one of six ways by window."""
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


def lengthen_frame(frame: bytes, times: int) -> bytes:
    """A valid frame, then zeros up to `times` its length."""
    return frame + bytes((times - 1) * len(frame))


class Oversized(HonestWork):
    """Uploads an object `TIMES` as long as a payload, with a valid payload in front."""

    TIMES = 1000

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        return lengthen_frame(super().make_frame(header, deltas), self.TIMES)


class IdleMiner:
    """A registered hotkey without any record on chain."""

    def __init__(self, context: NodeContext) -> None:
        self.context = context

    def step(self) -> bool:
        schedule = self.context.schedule
        last = self.context.run.num_windows
        self.context.waiter.until_finalized(schedule.vote_block(last - 1), "the run's end")
        return False

    def stop(self) -> None:
        """Nothing is committed."""


class BitFlip(HonestWork):
    """Honest, but flips one bit of the parameters in window `FLIP_WINDOW`: a faulty machine."""

    FLIP_WINDOW = 2

    def note_decision(self, decision: Decision) -> None:
        follower = self.parts.follower
        if follower.state.window == self.FLIP_WINDOW:
            name = sorted(follower.state.params)[0]
            flipped = follower.state.params[name].clone()
            flipped.view(torch.int32).view(-1)[0] ^= 1
            params = {**follower.state.params, name: flipped}
            faulty = dataclasses.replace(follower.state, params=params)
            follower.ledger = dataclasses.replace(follower.ledger, state=faulty)


class Scaled(DishonestWork):
    """Trains, and sends the result times `factor`; is honest before `first_window`."""

    def __init__(
        self,
        parts: MinerParts,
        checkpoint: LocalCheckpoint,
        *,
        factor: float,
        first_window: int = 0,
    ) -> None:
        super().__init__(parts, checkpoint)
        self._factor, self.first_window = factor, first_window

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        frame = super().make_frame(header, deltas)
        if header.window < self.first_window:
            return frame
        form = self.form
        return frame_of(header, scaled(dense(decode_payload(frame, form)), self._factor), form)


class Zero(Pretender):
    """Sends a payload of zeros."""

    def forge(self, header: PayloadHeader) -> bytes | None:
        form = self.form
        return frame_of(header, zeros(form), form)


class Hijacker(UpdateWatcher, Pretender):
    """Colludes: all copies send minus three times the last update, on the same coordinates."""

    def forge(self, header: PayloadHeader) -> bytes | None:
        if self.last_update is None:
            return None
        reversed_update = {name: reverse_update(t) for name, t in self.last_update.items()}
        return frame_of(header, reversed_update, self.form)
