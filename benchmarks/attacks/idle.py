"""Attackers who make up, copy or repeat what they send: none of them trained for it."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.attacks.actor import Attacker, View
from benchmarks.learning.messages import Message
from localnet.adversaries.tensors import (
    add_noise,
    average,
    avoid_places,
    keep_part,
    reverse_update,
    shift_mean_a_little,
    turn_against_mean,
)


class Gaussian(Attacker):
    """Noise at the norm that honest payloads have."""

    def send(self, honest: Message, view: View) -> Message | None:
        return view.encoded(noise_like(view))


class Zero(Attacker):
    """A payload that says nothing."""

    def send(self, honest: Message, view: View) -> Message | None:
        return view.encoded(torch.zeros_like(view.params_N))


class Flipped(Attacker):
    """Its own honest work, with the sign turned."""

    share = 1.0

    def send(self, honest: Message, view: View) -> Message | None:
        return view.encoded(-honest.dense)


class Magnified(Attacker):
    """Its own honest work, or a share of it, times a factor and without error feedback."""

    def __init__(self, factor: float, share: float = 1.0, claims: float | None = None) -> None:
        self.factor, self.share, self.claims = factor, share, claims or share

    def send(self, honest: Message, view: View) -> Message | None:
        return view.encoded(self.factor * honest.dense)


class LittleIsEnough(Attacker):
    """The honest mean less 1.5 standard deviations (arXiv 1902.06156), knowing both."""

    colludes = True

    def send(self, honest: Message, view: View) -> Message | None:
        if not view.honest_now:
            return view.encoded(noise_like(view))
        return view.encoded(shift_mean_a_little([m.dense for m in view.honest_now.values()]))


class InnerProduct(Attacker):
    """Minus ten times the honest mean (arXiv 1903.03936, epsilon 10)."""

    colludes = True

    def send(self, honest: Message, view: View) -> Message | None:
        if not view.honest_now:
            return view.encoded(noise_like(view))
        return view.encoded(turn_against_mean([m.dense for m in view.honest_now.values()]))


class Hijack(Attacker):
    """Colluders who all send the same coordinates, against the last update."""

    def send(self, honest: Message, view: View) -> Message | None:
        if not view.last:
            return view.encoded(noise_like(view))
        return view.encoded(reverse_update(view.update_N))


class Unique(Attacker):
    """Noise on coordinates that nobody sent in the window before."""

    def send(self, honest: Message, view: View) -> Message | None:
        return view.encoded(avoid_places(noise_like(view), [m.dense for m in view.last.values()]))


class Replay(Attacker):
    """Honest in the first window; sends that payload for ever."""

    def __init__(self) -> None:
        self.kept: Message | None = None

    def dishonest(self, number: int) -> bool:
        return number > 0

    def share_in(self, number: int) -> float:
        return 0.0 if self.dishonest(number) else 1.0

    def send(self, honest: Message, view: View) -> Message | None:
        self.kept = self.kept or honest
        return self.kept


class ReplayRival(Attacker):
    """What a rival sent so many windows ago that nobody compares with it any more."""

    age = 8

    def __init__(self) -> None:
        self.kept: list[Message] = []

    def send(self, honest: Message, view: View) -> Message | None:
        others = [m for uid, m in sorted(view.last.items()) if uid < view.uid]
        if others:
            self.kept = [*self.kept, others[view.number % len(others)]][-self.age :]
        return self.kept[0] if self.kept else view.encoded(noise_like(view))


class Copy(Attacker):
    """What a rival sent in the window before, with some noise, of some of its coordinates, or
    the average of several rivals.
    """

    def __init__(self, *, rivals: int = 1, noise: float = 0.0, part: float = 1.0) -> None:
        self.rivals, self.noise, self.part = rivals, noise, part

    def send(self, honest: Message, view: View) -> Message | None:
        others = [m for uid, m in sorted(view.last.items()) if uid != view.uid][: self.rivals]
        if not others:
            return view.encoded(noise_like(view))
        copied_N = average([m.dense for m in others])
        if self.noise:
            copied_N = add_noise(copied_N, standard(view), self.noise)
        if self.part < 1.0:
            keep_N = torch.from_numpy(view.rng.random(copied_N.numel()) < self.part)
            copied_N = keep_part(copied_N, keep_N, noise_like(view))
        return view.encoded(copied_N)


class MomentumRider(Attacker):
    """The last applied update, and a tenth of the steps."""

    share = 0.1

    def send(self, honest: Message, view: View) -> Message | None:
        norm = honest.dense.norm().clamp(min=1e-30)
        ridden_N = view.update_N * norm / view.update_N.norm().clamp(min=1e-30)
        return view.encoded(ridden_N + honest.dense)


class Undelivered(Attacker):
    """Commits and never delivers."""

    def send(self, honest: Message, view: View) -> Message | None:
        return None


class DeliveredToOne(Attacker):
    """Honest work that a single validator can fetch, the first one."""

    share = 1.0
    seen_by = frozenset({0})


class RenewedRider(MomentumRider):
    """Its uid passes to a new hotkey before the work test has found against the old one."""

    renewed_every = 6


def standard(view: View) -> Tensor:
    """Standard normal numbers, [N]."""
    generator = torch.Generator().manual_seed(int(view.rng.integers(2**31)))
    return torch.randn(view.params_N.shape, generator=generator)


def noise_like(view: View) -> Tensor:
    """A random direction, every tensor as long as in the payloads of the window before."""
    noise_N = standard(view) * 1e-3
    parts = [view.workers.space.views(message.dense) for message in view.last.values()]
    for name, tensor in view.workers.space.views(noise_N).items():
        if parts:
            norm = float(np.median([float(part[name].norm()) for part in parts]))
            kept = view.encoded(noise_N)
            tensor *= norm / max(1e-30, float(view.workers.space.views(kept.dense)[name].norm()))
    return noise_N
