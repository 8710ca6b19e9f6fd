"""Which races make up the benchmark.

A section is a list of groups; a group is one line of a table, run with several seeds. Unless a
label says otherwise, all groups of a section train as many batches: `BATCHES` inner steps of usual
batches, or those of the widest group.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks.learning.contenders import OURS, SYNCHRONOUS, load_rates, tuned
from benchmarks.learning.suite import SEEDS
from benchmarks.pace.machines import Machine, Race, Weighting

USUAL: Final = Machine()
MINERS: Final = 8
WINDOWS: Final = 32
"""Of a run of equal machines."""
PAYLOADS: Final = WINDOWS * MINERS
"""Whole payloads of usual batches in a run."""
BATCH_PAGES: Final = 2
"""Of 64 bytes: at more, this model learns hardly better from more miners, and no rule matters."""
INNER_LR: Final = 4e-3
ALPHA_OF_PAYLOAD: Final = 0.75
"""Alpha over the payloads of a window: the learning benchmark's 6 for 8. A run votes on alpha, and
the best alpha goes with the number of payloads, of which few places overlap."""
WARM_STEPS: Final = 240
STALENESS_DECAY: Final = 1.0
"""Of the section `pace`: what `slow` found no reason to change."""
WIDE: Final = Machine(speed=4, width=4)
WEIGHTINGS: Final[tuple[Weighting, ...]] = ("equal", "root", "pages")
DEEP: Final = "deep"
PART_FLOPS: Final = 0.625
"""Of an inner step on a quarter of the model, over one on the whole, per parameter and token: 2 for
the forward pass, 2 for the gradients of activations down to the quarter's first layer (5/8 of the
model on average), 2 for the quarter's own gradients; over 6."""

EQUAL, POWER = "equal machines", "equal machines of the same power"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One line: the same race with several seeds.

    `over`: label of the group that the loss is compared with. `stretch`: windows of wall time of
    one window of the race, where all wait for the slowest. `case`: of the section `pace`.
    """

    section: str
    label: str
    races: tuple[Race, ...]
    over: str = EQUAL
    stretch: float = 1.0
    case: str = ""


def race(windows: int, machines: Sequence[Machine], **changes: Any) -> Race:
    """A race with seed 1. `changes`: fields of the race or of its trial."""
    of_race = {k: changes.pop(k) for k in list(changes) if k in Race.__dataclass_fields__}
    name = OURS if changes.pop("lag", 1) else SYNCHRONOUS
    trial = replace(
        tuned(name, load_rates(), model=changes.pop("model", "tiny"), miners=len(machines)),
        rounds=windows,
        warm_steps=WARM_STEPS,
        batch_pages=BATCH_PAGES,
        inner_lr=INNER_LR,
        outer_lr=round(ALPHA_OF_PAYLOAD * sum(1 / m.windows for m in machines), 4),
        **changes,
    )
    return Race(trial=trial, machines=tuple(machines), **of_race)


def same_power(power: float) -> list[Machine]:
    """Equal machines that make so many usual payloads in a window: of fewer steps, or wider."""
    if power <= MINERS:
        share = power / MINERS
        return [Machine(speed=share, share=share)] * MINERS
    low = int(power // MINERS)
    high = round(power - low * MINERS)
    widths = [low + 1] * high + [low] * (MINERS - high)
    return [Machine(speed=width, width=width) for width in widths]


def seeded(section: str, label: str, given: Race, seeds: int, **fields: Any) -> Group:
    races = tuple(replace(given, trial=replace(given.trial, seed=seed)) for seed in SEEDS[:seeds])
    return Group(section=section, label=label, races=races, **fields)


def everything(seeds: int = 3) -> list[Group]:
    """The most important first."""
    return [*slow(seeds), *wide(seeds), *pace(seeds), *parts(seeds)]


def quick() -> list[Group]:
    """One seed of the modes."""
    return pace(1)


def slow_machines(times: int, count: int, **fields: Any) -> list[Machine]:
    """Machines so many times slower, each with a whole payload in its own windows."""
    return [
        Machine(speed=1 / times, windows=times, first=round(index * times / count), **fields)
        for index in range(count)
    ]


def slow(seeds: int) -> list[Group]:
    """Half of the miners slowed: how their work comes in, and what its age should count."""
    groups = []
    for times in (4, 10):
        section, power = f"slow {times}", 4 + 4 / times
        windows = round(PAYLOADS / power)
        options: dict[str, Race] = {
            EQUAL: race(WINDOWS, [USUAL] * MINERS),
            POWER: race(windows, same_power(power)),
            "the fast ones alone, as many windows": race(windows, [USUAL] * 4),
        }
        part = [Machine(speed=1 / times, share=1 / times)] * 4
        for weighting in WEIGHTINGS:
            options[f"a part of the steps every window, weight {weighting}"] = race(
                windows, [USUAL] * 4 + part, weighting=weighting
            )
        for moves, said in ((True, "moved"), (False, "never moved")):
            machines = [USUAL] * 4 + slow_machines(times, 4, moves=moves)
            for decay in (1.0, 0.9, 0.7, 0.5) if moves else (1.0, 0.5):
                pays = moves and decay == STALENESS_DECAY  # the same race as in `pace`
                options[f"whole, {said}, lambda {decay:g}"] = race(
                    windows, machines, staleness_decay=decay, pays=pays
                )
            options[f"whole, {said}, corrected"] = race(windows, machines, corrects=True)
        groups += [seeded(section, label, given, seeds) for label, given in options.items()]
    return groups


def wide(seeds: int) -> list[Group]:
    """Half of the miners four times as fast, with wide batches; and one that claims too much."""
    machines = [WIDE] * 4 + [USUAL] * 4
    options: dict[str, Race] = {
        POWER: race(WINDOWS, same_power(20)),
        "usual batches, 2.5 times the windows": race(round(2.5 * WINDOWS), [USUAL] * MINERS),
        "the fast ones do not use their speed": race(WINDOWS, [USUAL] * MINERS),
    }
    for rate, said in ((1.0, ""), (math.sqrt(2), ", rate x 1.41"), (2.0, ", rate x 2")):
        for weighting in WEIGHTINGS:
            fast = [replace(machine, rate=rate) for machine in machines[:4]]
            options[f"wide, weight {weighting}{said}"] = race(
                WINDOWS, [*fast, *machines[4:]], weighting=weighting
            )
    liar = [Machine(claims=4), *[USUAL] * 7]
    claims: dict[str, Race] = {EQUAL: race(WINDOWS, [USUAL] * MINERS)}
    for weighting in WEIGHTINGS[1:]:
        claims[f"one claims four times its pages, weight {weighting}"] = race(
            WINDOWS, liar, weighting=weighting
        )
    return [
        *(seeded("wide", label, given, seeds, over=POWER) for label, given in options.items()),
        *(seeded("claims", label, given, seeds) for label, given in claims.items()),
    ]


def parts(seeds: int) -> list[Group]:
    """Some miners train a quarter of a model of four layers, drawn anew for each payload."""
    quarter, groups = Machine(parts=4), []
    for count in (0, 2, 4, 8):
        machines = [quarter] * count + [USUAL] * (MINERS - count)
        label = f"{count} of 8 train a quarter" if count else EQUAL
        given = race(WINDOWS, machines, model=DEEP, pays=count == 4)
        groups.append(seeded("parts", label, given, seeds))
        if count:
            windows = round(PAYLOADS / (MINERS - count * (1 - PART_FLOPS)))
            given = race(windows, machines, model=DEEP)
            groups.append(seeded("parts", f"{label}, as much compute", given, seeds))
    for count in (4, 8):
        machines = [quarter] * count + [USUAL] * (MINERS - count)
        given = race(WINDOWS, machines, model=DEEP, forgets=True)
        groups.append(seeded("parts", f"{count} of 8, moments start anew", given, seeds))
    return groups


AWAY: Final = "one away every third window"
SPREAD: Final = "0.1 to 10"
SPEEDS: Final[dict[str, tuple[float, ...]]] = {
    "equal": (1.0,) * 8,
    "4:1": (1.0,) * 4 + (0.25,) * 4,
    "10:1": (1.0,) * 4 + (0.1,) * 4,
    AWAY: (1.0,) * 8,
    SPREAD: (0.1, 0.2, 0.5, 1.0, 1.0, 2.0, 5.0, 10.0),
}
OURS_MODE, BARRIER, NO_LAG, DROP = "ours", "barrier", "barrier, no lag", "drop"


def pace(seeds: int) -> list[Group]:
    """All modes at all speeds, at as many batches of a case."""
    return [group for case in SPEEDS for group in pace_case(case, seeds)]


def pace_case(case: str, seeds: int) -> list[Group]:
    """The modes of one case, and the references at equal tokens."""
    speeds, machines = SPEEDS[case], machines_of(case)
    power = MINERS - 1 / 3 if case == AWAY else sum(speeds)
    windows = WINDOWS if power >= MINERS else round(PAYLOADS / power)
    payloads = windows * power
    usual = round(payloads / MINERS)
    stretch = 1.5 if case == AWAY else 1 / min(speeds)

    def line(label: str, given: Race, **fields: Any) -> Group:
        return seeded("pace", label, given, seeds, case=case, **fields)

    groups = [
        line(OURS_MODE, race(windows, machines, staleness_decay=STALENESS_DECAY, pays=True)),
        line(EQUAL, race(usual, [USUAL] * MINERS)),
        line(BARRIER, race(usual, [USUAL] * MINERS), stretch=stretch),
        line(NO_LAG, race(usual, [USUAL] * MINERS, lag=0), stretch=stretch),
    ]
    if power != MINERS and case != AWAY:
        groups.append(line(POWER, race(windows, same_power(power))))
    kept = [speed for speed in speeds if speed >= 1]
    if case == AWAY:
        same = race(windows, machines, staleness_decay=STALENESS_DECAY, pays=True)
        groups.append(line(DROP, same))
    elif len(kept) < MINERS:
        groups.append(line(DROP, race(round(payloads / len(kept)), [USUAL] * len(kept))))
    return groups


def machines_of(case: str) -> list[Machine]:
    """As the protocol uses them: wide steps of the fast, a payload in several windows of the slow.

    Of a speed below 1 the next whole number of windows; of one above 1 the next whole width below.
    """
    if case == AWAY:
        return [Machine(absent_every=3), *[USUAL] * 7]
    speeds = SPEEDS[case]
    num_slow, made = sum(speed < 1 for speed in speeds), list[Machine]()
    for speed in speeds:
        if speed >= 1:
            made.append(Machine(speed=speed, width=math.floor(speed)))
            continue
        times = math.ceil(1 / speed - 1e-9)
        index = sum(machine.speed < 1 for machine in made)
        made.append(Machine(speed=speed, windows=times, first=round(index * times / num_slow)))
    return made
