"""Miners that do not do their work, for localnets and tests: what they send, and nothing else.

Each is the real miner with one part replaced.
"""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from template.base.context import NodeContext
from template.base.miner import Miner
from template.protocol.payload import PayloadHeader, encode_payload


class GarbageMiner(Miner):
    """Sends a well-formed payload of random values at the norm that honest miners have."""

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        references = self.clip_references()
        noise = {name: torch.randn(tensor.shape) for name, tensor in deltas.items()}
        _, raw = encode_payload(header, noise, self.context.form)
        scaled = {
            name: tensor * (references[name] / max(raw[name].norm, 1e-30))
            for name, tensor in noise.items()
        }
        return encode_payload(header, scaled, self.context.form)[0]


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
            self.follower.state = dataclasses.replace(state, params=params)
        super().work(window)


Build = Callable[[NodeContext], Miner | IdleMiner]

BEHAVIOURS: Mapping[str, Build] = {
    "garbage": GarbageMiner,
    "idle": IdleMiner,
    "malformed": MalformedMiner,
    "bitflip": FlippingMiner,
}
"""Name on the launcher's command line -> the neuron."""
