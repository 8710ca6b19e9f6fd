"""Miners without own training: payloads made from payloads of the window before.

Commit before reveal hides a window's payloads until all digests are fixed, so the newest
material is one window old.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from localnet.adversaries.dishonest import DishonestWork, Pretender, fetch_rivals_payloads
from localnet.adversaries.tensors import (
    COPY_NOISE,
    COPY_SHARE,
    add_noise,
    average,
    avoid_places,
    dense,
    deviation,
    for_each_name,
    frame_of,
    keep_part,
    noise,
    noise_seed,
    reframed,
    shift_mean_a_little,
    turn_against_mean,
)
from template.base.conduct import MinerParts
from template.base.starts import Starts
from template.protocol.payload import Payload, PayloadHeader, decode_payload
from template.training.checkpoint import LocalCheckpoint
from template.training.inner import InnerResult
from template.training.model import Params


class Thief(Pretender):
    """Makes payloads from rivals' payloads: `remake`. Noise while rivals are too few."""

    min_rivals = 1
    _stolen: Sequence[Payload] = ()

    def train(self, base: int, starts: Starts) -> InnerResult:
        # Here and not in `forge`, which holds up the miner's other work.
        with self.parts.gate.apart():
            self._stolen = fetch_rivals_payloads(self.parts, base - 1)
        return super().train(base, starts)

    def forge(self, header: PayloadHeader) -> bytes | None:
        stolen, self._stolen = self._stolen, ()
        return self.remake(header, stolen) if len(stolen) >= self.min_rivals else None

    @abstractmethod
    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        """The frame from at least `min_rivals` payloads, the last accepted hotkeys first."""

    def frame_of(self, header: PayloadHeader, tensors: Mapping[str, Tensor]) -> bytes:
        return frame_of(header, tensors, self.form)

    def noise(self, header: PayloadHeader) -> Params:
        """Standard normal values, drawn anew every window."""
        context = self.parts.context
        return noise(self.form, noise_seed(context.hotkey, header.window))


class Copier(Thief):
    """One rival's payload, byte for byte, under an own header."""

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        return reframed(header, stolen[0], self.form)


class NoisyCopier(Thief):
    """One rival's payload, with noise of half a standard deviation on every value."""

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        noise = self.noise(header)
        noisy = {
            name: add_noise(tensor, noise[name], COPY_NOISE)
            for name, tensor in dense(stolen[0]).items()
        }
        return self.frame_of(header, noisy)


class PartialCopier(Thief):
    """Two fifths of one rival's values, drawn anew every window, and noise at other places."""

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        seed = noise_seed(self.parts.context.hotkey, header.window)
        generator = torch.Generator().manual_seed(seed)
        noise = self.noise(header)
        mixed = {}
        for name, tensor in dense(stolen[0]).items():
            keep = torch.rand(tensor.shape, generator=generator) < COPY_SHARE
            mixed[name] = keep_part(tensor, keep, 0.3 * deviation(tensor) * noise[name])
        return self.frame_of(header, mixed)


class Averager(Thief):
    """The mean of two rivals' payloads."""

    min_rivals = 2

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        both = for_each_name(average, [dense(payload) for payload in stolen[:2]])
        return self.frame_of(header, both)


class InnerProduct(Thief):
    """Minus ten times the rivals' mean."""

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        turned = for_each_name(turn_against_mean, [dense(payload) for payload in stolen])
        return self.frame_of(header, turned)


class LittleIsEnough(Thief):
    """The rivals' mean less 1.5 standard deviations."""

    min_rivals = 2

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        shifted = for_each_name(shift_mean_a_little, [dense(payload) for payload in stolen])
        return self.frame_of(header, shifted)


class Loner(Thief):
    """Noise at an honest norm, on coordinates outside every rival's payload."""

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        rivals = [dense(payload) for payload in stolen]
        alone = {
            name: avoid_places(tensor, [rival[name] for rival in rivals])
            for name, tensor in self.noise(header).items()
        }
        return self.honest_norms_frame(header, alone)


class Replayer(DishonestWork):
    """Trains in the first window only; sends that payload in all later windows."""

    first_window = 1

    def __init__(self, parts: MinerParts, checkpoint: LocalCheckpoint) -> None:
        super().__init__(parts, checkpoint)
        self._kept: Payload | None = None

    def train(self, base: int, starts: Starts) -> InnerResult:
        if self._kept is None:
            return super().train(base, starts)
        return self.claimed_result()

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        form = self.form
        if self._kept is None:
            frame = super().make_frame(header, deltas)
            self._kept = decode_payload(frame, form)
            return frame
        return reframed(header, self._kept, form)
