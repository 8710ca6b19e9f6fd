"""What is played: cases, the machines in each, and the work of each machine.

A case is one run with one seed. The unit of work is the honest machine's: all inner steps of usual
batches on the whole model.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

from benchmarks.attacks.actor import Actor
from benchmarks.attacks.panel import Setting
from benchmarks.attacks.working import Fewer
from benchmarks.learning.trial import KEY_DIGITS, Trial

Where = Literal["suite", "swarm", "localnet"]
SUITE: Final = "suite"
SWARM: Final = "swarm"
LOCALNET: Final = "localnet"

VERSIONS: Final = {SUITE: 2, SWARM: 3}
"""Where -> version; goes up whenever the same case would end otherwise. In the suite pay is worked
out from the record, so that rules of pay alone do not count there.
"""
WINDOWS: Final = 40
FIRST: Final = 8
"""The first window whose pay counts: before it, accounts of pay are short and the gate opens."""
SETTLED: Final = 16
"""From this window on every account of pay is full, and the gate has had time to open for all."""
INNER_STEPS: Final = 30
HONEST: Final = 4
SHARES: Final = (0.1, 0.25, 0.5)
WIDTHS: Final = (2, 4)
SEEDS: Final = (1, 2, 3)
SWARM_SEEDS: Final = (1, 2)
CURVE: Final = "curve"
SPLITS: Final = (1, 2, 4)
"""Hotkeys of the machine that is split."""
SETTING: Final = Setting(claimed_pages=48, work_effect=0.4)
"""The localnet's own, since the model is the localnet's."""
USUAL: Final = "usual"
"""Name of the machines whose mean pay is the unit."""
SPLIT: Final = "split"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One hotkey in a run. `work`: honest machine = 1. `name`: of a point of the curve."""

    name: str
    work: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One run. `hotkeys`: 0 for the curve, else of the one machine beside the usual ones."""

    where: Where
    seed: int
    hotkeys: int = 0
    windows: int = WINDOWS

    @property
    def key(self) -> str:
        text = json.dumps([VERSIONS[self.where], asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]

    @property
    def label(self) -> str:
        what = f"one machine, hotkeys: {self.hotkeys}" if self.hotkeys else CURVE
        return f"{self.where}, {what}, seed {self.seed}"

    @property
    def cost(self) -> float:
        """About proportional to its seconds."""
        return self.windows * (HONEST + 1 if self.hotkeys else HONEST + sum(SHARES) + sum(WIDTHS))


class Wide(Actor):
    """All inner steps, each over so many batches."""

    def __init__(self, width: int) -> None:
        self.width = width


def suite_trial(case: Case) -> Trial:
    """The localnet's model and rates, warm-started as the localnet's run is, without lag."""
    return Trial(
        strategy="ours",
        model="small",
        lag=0,
        inner_steps=INNER_STEPS,
        inner_lr=2e-3,
        outer_lr=6.0,
        min_divisor=6,
        warm_steps=240,
        decay_share=0.25,
        rounds=case.windows,
        seed=case.seed,
        miners=len(suite_roster(case)),
    )


def suite_roster(case: Case) -> list[Actor]:
    """The actors by uid: the usual machines, then those to be compared."""
    usual = [Actor() for _ in range(HONEST)]
    if case.hotkeys:
        return [*usual, *shared_out(case.hotkeys, INNER_STEPS)]
    return [*usual, *map(Fewer, SHARES), *map(Wide, WIDTHS)]


def suite_machines(case: Case) -> list[Machine]:
    """The machines by uid. A split machine's hotkeys have a name in common."""
    names = [USUAL] * HONEST
    if case.hotkeys:
        names += [SPLIT] * case.hotkeys
    else:
        names += [f"{share:g} of the steps" for share in SHARES]
        names += [f"width {width}" for width in WIDTHS]
    return [
        Machine(name=name, work=work_of(actor, INNER_STEPS))
        for name, actor in zip(names, suite_roster(case), strict=True)
    ]


def work_of(actor: Actor, inner_steps: int) -> float:
    """Batches that an actor trains in a window, over those of an honest one."""
    return round(actor.share * inner_steps) * actor.width / inner_steps


def shared_out(hotkeys: int, inner_steps: int) -> list[Actor]:
    """One machine's steps, shared out so that the parts add up: with a quarter of 30 steps each,
    rounded, four hotkeys would make 32.
    """
    parts = [inner_steps * (i + 1) // hotkeys - inner_steps * i // hotkeys for i in range(hotkeys)]
    return [Fewer(part / inner_steps) for part in parts]


def everything() -> list[Case]:
    """All cases, first seeds first."""
    return [
        case
        for seed in SEEDS
        for case in (
            Case(where="suite", seed=seed),
            *([Case(where="swarm", seed=seed)] if seed in SWARM_SEEDS else []),
            *(Case(where="suite", seed=seed, hotkeys=hotkeys) for hotkeys in SPLITS),
        )
    ]


def quick() -> list[Case]:
    """One seed of each."""
    return [case for case in everything() if case.seed == SEEDS[0]]


def usual_uids(machines: Sequence[Machine]) -> list[int]:
    """Uids of the machines whose mean pay is the unit."""
    return [uid for uid, machine in enumerate(machines) if machine.name == USUAL]
