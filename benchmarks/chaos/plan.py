"""Which fault comes when, and to whom: a pure function of seed, length and roster.

Owns the kinds of faults and their times, in windows. Does not own how a fault is planted
(`faults`), nor what it did (`measure`).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

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
EARLIEST: Final = 0.1
LATEST: Final = 0.9
WHILE_SCORING: Final = (0.3, 0.5)
"""Shares of a window: its vote is due at 0.79, sooner than it can be back."""


class Kind(StrEnum):
    """What is done. The value is the fault's name in the results."""

    KILL_MINER = "kill -9 of a miner"
    KILL_VALIDATOR = "kill -9 of a validator"
    KILL_TOP_VALIDATOR = "kill -9 of the top-stake validator"
    KILL_CHAIN = "kill -9 of the chain"
    KILL_BUCKETS = "kill -9 of the bucket server"
    PAUSE_ONE = "pause of one window"
    PAUSE_THREE = "pause of three windows"
    LEAVE = "half of the miners leave at once"
    SLOW = "slow transfers"
    TRUNCATED = "truncated transfers"
    STORM = "storm of 5xx answers"
    CLOCK = "clock 10 minutes off"
    FULL_DISK = "full disk"
    CUT_CHAIN = "validator cut off from the chain"
    SPLIT_BUCKETS = "validators split, each from the others' buckets"


LASTS_WINDOWS: Final = {
    Kind.KILL_MINER: 0,
    Kind.KILL_VALIDATOR: 0,
    Kind.KILL_TOP_VALIDATOR: 0,
    Kind.KILL_CHAIN: 0,
    Kind.KILL_BUCKETS: 0,
    Kind.PAUSE_ONE: 1,
    Kind.PAUSE_THREE: 3,
    Kind.LEAVE: 2,
    Kind.SLOW: 1,
    Kind.TRUNCATED: 1,
    Kind.STORM: 1,
    Kind.CLOCK: 2,
    Kind.FULL_DISK: 1,
    Kind.CUT_CHAIN: 1,
    Kind.SPLIT_BUCKETS: 1,
}
"""How long it is held; a kill is over at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """Names of those whom a fault may hit. `validators`: in the order of their stakes."""

    miners: tuple[str, ...]
    validators: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.validators, *self.miners)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault. `at`: the share of `window` that is over when it begins. `targets`: who is
    hit, by process name; of a split one side, the others are the other.
    """

    kind: Kind
    window: int
    at: float
    targets: tuple[str, ...]

    @property
    def lasts_windows(self) -> int:
        return LASTS_WINDOWS[self.kind]


def windows_for(num_faults: int) -> int:
    """The shortest run that holds so many faults."""
    return CALM_WINDOWS + EVERY_WINDOWS * (num_faults - 1) + LAST_WINDOWS


def make_plan(
    seed: int, num_windows: int, crew: Crew, kinds: Sequence[Kind] = tuple(Kind)
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
    round_: list[Kind] = []
    for window in range(CALM_WINDOWS, num_windows - LAST_WINDOWS + 1, EVERY_WINDOWS):
        if not round_:
            round_ = draw.sample(list(kinds), len(kinds))
        faults.append(_fault(round_.pop(), window, crew, draw))
    return tuple(faults)


def _fault(kind: Kind, window: int, crew: Crew, draw: random.Random) -> Fault:
    at = draw.uniform(EARLIEST, LATEST)
    if kind is Kind.PAUSE_THREE:
        at = EARLIEST / 2  # over before the next one begins
    if kind is Kind.KILL_TOP_VALIDATOR:
        at = draw.uniform(*WHILE_SCORING)
    return Fault(kind=kind, window=window, at=round(at, 3), targets=_targets(kind, crew, draw))


def _targets(kind: Kind, crew: Crew, draw: random.Random) -> tuple[str, ...]:
    top, *others = crew.validators
    fixed = {
        Kind.KILL_TOP_VALIDATOR: (top,),
        Kind.KILL_CHAIN: (CHAIN,),
        Kind.KILL_BUCKETS: (BUCKETS,),
        **dict.fromkeys((Kind.SLOW, Kind.TRUNCATED, Kind.STORM), crew.all),
    }
    if kind in fixed:
        return fixed[kind]
    if kind is Kind.LEAVE:
        return tuple(sorted(draw.sample(crew.miners, len(crew.miners) // 2)))
    one_of = {
        Kind.KILL_MINER: crew.miners,
        Kind.KILL_VALIDATOR: tuple(others),
        Kind.CUT_CHAIN: crew.validators,
        Kind.SPLIT_BUCKETS: crew.validators,
    }
    return (draw.choice(one_of.get(kind, crew.all)),)
