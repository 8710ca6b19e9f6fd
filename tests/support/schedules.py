"""Seeded schedules of faults: what goes wrong in a swarm, where and when.

A plan is a pure function of its seed. What each fault does to a node is in
`tests.support.sabotage`.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EVERY_WINDOWS = 3
"""A fault begins in every third window, the second one first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """Who may suffer a fault, `least` to `most` of them at once, and for how long at most.

    `windows_after`: so many must come after the one in which it begins, for it to be over.
    """

    targets: tuple[str, ...]
    least: int = 1
    most: int = 1
    max_windows: int = 1
    windows_after: int = 0


MINERS = ("m0", "m1")
VALIDATORS = ("val-a", "val-b", "val-c")
ROSTER = (*VALIDATORS, *MINERS)
STAKES_TAO = {"owner": 0, "val-a": 400, "val-b": 350, "val-c": 300, "m0": 0, "m1": 0}
"""Any two validators outvote the third. Who lies alone is the last one, who outvotes nobody."""

KINDS: Mapping[str, Kind] = {
    "kill": Kind(targets=ROSTER),
    "kill_top": Kind(targets=("val-a",)),
    "pause": Kind(targets=ROSTER, max_windows=3),
    "half_leave": Kind(targets=MINERS),
    "dropped_uid": Kind(targets=("val-c", *MINERS)),
    "bucket_down": Kind(targets=ROSTER, max_windows=2),
    "bucket_gone": Kind(targets=MINERS),
    "bucket_slow": Kind(targets=MINERS, max_windows=2),
    "truncated": Kind(targets=MINERS, max_windows=2),
    "other_bytes": Kind(targets=MINERS, max_windows=2),
    "deleted": Kind(targets=MINERS),
    "shown_to_few": Kind(targets=MINERS, max_windows=2),
    "chain_down": Kind(targets=ROSTER, most=3, max_windows=2),
    "old_finality": Kind(targets=ROSTER, most=3, max_windows=2),
    "partition": Kind(targets=ROSTER, most=3, max_windows=2),
    "reorganised": Kind(targets=("chain",)),
    "full_disk": Kind(targets=ROSTER),
    "wrong_root": Kind(targets=("val-c",)),
    "names_unheld": Kind(targets=("val-c",)),
    "flipped_bit": Kind(targets=("val-c", *MINERS)),
    "void": Kind(targets=("val-b", "val-c"), least=2, most=2, windows_after=6),
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
        if any(window <= fault.window + KINDS[fault.kind].windows_after for fault in faults):
            continue  # nothing moves, so nothing would be felt
        possible = [
            name
            for name in kinds or KINDS
            if len(_free(name, spent)) >= KINDS[name].least and KINDS[name].windows_after <= left
        ]
        if possible:
            faults.append(_fault(rng, rng.choice(possible), window, spent))
    return tuple(faults)


def _free(name: str, spent: set[str]) -> list[str]:
    """Who may still suffer a fault, in the order of the roster."""
    if name in NEED_A_MAJORITY and spent & set(VALIDATORS):
        return []
    return [target for target in KINDS[name].targets if target not in spent]


def _fault(rng: random.Random, name: str, window: int, spent: set[str]) -> Fault:
    kind, free = KINDS[name], _free(name, spent)
    chosen = set(rng.sample(free, rng.randint(kind.least, min(kind.most, len(free)))))
    return Fault(
        kind=name,
        nodes=tuple(target for target in free if target in chosen),
        window=window,
        offset=rng.random(),
        num_windows=rng.randint(1, kind.max_windows),
        lot=rng.randrange(2**16),
    )
