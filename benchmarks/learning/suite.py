"""Which trials make up the benchmark, the most important first.

A section is a list of groups; a group is one point of a table or picture, run with several
seeds. All rules of a section train on the same number of tokens.
"""

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.learning.contenders import ADAMW, DEMO, OURS, Rates, contenders, tuned
from benchmarks.learning.rules import LOCAL_RULES
from benchmarks.learning.trial import Trial

SEEDS = (1, 2, 3)


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
    """24 rounds of every contender at recorded rates."""
    return main(rates, 24, [n for n in contenders() if n != DEMO]) + main(rates, 24, [DEMO], 1)


def full(rates: Rates) -> list[Group]:
    """Everything, in the order in which an interrupted run is of most use."""
    first = [ADAMW, OURS, "ours/0", "ours/1"]
    others = [n for n in contenders() if n not in first]
    remedied = [f"{rule}/1+" for rule in LOCAL_RULES if rule != "ours"]
    return [
        *main(rates, 24, first),
        *main(rates, 80, [ADAMW, OURS, "ours/0"]),
        *main(rates, 24, others),
        *main(rates, 240, [ADAMW, OURS], 1),
        *noise(rates),
        *main(rates, 80, remedied),
        *remedies(rates),
        *sweeps(rates),
        *inner_steps(rates),
        *miners(rates),
        *weighting(rates),
        *sizes(rates),
        *main(rates, 80, ["ours/1"], 1),
    ]


def main(rates: Rates, rounds: int, names: list[str], seeds: int = 3) -> list[Group]:
    return [seeded("main", n, rounds, tuned(n, rates, rounds=rounds), seeds) for n in names]


def remedies(rates: Rates) -> list[Group]:
    """The project's rule at lag 1 with one remedy at a time, and with several."""
    plain = tuned("ours/1", rates)
    both = tuned(OURS, rates)
    eager = replace(plain, **rates[OURS])
    options: dict[str, Trial] = {
        "eager 1/R": replace(eager, eager=1 / 8),
        "eager 1/2": replace(eager, eager=0.5),
        "eager 1": replace(eager, eager=1.0),
        "step ahead 0.1": replace(plain, step_ahead=0.1),
        "compensate 0.25": replace(plain, compensate=0.25),
        "4 k for 6 rounds": replace(plain, dense_rounds=6),
        "alpha warm-up 6": replace(plain, outer_warmup=6),
        "warm start": replace(both, eager=0.0, **rates["ours/1"]),
        "warm start, lag 0": replace(both, lag=0, eager=0.0, **rates["ours/0"]),
        "warm, eager, 4 k": replace(both, dense_rounds=6),
    }
    return [seeded("remedies", label, 0, trial, 2) for label, trial in options.items()]


def sweeps(rates: Rates) -> list[Group]:
    """One number at a time around the shipped plan."""
    base = tuned(OURS, rates)
    ranges: dict[str, tuple[float, ...]] = {
        "top_k": (16, 32, 64, 128, 256),
        "bits": (1, 2, 4),
        "decay": (0.8, 0.9, 0.95, 0.99),
        "clip_factor": (0, 1, 2, 4),
    }
    return [
        seeded(field, field, value, replace(base, **_cast(base, field, value)), 2)
        for field, values in ranges.items()
        for value in values
    ]


def inner_steps(rates: Rates) -> list[Group]:
    """H at equal tokens: 600 steps of every miner, whatever their number a round."""
    groups = []
    for steps in (5, 15, 30, 100):
        for name in ("ours/0", OURS):
            trial = tuned(name, rates, rounds=600 // steps, inner_steps=steps)
            groups.append(seeded("inner_steps", name, steps, trial, 1))
    adamw = tuned(ADAMW, rates, rounds=40)
    return [*groups, seeded("inner_steps", ADAMW, 15, adamw, 1)]


def miners(rates: Rates) -> list[Group]:
    """R at equal rounds: each R beside data-parallel AdamW on the same tokens."""
    return [
        seeded("miners", name, count, tuned(name, rates, miners=count), 1)
        for count in (4, 16)
        for name in (OURS, ADAMW)
    ]


def weighting(rates: Rates) -> list[Group]:
    """Half of the miners make a third of the steps."""
    base = tuned(OURS, rates, slow_miners=4)
    return [
        seeded("weighting", rule, 0, replace(base, weighting=rule), 2)
        for rule in ("equal", "tokens")
    ]


def sizes(rates: Rates) -> list[Group]:
    """A model of four times the parameters."""
    return [
        seeded("model", name, 0, tuned(name, rates, model="medium"), 1)
        for name in (ADAMW, OURS, "ours/0")
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
