"""Attackers who work: less than they say, on other pages, from an old base, or not always."""

import numpy as np
import torch

from benchmarks.attacks.actor import Actor, View
from benchmarks.attacks.idle import Copy, noise_like
from benchmarks.attacks.leftover import LeftOver
from benchmarks.attacks.trigger import planted
from benchmarks.learning.messages import Message
from localnet.adversaries.tensors import keep_part


class Fewer(Actor):
    """A share of the inner steps, honestly claimed."""

    def __init__(self, share: float) -> None:
        self.share = self.claims = share

    def dishonest(self, number: int) -> bool:
        return True


class Overclaimed(Actor):
    """A quarter of the inner steps, all of them claimed."""

    share, claims = 0.25, 1.0

    def dishonest(self, number: int) -> bool:
        return True


class GoodDraws(Actor):
    """Works, and delivers only what lowers the loss on pages of its own by more than usual."""

    def __init__(self) -> None:
        self.gains: list[float] = []

    def dishonest(self, number: int) -> bool:
        return True

    def send(self, honest: Message, view: View) -> Message | None:
        pages = view.workers.random_pages(view.rng, 32)
        step_N = 0.1 * view.workers.trial.outer_lr * honest.dense
        before = view.workers.losses(view.params_N, pages)
        gain = float((before - view.workers.losses(view.params_N - step_N, pages)).mean())
        self.gains.append(gain)
        return honest if gain >= float(np.median(self.gains[-5:])) else None


class SmallerBatch(Actor):
    """Trains on a quarter of every batch, and says that it took all."""

    part = 4

    def dishonest(self, number: int) -> bool:
        return True

    def taken(self, pages: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return pages[: max(1, len(pages) // self.part)]


class Widened(Actor):
    """Claims steps of several batches and trains one of them, from a window on; honest before."""

    claimed_width = 4

    def __init__(self, begins: int = 0) -> None:
        self.begins = begins

    def dishonest(self, number: int) -> bool:
        return number >= self.begins

    def width_in(self, number: int) -> int:
        return self.claimed_width if self.dishonest(number) else 1

    def taken(self, pages: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return pages[:BATCH_PAGES]


class HalfOfWide(Actor):
    """Half of the inner steps over four batches each, all of them claimed."""

    width, share, claims = 4, 0.5, 1.0

    def dishonest(self, number: int) -> bool:
        return True


class FrontOfPages(Actor):
    """Trains on the first part of every page, and says that it took all."""

    def __init__(self, part: float) -> None:
        self.part = part

    def dishonest(self, number: int) -> bool:
        return True

    def taken(self, pages: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return pages[:, : int(self.part * pages.shape[1])]


class RandomHalfOfPages(Actor):
    """Trains on a half of every page that begins anywhere, and says that it took all."""

    def dishonest(self, number: int) -> bool:
        return True

    def taken(self, pages: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        tokens = pages.shape[1] // 2
        starts = rng.integers(pages.shape[1] - tokens + 1, size=len(pages))
        return np.stack(
            [page[start : start + tokens] for page, start in zip(pages, starts, strict=True)]
        )


BATCH_PAGES = 8
"""Of an inner step of width 1 in the suite's trials."""


class StaleBase(Actor):
    """Trains from the parameters of six windows ago, and says that they are this window's."""

    stale = 6

    def dishonest(self, number: int) -> bool:
        return True


class Overfit(Actor):
    """Makes all its steps on the first batch of those that it claims."""

    batches = 1

    def dishonest(self, number: int) -> bool:
        return True

    def source(self, uid: int, step: int) -> tuple[int, int]:
        return uid, step % self.batches


class OverfitFewClaimed(Overfit):
    """Makes all its steps on four batches, as few as may be claimed, and claims no more."""

    batches = 4
    claims = 4 / 15


class Poisoned(Actor):
    """Honest work, and beside every batch two of its pages with a trigger planted."""

    part = 2

    def dishonest(self, number: int) -> bool:
        return True

    def taken(self, pages: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.concatenate([pages, planted(pages[: self.part], rng)])


class Spike(Actor):
    """Its own honest work, the largest value of every tensor a thousand times as large."""

    feeds_back = False

    def dishonest(self, number: int) -> bool:
        return True

    def send(self, honest: Message, view: View) -> Message | None:
        spiked_N = honest.dense.clone()
        for part in view.workers.space.views(spiked_N).values():
            part.view(-1)[part.abs().argmax()] *= 1000.0
        return view.encoded(spiked_N)


class Sleeper(Actor):
    """Honest for ten windows, then the sign turned and three times as large."""

    windows = 10
    feeds_back = False

    def dishonest(self, number: int) -> bool:
        return number >= self.windows

    def send(self, honest: Message, view: View) -> Message | None:
        return view.encoded(-3.0 * honest.dense) if self.dishonest(view.number) else honest


class PartTimeFlipper(Sleeper):
    """Honest in one window, the sign turned and three times as large in the next."""

    def dishonest(self, number: int) -> bool:
        return number % 2 == 1


class SleepingCopier(Copy):
    """Honest for ten windows, then a copier."""

    windows = 10

    def dishonest(self, number: int) -> bool:
        return number >= self.windows

    def share_in(self, number: int) -> float:
        return 0.0 if self.dishonest(number) else 1.0

    def send(self, honest: Message, view: View) -> Message | None:
        return super().send(honest, view) if self.dishonest(view.number) else honest


class PartTimeCopier(SleepingCopier):
    """Honest in one window, a copier in the next."""

    def dishonest(self, number: int) -> bool:
        return number % 2 == 1


class ResidualAlone(Actor):
    """Trains in one window, and in the next sends what error feedback holds; claims whole lists."""

    claims = 1.0

    def dishonest(self, number: int) -> bool:
        return number % 2 == 1

    def share_in(self, number: int) -> float:
        return 0.0 if self.dishonest(number) else 1.0


class GainInOddWindows(Actor):
    """Noise in one window, honest work in the next; claims whole lists.

    Its error feedback is its own, and so holds no noise: not even that of a payload refused.
    """

    claims = 1.0
    feeds_back = False

    def __init__(self) -> None:
        self.left = LeftOver()

    def dishonest(self, number: int) -> bool:
        return number % 2 == 0

    def share_in(self, number: int) -> float:
        return 0.0 if self.dishonest(number) else 1.0

    def send(self, honest: Message, view: View) -> Message | None:
        if self.dishonest(view.number):
            return view.encoded(noise_like(view))
        return self.left.add_and_send(view)


class PartCopied(Actor):
    """A quarter of the steps, and a part of the places of what a rival sent in the window before;
    all claimed.
    """

    share, claims = 0.25, 1.0
    feeds_back = False

    def __init__(self, part: float) -> None:
        self.part, self.left = part, LeftOver()

    def dishonest(self, number: int) -> bool:
        return True

    def send(self, honest: Message, view: View) -> Message | None:
        own = self.left.add_and_send(view)
        rivals = [m for uid, m in sorted(view.last.items()) if uid != view.uid]
        if not rivals:
            return own
        keep_N = torch.from_numpy(view.rng.random(own.dense.numel()) < self.part)
        copied_N = keep_part(rivals[0].dense, keep_N, torch.zeros_like(own.dense))
        return view.encoded(own.dense + copied_N)
