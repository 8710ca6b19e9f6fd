"""Which trials make up the benchmark, the most important first.

A section is a list of groups; a group is one point of a table or picture, run with several
seeds. All rules of a section train on the same number of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.learning.contenders import (
    ADAMW,
    DEMO,
    MUON,
    OURS,
    SYNCHRONOUS,
    WARM_ROUNDS,
    WITH_MUON,
    Rates,
    contenders,
    rates_name,
    remedied,
    tuned,
)
from benchmarks.learning.rules import LOCAL_RULES
from benchmarks.learning.trial import Trial

SEEDS = (1, 2, 3)
TUNING_SEED = 0
"""The one on which rates are searched, and nothing is evaluated."""
LONGEST = 200
PLAIN_MEANS = ("mean/0", "mean/1")
"""Ours without the clip: of little news among honest miners."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One point: the same trial with several seeds. `label` and `x` are what is shown."""

    section: str
    label: str
    x: float
    trials: tuple[Trial, ...]


def seeded(section: str, label: str, x: float, trial: Trial, seeds: int = 3) -> Group:
    trials = tuple(replace(trial, seed=seed) for seed in SEEDS[:seeds])
    return Group(section=section, label=label, x=x, trials=trials)


def quick(rates: Rates) -> list[Group]:
    """24 rounds at recorded rates: all rules at lag 0 and as they would ship. The plain mean is
    left out: among honest miners it is ours without the clip.
    """
    bare = [f"{rule}/1" for rule in LOCAL_RULES if rule != "ours"]
    left_out = (DEMO, *bare, *PLAIN_MEANS, "mean/1+")
    return main(rates, 24, [n for n in contenders() if n not in left_out])


def full(rates: Rates) -> list[Group]:
    """Everything, the most important first."""
    anchors = [ADAMW, MUON, OURS, WITH_MUON[OURS], SYNCHRONOUS]
    first = [*anchors, "ours/0", "ours/1"]
    others = [n for n in contenders() if n not in (*first, *PLAIN_MEANS)]
    return [
        *main(rates, 24, first),
        *main(rates, 80, anchors),
        *noise(rates),
        *main(rates, 24, others),
        *main(rates, LONGEST, anchors),
        *localnet(rates),
        *catch_up(rates),
        *sweeps(rates),
        *inner_steps(rates, [OURS]),
        *remedies(rates),
        *miners(rates),
        *weighting(rates),
        *sizes(rates),
    ]


def more(rates: Rates) -> list[Group]:
    """What an hour has no room for. And are the rates found at 24 rounds those of 80? On the seed
    of the search, with half and twice the inner rate.
    """
    beside = [
        *main(rates, 24, list(PLAIN_MEANS)),
        *main(rates, 80, ["ours/0", "diloco/1+"], 1),
        *inner_steps(rates, [SYNCHRONOUS]),
    ]
    return beside + [
        Group(
            section="rates_80",
            label=name,
            x=trial.inner_lr * factor,
            trials=(replace(trial, inner_lr=trial.inner_lr * factor),),
        )
        for name in (ADAMW, OURS)
        for trial in [tuned(name, rates, rounds=80, seed=TUNING_SEED)]
        for factor in (0.5, 1.0, 2.0)
    ]


def in_order(groups: Sequence[Group]) -> list[Trial]:
    """What the goals need, point by point; then everything else, one seed after another."""
    first = [t for g in groups if g.section in ("main", "noise") for t in g.trials]
    then = [t for g in groups if g.section not in ("main", "noise") for t in g.trials]
    return first + sorted(then, key=lambda trial: trial.seed)


def main(rates: Rates, rounds: int, names: list[str], seeds: int = 3) -> list[Group]:
    """Contenders without rates are left out: tune them first."""
    names = [name for name in names if rates_name(name) in rates]
    return [seeded("main", n, rounds, tuned(n, rates, rounds=rounds), seeds) for n in names]


def remedies(rates: Rates) -> list[Group]:
    """The project's rule at lag 1 with one remedy at a time, and without one of them.

    From the warm start at the shipped rates, from random parameters at those of bare lag 1, with
    eager miners at the alpha of lag 0: they are what lets it grow.
    """
    plain = tuned("ours/1", rates)
    both = tuned(OURS, rates)
    eager = replace(plain, outer_lr=rates["ours/0"].get("outer_lr", 1.0))
    no_catch_up = replace(both, catch_up_step=0)
    options: dict[str, Trial] = {
        "eager 1/R": replace(eager, eager=1 / 8),
        "eager 1/2": replace(eager, eager=0.5),
        "eager 1": replace(eager, eager=1.0),
        "step ahead 0.1": replace(plain, step_ahead=0.1),
        "compensate 0.25": replace(plain, compensate=0.25),
        "4 k for 6 rounds": replace(plain, dense_rounds=6),
        "alpha warm-up 6": replace(plain, outer_warmup=6),
        "catch up": replace(eager, catch_up_step=both.catch_up_step),
        "warm start": replace(no_catch_up, eager=0.0, **rates["ours/1"]),
        "warm, eager": no_catch_up,
        "warm, catch up": replace(both, eager=0.0),
        "eager, catch up": replace(eager, eager=1.0, catch_up_step=both.catch_up_step),
        "all three, 4 k for 6 rounds": replace(both, dense_rounds=6),
        "adamw_dp, warm start": replace(
            no_catch_up, strategy=ADAMW, lag=0, eager=0.0, **rates[ADAMW]
        ),
    }
    return [seeded("remedies", label, 0, trial, 1) for label, trial in options.items()]


def catch_up(rates: Rates) -> list[Group]:
    """When in a round the others' payloads come: a share of H, from soon to never."""
    base = tuned(OURS, rates)
    return [
        seeded("catch_up", OURS, step, replace(base, catch_up_step=step % base.inner_steps), 1)
        for step in (1, 3, 5, 10, base.inner_steps)
    ]


def sweeps(rates: Rates) -> list[Group]:
    """One number at a time around the shipped plan."""
    base = tuned(OURS, rates)
    ranges: dict[str, tuple[float, ...]] = {
        "top_k": (16, 32, 64, 128, 256),
        "bits": (1, 2, 4),
        "decay": (0.8, 0.9, 0.95, 0.99),
        "clip_factor": (0, 1, 2, 4),
    }
    seeds = {"top_k": 2, "bits": 2, "decay": 1, "clip_factor": 1}
    return [
        seeded(field, OURS, value, replace(base, **_cast(base, field, value)), seeds[field])
        for field, values in ranges.items()
        for value in values
    ]


def inner_steps(rates: Rates, names: list[str]) -> list[Group]:
    """H at equal tokens and from the same theta_0: 600 steps of every miner, whatever their number
    a round, after the shipped warm start.
    """
    warm_steps, groups = tuned(OURS, rates).warm_steps, []
    for steps in (5, 15, 30, 100):
        for name in names:
            trial = tuned(name, rates, inner_steps=steps)
            trial = replace(trial, rounds=600 // steps, warm_steps=warm_steps)
            groups.append(seeded("inner_steps", name, steps, trial, 1))
    adamw = tuned(ADAMW, rates, rounds=40 + WARM_ROUNDS)
    return groups + [seeded("inner_steps", ADAMW, 15, adamw, 1)] * (OURS in names)


def miners(rates: Rates) -> list[Group]:
    """R at equal rounds: each R beside data-parallel AdamW on the same tokens.

    Once with the same alpha, and once with the same share of every payload (alpha / R).
    """
    groups, alpha = [], float(rates[OURS].get("outer_lr", 1.0))
    for count in (4, 8, 16):
        for name in (OURS, ADAMW):
            groups.append(seeded("miners", name, count, tuned(name, rates, miners=count), 1))
        same_share = replace(tuned(OURS, rates, miners=count), outer_lr=alpha * count / 8)
        groups.append(seeded("miners", "same alpha / R", count, same_share, 1))
    return groups


def localnet(rates: Rates) -> list[Group]:
    """The localnet's shape, four miners and H = 30: its rates of before, and candidates.

    "busy": the others' payloads come a third of the way through the inner loop; "waits": a
    miner with time to spare has them before its first step.
    """
    before = Trial(strategy="ours", miners=4, inner_steps=30, inner_lr=2e-3, outer_lr=0.9)
    busy = remedied(before)
    waits = replace(busy, lag=0, catch_up_step=0)
    groups = [
        seeded("localnet", "before", 0.9, before, 2),
        seeded("localnet", "no catch-up", 3.0, replace(busy, catch_up_step=0, outer_lr=3.0), 2),
    ]
    return groups + [
        seeded("localnet", label, alpha, replace(trial, outer_lr=alpha), 2)
        for label, trial in (("busy", busy), ("waits", waits))
        for alpha in (2.0, 3.0, 4.0, 6.0)
    ]


def weighting(rates: Rates) -> list[Group]:
    """Half of the miners make a third of the steps."""
    base = tuned(OURS, rates, slow_miners=4)
    return [
        seeded("weighting", rule, 0, replace(base, weighting=rule), 1)
        for rule in ("equal", "tokens")
    ]


def sizes(rates: Rates) -> list[Group]:
    """A model of four times the parameters."""
    return [
        seeded("model", name, 0, tuned(name, rates, model="medium"), 1)
        for name in (ADAMW, OURS, SYNCHRONOUS)
    ]


def noise(rates: Rates) -> list[Group]:
    """8 miners of whom 2 send noise, and the 6 honest ones alone."""
    with_noise = tuned(OURS, rates, noise_miners=2)
    alone = replace(with_noise, miners=6, noise_miners=0)
    return [
        seeded("noise", "2 of 8 send noise", 2, with_noise),
        seeded("noise", "6 honest alone", 0, alone),
    ]


def _cast(base: Trial, field: str, value: float) -> dict[str, Any]:
    """The value as the field's own type."""
    return {field: type(getattr(base, field))(value)}
