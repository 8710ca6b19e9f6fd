"""Miners without work of their own: they send what rivals, or they themselves, published before.

Nobody can read a payload of a window before all are fixed, so what they take is of the window
before.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from localnet.adversaries.dishonest import (
    DishonestMiner,
    Pretender,
    honest_norms_frame,
    no_work,
    rivals_payloads,
)
from localnet.adversaries.tensors import (
    dense,
    deviation,
    frame_of,
    mean,
    noise,
    noise_seed,
    places,
    reframed,
    said_by,
    scaled,
    spread,
)
from template.base.preview import Preview
from template.context import NodeContext
from template.protocol.payload import Payload, PayloadHeader, decode_payload
from template.training.inner import InnerResult
from template.training.model import Params


class Thief(Pretender):
    """Makes its payload from those of rivals: `remake`. Noise until there are enough of them."""

    min_rivals = 1

    def forge(self, header: PayloadHeader) -> bytes | None:
        stolen = rivals_payloads(self, header.window - 1)
        return self.remake(header, stolen) if len(stolen) >= self.min_rivals else None

    @abstractmethod
    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        """The frame to send; `stolen` are at least `min_rivals`, those accepted last first."""

    def noise(self, header: PayloadHeader) -> Params:
        """Standard normal values, others in every window."""
        return noise(self.context.form, noise_seed(self.context.hotkey, header.window))


class Copier(Thief):
    """One rival's payload, byte for byte, under its own header."""

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        return reframed(header, stolen[0], self.context.form)


class NoisyCopier(Thief):
    """One rival's payload, with noise of half its standard deviation on every value."""

    NOISE = 0.5

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        copied, noise = dense(stolen[0]), self.noise(header)
        noisy = {
            name: tensor + self.NOISE * deviation(tensor) * places(tensor) * noise[name]
            for name, tensor in copied.items()
        }
        return frame_of(header, noisy, self.context.form)


class PartialCopier(Thief):
    """Two fifths of one rival's values, drawn anew every window, and noise for the others."""

    SHARE = 0.4

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        generator = torch.Generator().manual_seed(noise_seed(self.context.hotkey, header.window))
        noise = self.noise(header)
        mixed = {}
        for name, tensor in dense(stolen[0]).items():
            keep = torch.rand(tensor.shape, generator=generator) < self.SHARE
            mixed[name] = torch.where(keep, tensor, 0.3 * deviation(tensor) * noise[name])
        return frame_of(header, mixed, self.context.form)


class Averager(Thief):
    """The mean of two rivals' payloads."""

    min_rivals = 2

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        both = mean([dense(payload) for payload in stolen[:2]])
        return frame_of(header, both, self.context.form)


class InnerProduct(Thief):
    """Minus ten times the rivals' mean (arXiv 1903.03936, epsilon 10)."""

    FACTOR = -10.0

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        turned = scaled(mean([dense(payload) for payload in stolen]), self.FACTOR)
        return frame_of(header, turned, self.context.form)


class LittleIsEnough(Thief):
    """The rivals' mean less 1.5 standard deviations (arXiv 1902.06156)."""

    min_rivals = 2
    DEVIATIONS = 1.5

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        rows = [dense(payload) for payload in stolen]
        middle, deviations = mean(rows), spread(rows)
        moved = {n: middle[n] - self.DEVIATIONS * deviations[n] for n in middle}
        return frame_of(header, moved, self.context.form)


class Loner(Thief):
    """Noise at an honest norm on coordinates that no rival sent."""

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        said = said_by(stolen)
        alone = {name: tensor * ~said[name] for name, tensor in self.noise(header).items()}
        return honest_norms_frame(self, header, alone)


class Replayer(DishonestMiner):
    """Works in its first window; sends that payload ever after, under new headers."""

    first_window = 1

    def __init__(self, context: NodeContext) -> None:
        super().__init__(context)
        self._kept: Payload | None = None

    def _train(self, window: int, base: int, preview: Preview) -> InnerResult:
        if self._kept is None:
            return super()._train(window, base, preview)
        return no_work(self)

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        if self._kept is None:
            frame = super().make_frame(header, deltas)
            self._kept = decode_payload(frame, self.context.form)
            return frame
        return reframed(header, self._kept, self.context.form)
