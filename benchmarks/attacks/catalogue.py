"""The attacks, by name. A class each; what it may earn is said beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.attacks.actor import Actor, Attacker, View
from benchmarks.learning.messages import Message

FREE, PARTIAL, SYBIL = "free", "partial", "sybil"


class Gaussian(Attacker):
    """Noise at the norm that honest payloads have."""

    def send(self, honest: Message, view: View) -> Message | None:
        return view.encoded(_noise_like(view))


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
    """Its own honest work, times a factor."""

    share = 1.0

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def send(self, honest: Message, view: View) -> Message | None:
        return view.encoded(self.factor * honest.dense)


class LittleIsEnough(Attacker):
    """The honest mean less 1.5 standard deviations (arXiv 1902.06156), knowing both."""

    colludes = True
    z = 1.5

    def send(self, honest: Message, view: View) -> Message | None:
        if not view.honest_now:
            return view.encoded(_noise_like(view))
        rows_RN = torch.stack([m.dense for m in view.honest_now.values()])
        return view.encoded(rows_RN.mean(dim=0) - self.z * rows_RN.std(dim=0, unbiased=False))


class InnerProduct(Attacker):
    """Minus ten times the honest mean (arXiv 1903.03936, epsilon 10)."""

    colludes = True

    def send(self, honest: Message, view: View) -> Message | None:
        if not view.honest_now:
            return view.encoded(_noise_like(view))
        rows_RN = torch.stack([m.dense for m in view.honest_now.values()])
        return view.encoded(-10.0 * rows_RN.mean(dim=0))


class Hijack(Attacker):
    """Colluders who all send the same coordinates, against the last update."""

    def send(self, honest: Message, view: View) -> Message | None:
        if not view.last:
            return view.encoded(_noise_like(view))
        return view.encoded(-3.0 * view.update_N)


class Unique(Attacker):
    """Noise on coordinates that nobody sent in the window before."""

    def send(self, honest: Message, view: View) -> Message | None:
        noise_N = _noise_like(view)
        for message in view.last.values():
            noise_N[message.dense != 0] = 0.0
        return view.encoded(noise_N)


class Replay(Attacker):
    """Honest in the first window; sends that payload for ever."""

    share = 1.0

    def __init__(self) -> None:
        self.kept: Message | None = None

    def dishonest(self, number: int) -> bool:
        return number > 0

    def send(self, honest: Message, view: View) -> Message | None:
        self.kept = self.kept or honest
        return self.kept


class Copy(Attacker):
    """What a rival sent in the window before, with some noise, of some of its coordinates, or
    the average of several rivals.
    """

    def __init__(self, *, rivals: int = 1, noise: float = 0.0, part: float = 1.0) -> None:
        self.rivals, self.noise, self.part = rivals, noise, part

    def send(self, honest: Message, view: View) -> Message | None:
        others = [m for uid, m in sorted(view.last.items()) if uid != view.uid][: self.rivals]
        if not others:
            return view.encoded(_noise_like(view))
        copied_N = torch.stack([m.dense for m in others]).mean(dim=0)
        if self.noise:
            spread = copied_N[copied_N != 0].std()
            kept = (copied_N != 0).float()
            copied_N = copied_N + self.noise * spread * kept * _standard(view)
        if self.part < 1.0:
            keep_N = torch.from_numpy(view.rng.random(copied_N.numel()) < self.part)
            copied_N = torch.where(keep_N, copied_N, _noise_like(view))
        return view.encoded(copied_N)


class MomentumRider(Attacker):
    """The last applied update, and a tenth of the steps."""

    share = 0.1

    def send(self, honest: Message, view: View) -> Message | None:
        norm = honest.dense.norm().clamp(min=1e-30)
        ridden_N = view.update_N * norm / view.update_N.norm().clamp(min=1e-30)
        return view.encoded(ridden_N + honest.dense)


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


class Undelivered(Attacker):
    """Commits and never delivers."""

    def send(self, honest: Message, view: View) -> Message | None:
        return None


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


class Sleeper(Attacker):
    """Honest for ten windows, then the sign turned and three times as large."""

    share, windows = 1.0, 10

    def dishonest(self, number: int) -> bool:
        return number >= self.windows

    def send(self, honest: Message, view: View) -> Message | None:
        return view.encoded(-3.0 * honest.dense) if self.dishonest(view.number) else honest


class SleepingCopier(Copy):
    """Honest for ten windows, then a copier."""

    windows = 10
    share = 1.0

    def dishonest(self, number: int) -> bool:
        return number >= self.windows

    def send(self, honest: Message, view: View) -> Message | None:
        return super().send(honest, view) if self.dishonest(view.number) else honest


class TwinLeader(Actor):
    """One machine for two hotkeys: trains on the pages of both, half of each, and claims so."""

    claims = 0.5

    def dishonest(self, number: int) -> bool:
        return True

    def source(self, uid: int, step: int) -> tuple[int, int]:
        return uid + step % 2, step // 2


class TwinFollower(Attacker):
    """The second hotkey: sends the first one's payload with a little noise."""

    claims = 0.5

    def send(self, honest: Message, view: View) -> Message | None:
        leader_N = view.sent_now[view.uid - 1].dense
        kept_N = (leader_N != 0).float()
        spread = leader_N[leader_N != 0].std()
        return view.encoded(leader_N + 0.05 * spread * kept_N * _standard(view))


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """`make` builds one attacker; `second` every other one, if it is another. `work`: the share
    of an honest miner's work that each of them does.
    """

    kind: str
    make: Callable[[], Actor]
    second: Callable[[], Actor] | None = None
    work: float = 0.0

    def group(self, count: int) -> list[Actor]:
        """So many attackers in the order of their uids."""
        makers = (self.make, self.second or self.make)
        return [makers[i % 2]() for i in range(count)]


ATTACKS: Mapping[str, Attack] = {
    "gaussian": Attack(kind=FREE, make=Gaussian),
    "zero": Attack(kind=FREE, make=Zero),
    "sign flip": Attack(kind=FREE, make=Flipped),
    "magnitude 10": Attack(kind=FREE, make=lambda: Magnified(10.0)),
    "magnitude 1000": Attack(kind=FREE, make=lambda: Magnified(1000.0)),
    "a little is enough": Attack(kind=FREE, make=LittleIsEnough),
    "inner product": Attack(kind=FREE, make=InnerProduct),
    "index hijack": Attack(kind=FREE, make=Hijack),
    "unique coordinates": Attack(kind=FREE, make=Unique),
    "replay": Attack(kind=FREE, make=Replay),
    "delayed copy": Attack(kind=FREE, make=Copy),
    "noisy copy": Attack(kind=FREE, make=lambda: Copy(noise=0.5)),
    "partial copy": Attack(kind=FREE, make=lambda: Copy(part=0.4)),
    "average of two": Attack(kind=FREE, make=lambda: Copy(rivals=2)),
    "momentum rider": Attack(kind=FREE, make=MomentumRider),
    "not delivered": Attack(kind=FREE, make=Undelivered),
    "honest, then flipped": Attack(kind=FREE, make=Sleeper),
    "honest, then a copier": Attack(kind=FREE, make=SleepingCopier),
    "half of the steps": Attack(kind=PARTIAL, make=lambda: Fewer(0.5), work=0.5),
    "a quarter, all claimed": Attack(kind=PARTIAL, make=Overclaimed, work=0.25),
    "only good draws": Attack(kind=PARTIAL, make=GoodDraws, work=1.0),
    "one machine, two hotkeys": Attack(kind=SYBIL, make=lambda: Fewer(0.5), work=0.5),
    "one training, two hotkeys": Attack(kind=SYBIL, make=TwinLeader, second=TwinFollower, work=0.5),
}


def _standard(view: View) -> Tensor:
    generator = torch.Generator().manual_seed(int(view.rng.integers(2**31)))
    return torch.randn(view.params_N.shape, generator=generator)


def _noise_like(view: View) -> Tensor:
    """A random direction, every tensor as long as in the payloads of the window before."""
    noise_N = _standard(view) * 1e-3
    parts = [view.workers.space.views(message.dense) for message in view.last.values()]
    for name, tensor in view.workers.space.views(noise_N).items():
        if parts:
            norm = float(np.median([float(part[name].norm()) for part in parts]))
            kept = view.encoded(noise_N)
            tensor *= norm / max(1e-30, float(view.workers.space.views(kept.dense)[name].norm()))
    return noise_N
