"""What is run: the localnet's plan over hundreds of windows, four honest miners and others.

Payloads, scoring, verdicts, pay and outer step are the project's own functions, on the attack
suite's lean model; a test holds these equal to the loops of the neurons.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.attacks.actor import Actor
from benchmarks.attacks.idle import Copy, Gaussian, Undelivered
from benchmarks.attacks.panel import Setting
from benchmarks.attacks.swarm import Swarm
from benchmarks.learning.record import append
from benchmarks.learning.trial import KEY_DIGITS, Trial
from benchmarks.learning.workers import CURVE_PAGES, FINAL_PAGES, PLAN
from benchmarks.long.turncoat import Turncoat
from evaluation.verdict import Verdict
from localnet.adversaries.tensors import COPY_NOISE
from template.commands.plan import load_plan

VERSION = 4
"""Of rules and actors: goes up whenever the same case would end otherwise."""

HONEST = (0, 1, 2, 3)
FIRST_ALPHAS = (1.5, 24.0)
"""A quarter of the plan's alpha, and four times as much."""
BLOCK = 24
"""Windows of a point of the curves."""
TURN, BACK = 60, 72
"""A turncoat's first window of other conduct, and its first honest one after."""
SIGNIFICANT = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One run. `cast`: who takes part beside the honest miners; see `roster`. `first_alpha`:
    instead of the plan's.
    """

    cast: str
    seed: int
    windows: int
    first_alpha: float | None = None

    @property
    def key(self) -> str:
        text = json.dumps([VERSION, asdict(self), asdict(self.trial)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]

    @property
    def trial(self) -> Trial:
        """The localnet's plan: miners have time to wait for the update under way."""
        plan = load_plan(PLAN)
        training, outer = plan["training"], plan["outer"]
        return Trial(
            strategy="ours",
            lag=0,
            miners=len(self.roster()),
            rounds=self.windows,
            seed=self.seed,
            inner_steps=training["inner_steps"],
            inner_lr=training["inner_lr"],
            decay_share=training["decay_share"],
            warm_steps=training["warm_start_steps"],
            outer_lr=self.first_alpha or outer["outer_lr"],
            min_divisor=outer["min_divisor"],
            decay=plan["compression"]["error_feedback_decay"],
            top_k=plan["compression"]["top_k"],
        )

    def roster(self) -> list[Actor]:
        """Miners by uid; the honest ones come first.

        `clean`: honest miners on the pages assigned to them in `noise`; no payload is refused.
        `noise`: honest miners, noise of honest norms, and a noisy copy of an honest payload of the
        window before. Other casts: the last honest miner turns in window `TURN`, and returns to
        honest work in window `BACK`.
        """
        honest = [Actor() for _ in HONEST]
        if self.cast == "clean":
            return [*honest, Undelivered(), Undelivered()]
        if self.cast == "noise":
            return [*honest, Gaussian(), Copy(noise=COPY_NOISE)]
        kinds = {"turns to noise": "noise", "turns around": "flip", "turns lazy": "tenth"}
        return [*honest[:-1], Turncoat(kinds[self.cast], TURN, BACK), Gaussian()]

    def setting(self) -> Setting:
        """Scoring by the plan; guesses of the accepted as the neurons make them."""
        evaluation = load_plan(PLAN)["evaluation"]
        return Setting(
            claimed_pages=evaluation["claimed_pages"],
            work_effect=evaluation["work_effect"],
            refuses=self.cast != "clean",
            guesses=True,
        )


def cases(seeds: Sequence[int] = (1, 2, 3), windows: int = 200, longest: int = 500) -> list[Case]:
    """The first are those of the goals."""
    found = [Case(cast="noise", seed=seed, windows=windows) for seed in seeds]
    found += [Case(cast="clean", seed=seed, windows=windows) for seed in seeds]
    found += [Case(cast="noise", seed=1, windows=longest)] if longest else []
    found += [
        Case(cast="noise", seed=1, windows=windows, first_alpha=alpha) for alpha in FIRST_ALPHAS
    ]
    turns = ("turns to noise", "turns around", "turns lazy")
    return found + [Case(cast=cast, seed=1, windows=min(120, windows)) for cast in turns]


def run_case(case: Case, record: Path) -> str:
    """Play, append to the record, and say how it ended."""
    started_s = time.perf_counter()
    row = play(case) | {"seconds": round(time.perf_counter() - started_s)}
    append(record, row)
    return (
        f"{case.cast}, seed {case.seed}, {case.windows} windows: {row['held_out_loss']:.4f} in "
        f"{row['seconds']} s"
    )


def play(case: Case) -> dict[str, Any]:
    """The row of the record.

    `curve`: (windows, nats per byte) after each block. `alphas`: of the step of every window.
    `windows`: figures of every uid by window, see `_figures`.
    """
    swarm = Swarm(case.trial, case.roster(), setting=case.setting())
    params_N = swarm.workers.theta0()
    curve = [(0, swarm.workers.held_out_loss(params_N, CURVE_PAGES))]
    for number, params_N in enumerate(swarm.windows(), start=1):
        if number % BLOCK == 0 or number == case.windows:
            curve.append((number, swarm.workers.held_out_loss(params_N, CURVE_PAGES)))
    outcome = swarm.outcome
    return {
        "key": case.key,
        "case": asdict(case),
        "held_out_loss": swarm.workers.held_out_loss(params_N, FINAL_PAGES),
        "curve": curve,
        "alphas": outcome.alphas,
        "windows": [
            list(_figures(verdicts, shares))
            for verdicts, shares in zip(outcome.verdicts, outcome.shares, strict=True)
        ],
    }


def _figures(
    verdicts: Sequence[Verdict], shares: Mapping[int, float]
) -> Iterator[list[float | str | None]]:
    """Status, gain, its standard error, effect, its variance, and share of pay; in uid order."""
    for verdict in verdicts:
        numbers = (
            verdict.gain, verdict.gain_standard_error, verdict.work_effect, verdict.work_variance,
            shares.get(verdict.uid, 0.0),
        )  # fmt: skip
        yield [verdict.status, *map(_short, numbers)]


def _short(number: float | None) -> float | None:
    if number is None or not math.isfinite(number):
        return None
    return float(f"{number:.{SIGNIFICANT}g}")
