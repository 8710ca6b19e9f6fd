"""The inner loop of a window, the same for one device and for many.

An `Engine` has model and AdamW, and takes the steps; the loop says when to stop, and when to move
to newer parameters.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from template.protocol.spec import RunSpec

Start = Mapping[str, Tensor]
Rest = Callable[[Callable[[], None]], None]


def no_rest(_make_room: Callable[[], None]) -> None:
    """The `rest` of training that nobody asks to stand still."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How fast an inner loop ran, waiting for pages included.

    `utilization`: share of the devices' peak in the model's own arithmetic, None if the peak is not
    known. `micro_batch`: pages of one pass. `peak_bytes`: None where torch does not count.
    """

    tokens_per_s: float
    utilization: float | None
    micro_batch: int
    peak_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class InnerResult:
    """Result of a window's inner loop. `pseudo_gradient` is start - end, per tensor.

    `mean_loss`: nats per token, NaN without steps. `moved_at`: the step before which the start was
    moved to newer parameters last, or None. `speed`: None without steps. `busy_s`: seconds in inner
    steps alone, without waits for pages and other work.
    """

    pseudo_gradient: Mapping[str, Tensor]
    pages_consumed: int
    steps: int
    mean_loss: float
    moved_at: int | None = None
    speed: Speed | None = None
    busy_s: float = 0.0


class Engine(Protocol):
    """Model and optimizer on one device or many."""

    def begin(self, start: Start) -> None:
        """Load the parameters."""

    def shift(self, start: Start, goal: Start) -> None:
        """Add goal - start to the parameters."""

    def take_step(self, batch: np.ndarray, lr: float) -> Tensor:
        """One step of AdamW on int64 [pages, page_tokens]; the loss, nats per token."""

    def make_room(self) -> None:
        """Give up the memory that the next step fills anew, between two steps."""

    def speed(self, pages: int, elapsed_s: float) -> Speed:
        """The speed of so many pages."""

    def end(self, start: Start) -> Mapping[str, Tensor]:
        """start - parameters."""


class Trainer(Protocol):
    """What a miner trains with, whatever the number of devices."""

    @property
    def revision(self) -> object:
        """Another object after every change of the moments."""

    @property
    def shares_memory(self) -> bool:
        """Whether model and moments lie in the memory of the node's other work, on a CPU."""

    def follow(self, spec: RunSpec) -> None:
        """Train by another spec of the run from now on; the moments stay."""

    def train(  # noqa: PLR0913  all of a window
        self,
        start: Start,
        window: int,
        batches: Iterable[np.ndarray],
        stop: Callable[[], bool],
        newer: Callable[[], Start | None] = lambda: None,
        rest: Rest = no_rest,
        *,
        trained: Collection[str] | None = None,
    ) -> InnerResult:
        """Train from `start` until the batches end or `stop()` is true before a step.

        A batch is int64 [pages, page_tokens]; loss in nats per token. Before each step, `rest` may
        wait, with a function that makes room in memory first; and `newer()` may return newer
        parameters to start from: start and current parameters then shift by the same difference,
        so the progress of the window is kept.

        `trained`: names of the tensors to train, None for all. The rest of the model is frozen: no
        gradient is made of a frozen tensor, and the norm to which gradients are clipped is that of
        the trained tensors. The pseudo-gradient has the trained tensors alone. A tensor keeps its
        moments, and its count of steps, while others train.
        """

    def moments(self) -> Mapping[str, Tensor]:
        """AdamW's state as flat names, for a local checkpoint; empty before the first step.

        Of every tensor ever trained.
        """

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Restore the result of `moments()`; KeyError for a tensor that lacks some of its state."""

    def reset_moments(self) -> None:
        """Reset AdamW's state to the state before the first step."""

    def notes(self) -> dict[str, Any]:
        """What was found about this machine, as plain JSON values for `recall`."""

    def recall(self, notes: Mapping[str, Any]) -> None:
        """Take up an earlier run's `notes()`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """What decides on steps: `rate` is the learning rate of a step, the rest as in `train`."""

    rate: Callable[[int], float]
    stop: Callable[[], bool] = lambda: False
    newer: Callable[[], Start | None] = lambda: None
    rest: Rest = no_rest
    now_s: Callable[[], float] = time.monotonic


def run_inner_loop(
    engine: Engine, start: Start, batches: Iterable[np.ndarray], course: Course
) -> InnerResult:
    """Steps as `Trainer.train` says."""
    engine.begin(start)
    losses: list[Tensor | float] = []
    pages, moved_at, busy_s, started_s = 0, None, 0.0, course.now_s()
    for step, batch in enumerate(batches):
        if course.stop():
            break
        course.rest(engine.make_room)
        # Both ends move alike, so start - end goes on measuring this window's work alone.
        if (goal := course.newer()) is not None:
            engine.shift(start, goal)
            start, moved_at = goal, step
        begun_s = course.now_s()
        losses.append(engine.take_step(batch, course.rate(step)))
        pages += len(batch)
        # The device works on one step while the next is prepared, and never further behind.
        if step > 0:
            losses[-2] = float(losses[-2])
        busy_s += course.now_s() - begun_s
    begun_s = course.now_s()
    values = [float(loss) for loss in losses]
    busy_s += course.now_s() - begun_s
    speed = engine.speed(pages, course.now_s() - started_s) if losses else None
    return InnerResult(
        pseudo_gradient=engine.end(start),
        pages_consumed=pages,
        steps=len(values),
        mean_loss=float(np.mean(values)) if values else float("nan"),
        moved_at=moved_at,
        speed=speed,
        busy_s=busy_s,
    )
