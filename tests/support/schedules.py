"""Seeded schedules of faults: what goes wrong in a swarm, where and when.

A plan is a pure function of its seed. What each fault does to a node is in
`tests.support.sabotage`.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulation.faults import FAULTS, SWARM_DRAWS, Target

EVERY_WINDOWS = 3
"""A fault begins in every third window, the second one first."""

MINERS = ("m0", "m1")
VALIDATORS = ("val-a", "val-b", "val-c")
ROSTER = (*VALIDATORS, *MINERS)
STAKES_TAO = {"owner": 0, "val-a": 400, "val-b": 350, "val-c": 300, "m0": 0, "m1": 0}
"""Any two validators outvote the third. Who lies alone is the last one, who outvotes nobody."""

TARGETS: Mapping[Target, tuple[str, ...]] = {
    Target.NODE: ROSTER,
    Target.MINER: MINERS,
    Target.TOP_VALIDATOR: ("val-a",),
    Target.LAST_VALIDATOR: ("val-c",),
    Target.LAST_VALIDATOR_OR_MINER: ("val-c", *MINERS),
    Target.LAST_TWO_VALIDATORS: ("val-b", "val-c"),
    Target.CHAIN: ("chain",),
}
NEED_A_MAJORITY = frozenset({"wrong_root", "names_unheld", "flipped_bit", "void"})
"""What a validator says is wrong in them, so the others must be there to outvote it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One planted fault. It begins `offset` of a window (0 to 1) into `window`, and lasts for
    `num_windows` where it lasts. `lot`: what is left to chance in it.
    """

    kind: str
    nodes: tuple[str, ...]
    window: int
    offset: float
    num_windows: int
    lot: int


def plan(seed: int, num_windows: int, kinds: Sequence[str] = ()) -> tuple[Fault, ...]:
    """The faults of a seed, no node named by two of them. `kinds`: to choose from, all if none."""
    rng = random.Random(f"schedule {seed}")
    faults: list[Fault] = []
    for window in range(1, num_windows, EVERY_WINDOWS):
        spent = {name for fault in faults for name in fault.nodes}
        left = num_windows - 1 - window
        if any(window <= fault.window + SWARM_DRAWS[fault.kind].windows_after for fault in faults):
            continue  # nothing moves, so nothing would be felt
        possible = [
            name
            for name in kinds or SWARM_DRAWS
            if len(_free(name, spent)) >= SWARM_DRAWS[name].least
            and SWARM_DRAWS[name].windows_after <= left
        ]
        if possible:
            faults.append(_fault(rng, rng.choice(possible), window, spent))
    return tuple(faults)


def _free(name: str, spent: set[str]) -> list[str]:
    """Who may still suffer a fault, in the order of the roster."""
    if name in NEED_A_MAJORITY and spent & set(VALIDATORS):
        return []
    return [target for target in TARGETS[FAULTS[name].target] if target not in spent]


def _fault(rng: random.Random, name: str, window: int, spent: set[str]) -> Fault:
    kind, free = SWARM_DRAWS[name], _free(name, spent)
    chosen = set(rng.sample(free, rng.randint(kind.least, min(kind.most, len(free)))))
    return Fault(
        kind=name,
        nodes=tuple(target for target in free if target in chosen),
        window=window,
        offset=rng.random(),
        num_windows=rng.randint(1, kind.max_windows),
        lot=rng.randrange(2**16),
    )
