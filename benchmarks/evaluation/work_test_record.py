"""Payloads on record for the work test's power: what honest ones gain on their own pages, and what
copied and made-up ones gain on pages that nobody trained on.

Honest miners train as the localnet's do (no lag: they wait for the update under way). In every
window each payload is measured as validators measure it, on held-out pages, on pages drawn for
nobody, and on pages that its miner trained on. Probes, payloads that a hotkey without work could
send, are measured on the pages of nobody and are not applied. Some of the probes no miner could
make, since nobody reads a payload of the same window: they are the strongest of a kind.

Legend: N parameters, I payloads, P pages, T tokens; F the held-out and free pages of a window, K
these and the own pages of a payload, Q quarters of a page.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.learning.messages import Message, SparseCodec
from benchmarks.learning.strategies.ours import Ours
from benchmarks.learning.trial import Trial
from benchmarks.learning.workers import Workers
from evaluation.work import QUARTERS
from template.data.assignment import claimed_pages
from template.protocol.hashing import labelled_hash, uint_bytes

HELD, FREE, OWN = 192, 512, 64
"""Pages of a window: held-out ones, ones that stand for the claims of hotkeys that did not train
on them, and ones of each honest miner. Careers draw fewer from them."""

EXCLUDED_WINDOWS = 8
"""Held-out pages were trained on by nobody for so long, as in the run specs."""

MINERS, WINDOWS = 6, 24

TRIALS: Mapping[str, Trial] = {
    "localnet": Trial(
        strategy="ours", lag=0, model="small", miners=MINERS, rounds=WINDOWS, inner_steps=30,
        inner_lr=2e-3, outer_lr=6.0, min_divisor=6, warm_steps=240,
    ),
    "attack suite": Trial(
        strategy="ours", lag=0, model="tiny", miners=MINERS, rounds=WINDOWS, inner_steps=15,
        inner_lr=4e-3, outer_lr=4.0, min_divisor=4, warm_steps=240,
    ),
}  # fmt: skip
"""The localnet's plan, and the model and plan of `benchmarks.attacks`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Gains in nats per token, float32: `honest_IKQ` by uid, `probes_IFQ` by `PROBES`.
    F: `HELD` held-out pages, `FREE` of nobody; K: then `OWN` of the miner, one quarter of its
    training after another.
    """

    honest_IKQ: np.ndarray
    probes_IFQ: np.ndarray


class Recording:
    """One run; `windows` plays it."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.workers = trial, Workers(trial)
        self._ours = Ours(self.workers)
        self._codec = SparseCodec(self.workers.space, trial.top_k, trial.decay, trial.bits)
        self._residual_RN = self._ours.zeros()
        self._stranger_N = torch.zeros(self.workers.space.num_elements)
        self._before: deque[list[Message]] = deque(maxlen=2)
        self._update_N = torch.zeros_like(self._stranger_N)
        self._trained: deque[set[bytes]] = deque(maxlen=EXCLUDED_WINDOWS)

    def windows(self) -> Iterator[Window]:
        """A window's gains after another; the first two have no past to copy, and are left out."""
        params_N = self.workers.theta0()
        for number in range(self.trial.rounds):
            sent = [self._honest(number, uid, params_N) for uid in range(self.trial.miners)]
            consumed = [self._consumed(number, uid) for uid in range(self.trial.miners)]
            self._trained.append({page.tobytes() for pages in consumed for page in pages})
            rng = np.random.default_rng((self.trial.seed, number))
            probes = self._probes(number, params_N, sent, rng)
            if number >= 2:
                yield self._measured(number, params_N, sent, probes, consumed, rng)
            self._before.append(sent)
            after_N = self._ours.merge(params_N, sent, self.trial.outer_lr)
            self._update_N, params_N = params_N - after_N, after_N

    def _honest(self, number: int, uid: int, params_N: Tensor) -> Message:
        delta_N = self._trained_by(number, uid, params_N)
        return self._codec.send(delta_N, self._residual_RN[uid], 1)

    def _trained_by(self, number: int, uid: int, params_N: Tensor) -> Tensor:
        place_N, steps = params_N.clone(), self.trial.inner_steps
        for step in range(steps):
            pages = self.workers.draw(uid, number * steps + step)
            self.workers.step(place_N, uid, pages, self.workers.inner_lr(number, step))
        return params_N - place_N

    def _consumed(self, number: int, uid: int) -> np.ndarray:
        steps = self.trial.inner_steps
        return np.concatenate([self.workers.draw(uid, number * steps + s) for s in range(steps)])

    def _probes(
        self, number: int, params_N: Tensor, sent: list[Message], rng: np.random.Generator
    ) -> dict[str, Message]:
        """What could be sent without training on one's pages; the last one is work on others'."""
        if number < 2:
            return {}
        older, last = self._before
        rival = int(rng.integers(len(sent)))
        first_N, second_N = sent[rival].dense, sent[(rival + 1) % len(sent)].dense
        noise_N = _noise(first_N, rng)
        keep_N = torch.from_numpy(rng.random(first_N.numel()) < 0.4)
        dense = {
            "copy of this window": first_N,
            "copy of the window before": last[rival].dense,
            "copy of two windows before": older[rival].dense,
            "noisy copy": torch.where(first_N != 0, first_N + 0.5 * noise_N, first_N),
            "partial copy": torch.where(keep_N, first_N, 0.1 * noise_N),
            "average of two": (first_N + second_N) / 2,
            "average of all": torch.stack([m.dense for m in sent]).mean(dim=0),
            "last update": self._update_N,
            "noise": 0.4 * noise_N,
        }
        probes = {name: self._encoded(values_N) for name, values_N in dense.items()}
        stranger_N = self._trained_by(number, self.trial.miners, params_N)
        probes["work on other pages"] = self._codec.send(stranger_N, self._stranger_N, 1)
        return probes

    def _encoded(self, dense_N: Tensor) -> Message:
        return self._codec.send(dense_N, torch.zeros_like(dense_N), 1)

    def _measured(
        self,
        number: int,
        params_N: Tensor,
        sent: list[Message],
        probes: Mapping[str, Message],
        consumed: list[np.ndarray],
        rng: np.random.Generator,
    ) -> Window:
        seed = labelled_hash("power", uint_bytes(self.trial.seed), uint_bytes(number))
        size = self.workers.spec.data.segment_pages
        own = [p[claimed_pages(seed, np.arange(len(p)), OWN, size)] for p in consumed]
        free = self.workers.random_pages(rng, FREE)
        shared_PT = np.concatenate([self._held_out(rng), free])
        before_FQ = self._losses(params_N, shared_PT)
        alpha, share = self.trial.outer_lr, self.workers.spec.evaluation.step_share

        def after(message: Message, pages_PT: np.ndarray) -> np.ndarray:
            step_N = self._ours.scored(message, sent, alpha, share)
            return self._losses(params_N - step_N, pages_PT)

        def gains_KQ(message: Message, own_PT: np.ndarray) -> np.ndarray:
            before_KQ = np.concatenate([before_FQ, self._losses(params_N, own_PT)])
            return before_KQ - after(message, np.concatenate([shared_PT, own_PT]))

        honest = [gains_KQ(message, own_PT) for message, own_PT in zip(sent, own, strict=True)]
        probed = [before_FQ - after(message, shared_PT) for message in probes.values()]
        return Window(
            honest_IKQ=np.stack(honest).astype(np.float32),
            probes_IFQ=np.stack(probed).astype(np.float32),
        )

    def _losses(self, params_N: Tensor, pages_PT: np.ndarray) -> np.ndarray:
        return self.workers.part_losses(params_N, pages_PT, QUARTERS)

    def _held_out(self, rng: np.random.Generator) -> np.ndarray:
        trained = set().union(*self._trained)
        drawn = self.workers.random_pages(rng, 2 * HELD)
        return np.stack([page for page in drawn if page.tobytes() not in trained][:HELD])


PROBES = (
    "copy of this window", "copy of the window before", "copy of two windows before",
    "noisy copy", "partial copy", "average of two", "average of all", "last update", "noise",
    "work on other pages",
)  # fmt: skip
"""In the order of `Window.probes_IFQ`."""


def recorded(trial: Trial, cache: Path) -> list[Window]:
    """The windows of a run, from `cache` where they lie there, else played and put there."""
    # Records of whole pages have names without `-quarters`.
    path = cache / f"{trial.key}-quarters.npz"
    if not path.exists():
        windows = list(Recording(trial).windows())
        cache.mkdir(parents=True, exist_ok=True)
        honest = np.stack([w.honest_IKQ for w in windows])
        probes = np.stack([w.probes_IFQ for w in windows])
        part = path.with_suffix(".part.npz")
        np.savez(part, honest=honest, probes=probes)
        part.replace(path)
    with np.load(path) as found:
        pairs = zip(found["honest"], found["probes"], strict=True)
        return [Window(honest_IKQ=one, probes_IFQ=other) for one, other in pairs]


def _noise(like_N: Tensor, rng: np.random.Generator) -> Tensor:
    """Standard normal values times the root mean square of the places that were kept."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    spread = float(like_N[like_N != 0].std())
    return spread * torch.randn(like_N.shape, generator=generator)
