"""The inner loop on many devices, as rank 0 sees it: the interface of the one for one device.

Rank 0 alone asks whether to stop and for newer parameters: an order for a step is the word to go
on, so the ranks never differ in the number of steps.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from template.errors import ConfigError, SpecChanged
from template.protocol.spec import RunSpec
from template.ranks.handles import Bands, BandSpreader, Held, numbers_of
from template.training.devices import device_name
from template.training.flops import flops_per_token, peak_tflops
from template.training.inner_loop import Course, InnerResult, Rest, Speed, no_rest, run_inner_loop
from template.training.optimizer import KEYS, is_foreign, keys_of, state_shapes
from template.training.options import InnerOptions
from template.training.rates import inner_lr
from template.training.spread import SavedFile, Shapes

WHOLE_ALONE = (
    "--neuron.parts: several ranks under torchrun train the whole model: start one process without "
    "torchrun, or leave --neuron.parts out"
)


class RanksTrainer:
    """Model and optimizer of one miner of many ranks. Not thread-safe: one window at a time."""

    def __init__(
        self,
        spreader: BandSpreader,
        spec: RunSpec,
        shapes: Shapes,
        device: torch.device,
        options: InnerOptions,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spreader, self._team = spreader, spreader.team
        self._spec, self._shapes, self._options = spec, shapes, options
        self._moment_shapes = state_shapes(spec.training, shapes)
        self._device, self._now_s = device, now_s
        self._peak_bytes: int | None = None
        self._has_moments = False
        self.revision: object = object()
        """Another object after every change of the moments."""

    def follow(self, spec: RunSpec) -> None:
        """SpecChanged for another spec than the ranks were started with."""
        if spec.spec_id == self._spec.spec_id:
            return
        raise SpecChanged(
            f"window {spec.first_window} has another run spec, {spec.spec_id.hex()}: a miner of "
            "several ranks follows it by a restart, and goes on from what is saved"
        )

    def train(  # noqa: PLR0913  all of a window
        self,
        start: Mapping[str, Tensor],
        window: int,
        batches: Iterable[np.ndarray],
        stop: Callable[[], bool],
        newer: Callable[[], Mapping[str, Tensor] | None] = lambda: None,
        rest: Rest = no_rest,
        *,
        trained: Collection[str] | None = None,
    ) -> InnerResult:
        """As in `Trainer`, of the whole model alone."""
        if trained is not None:
            raise ConfigError(WHOLE_ALONE)
        rate = partial(inner_lr, self._spec, window)
        course = Course(rate=rate, stop=stop, newer=newer, rest=rest, now_s=self._now_s)
        given = [start]
        del start  # as in `InnerTrainer`
        return run_inner_loop(self, given.pop(), batches, course)

    @property
    def shares_memory(self) -> bool:
        """As in `Trainer`."""
        return self._device.type == "cpu"

    def begin(self, start: Mapping[str, Tensor]) -> None:
        """As in `Engine`."""
        self.revision = object()
        self._team.tell("begin", start=numbers_of(start))

    def shift(self, start: Mapping[str, Tensor], goal: Mapping[str, Tensor]) -> None:
        """As in `Engine`."""
        self._team.tell("shift", start=numbers_of(start), goal=numbers_of(goal))

    def take_step(self, batch: np.ndarray, lr: float) -> Tensor:
        """As in `Engine`."""
        self._has_moments = True
        counts = [len(part) for part in np.array_split(batch, self._team.group.size)]
        loss: Tensor = self._team.tell("step", batch, counts=counts, lr=lr)
        return loss

    def make_room(self) -> None:
        """As in `Engine`."""
        self._team.call("make_room")  # every rank has ended its step

    def end(self, start: Mapping[str, Tensor]) -> Bands:
        """As in `Engine`."""
        made = Bands(Held(self._team), self._shapes)
        found = self._team.call("end_window", number=made.number, start=numbers_of(start))
        self._peak_bytes = max((peak for peak in found if peak is not None), default=None)
        return made

    def speed(self, pages: int, elapsed_s: float) -> Speed:
        """As in `Engine`; of all devices, and the memory of the window before."""
        tokens_per_s = pages * self._spec.data.page_tokens / max(elapsed_s, 1e-9)
        peak = self._options.peak_tflops or peak_tflops(
            device_name(self._device), self._spec.training.precision
        )
        work = tokens_per_s * flops_per_token(self._spec)
        size = self._team.group.size
        return Speed(
            tokens_per_s=tokens_per_s,
            utilization=work / (size * peak * 1e12) if peak else None,
            micro_batch=self._options.micro_batch or 1,
            peak_bytes=self._peak_bytes,
        )

    def moments(self) -> Mapping[str, Tensor]:
        """As in `Trainer`: a handle to be saved, of a copy unless the ranks train on the host."""
        if not self._has_moments:
            return {}
        made = Moments(self._spreader, self._moment_shapes)
        if not self.shares_memory:
            self._team.call("copy_moments", number=made.number)
        return made

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """As in `Trainer`; of any number of ranks, and of one device."""
        if not moments:
            return
        anew = [name for name in self._shapes if self._begins_anew(name, moments)]
        again = {name: shape for name, shape in self._shapes.items() if name not in anew}
        if missing := state_shapes(self._spec.training, again).keys() - moments.keys():
            raise KeyError(min(missing))
        self.revision = object()
        self._has_moments = True
        # A handle of its own name: the ranks forget bands with the last reference.
        given = self._spreader.bands_of(moments)
        self._team.tell("load_moments", number=given.number, anew=anew)

    def _begins_anew(self, name: str, moments: Mapping[str, Tensor]) -> bool:
        """As in `RangedOptimizer`: AdamW after Muon."""
        kept = [key for key in KEYS if f"{key}.{name}" in moments]
        return is_foreign(kept, keys_of(self._spec.training, name, self._shapes[name]))

    def reset_moments(self) -> None:
        """As in `Trainer`."""
        self.revision = object()
        self._has_moments = False
        self._team.tell("reset_moments")

    def notes(self) -> dict[str, Any]:
        """As in `Trainer`: nothing is searched for, since all ranks would have to fail together."""
        return {}

    def recall(self, notes: Mapping[str, Any]) -> None:
        """As in `Trainer`."""


class Moments(Bands):
    """The optimizer's moments, where FSDP2 has them. To be saved, and for nothing else."""

    def __init__(self, spreader: BandSpreader, shapes: Shapes) -> None:
        """`shapes`: of the moments, by flat names."""
        super().__init__(Held(spreader.team), shapes)

    def save(self, folder: Path, stem: str, metadata: Mapping[str, str]) -> list[SavedFile]:
        found = self._team.call(
            "save_moments",
            number=self.number,
            folder=str(folder),
            stem=stem,
            metadata=dict(metadata),
        )
        return [SavedFile(name=name, num_bytes=num_bytes) for name, num_bytes in found]
