"""Which fault comes when, and to whom: a pure function of seed, length and roster.

Owns the times of faults, in windows, and their targets. Does not own the kinds of faults
(`simulation.faults`), how a fault is planted (`faults`), nor the effect (`measure`).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from simulation.faults import PROCESS_WINDOWS, ProcessFault
from template.errors import ConfigError

CALM_WINDOWS: Final = 4
"""Before the first fault: what is lost without one, past the start."""
EVERY_WINDOWS: Final = 3
LAST_WINDOWS: Final = 4
"""After the last fault began: it may last three windows, and must have time to heal."""
MIN_MINERS: Final = 2
MIN_VALIDATORS: Final = 3
"""With two, any one of them stops the majority: there is nothing to measure."""
CHAIN: Final = "chain"
BUCKETS: Final = "buckets"
LIAR_PLACE: Final = 1
"""Among the validators in the order of their stakes: 33 % of the stake of three, 26 % of four."""
EARLIEST: Final = 0.1
LATEST: Final = 0.9
BEFORE_SCORING: Final = 0.05
"""The votes on the window before are all still to come; three windows on, the next fault is."""
WHILE_SCORING: Final = (0.3, 0.5)
"""Shares of a window: its vote is due at 0.79, sooner than it can be back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """Names of those whom a fault may hit. `validators`: in the order of their stakes."""

    miners: tuple[str, ...]
    validators: tuple[str, ...]

    @property
    def liar(self) -> str:
        return self.validators[LIAR_PLACE]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.validators, *self.miners)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault. `at`: the share of `window` that is over when it begins. `targets`: who is
    hit, by process name; of a split one side, the others are the other; of a lie the liar, then
    those who sleep meanwhile.
    """

    kind: ProcessFault
    window: int
    at: float
    targets: tuple[str, ...]

    @property
    def lasts_windows(self) -> int:
        return PROCESS_WINDOWS[self.kind]


def windows_for(num_faults: int) -> int:
    """The shortest run that holds so many faults."""
    return CALM_WINDOWS + EVERY_WINDOWS * (num_faults - 1) + LAST_WINDOWS


def make_plan(
    seed: int, num_windows: int, crew: Crew, kinds: Sequence[ProcessFault] = tuple(ProcessFault)
) -> tuple[Fault, ...]:
    """A fault every third window, each of `kinds` once before any comes again.

    Depends on nothing but its arguments. ConfigError if the run is too short for one fault, or
    the crew too small to lose one of its own.
    """
    if num_windows < windows_for(1):
        raise ConfigError(f"--windows {num_windows}: no room for a fault; {windows_for(1)} or more")
    if len(crew.miners) < MIN_MINERS or len(crew.validators) < MIN_VALIDATORS:
        raise ConfigError(
            f"--miners, --validators: at least {MIN_MINERS} and {MIN_VALIDATORS}, or the loss of "
            "one stops the run by rule"
        )
    draw = random.Random(seed)
    faults: list[Fault] = []
    round_: list[ProcessFault] = []
    for window in range(CALM_WINDOWS, num_windows - LAST_WINDOWS + 1, EVERY_WINDOWS):
        if not round_:
            round_ = draw.sample(list(kinds), len(kinds))
        faults.append(_fault(round_.pop(), window, crew, draw))
    return tuple(faults)


def _fault(kind: ProcessFault, window: int, crew: Crew, draw: random.Random) -> Fault:
    at = draw.uniform(EARLIEST, LATEST)
    if kind in (ProcessFault.PAUSE_THREE, ProcessFault.LIE_ROOT, ProcessFault.LIE_SAMPLE):
        at = BEFORE_SCORING
    if kind is ProcessFault.KILL_TOP_VALIDATOR:
        at = draw.uniform(*WHILE_SCORING)
    return Fault(kind=kind, window=window, at=round(at, 3), targets=_targets(kind, crew, draw))


def _targets(kind: ProcessFault, crew: Crew, draw: random.Random) -> tuple[str, ...]:
    top, *others = crew.validators
    asleep = [name for name in crew.validators if name != crew.liar]
    fixed = {
        ProcessFault.KILL_TOP_VALIDATOR: (top,),
        ProcessFault.KILL_CHAIN: (CHAIN,),
        ProcessFault.KILL_BUCKETS: (BUCKETS,),
        **dict.fromkeys((ProcessFault.LIE_ROOT, ProcessFault.LIE_SAMPLE), (crew.liar, *asleep)),
        **dict.fromkeys((ProcessFault.SLOW, ProcessFault.TRUNCATED, ProcessFault.STORM), crew.all),
    }
    if kind in fixed:
        return fixed[kind]
    if kind is ProcessFault.LEAVE:
        return tuple(sorted(draw.sample(crew.miners, len(crew.miners) // 2)))
    one_of = {
        ProcessFault.KILL_MINER: crew.miners,
        ProcessFault.KILL_VALIDATOR: tuple(others),
        ProcessFault.CUT_CHAIN: crew.validators,
        ProcessFault.SPLIT_BUCKETS: crew.validators,
    }
    return (draw.choice(one_of.get(kind, crew.all)),)
