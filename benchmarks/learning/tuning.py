"""The search for rates, the same for every contender and kept in the record.

Each searches a lattice of two numbers without edges: it starts in the middle, and goes on
with the neighbours of the best trial so far. All get the same number of trials. A best whose
four neighbours were all tried is interior; the table says for whom that is not so, and
`make bench-learning` with a larger budget goes on from there.

Tuned at 24 rounds on a seed that is not evaluated.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.learning.contenders import ADAMW, DEMO, MUON, contenders, rates_name
from benchmarks.learning.origin import STALE, age, code_digest
from benchmarks.learning.record import append, load
from benchmarks.learning.run import as_row, run_trial
from benchmarks.learning.suite import TUNING_SEED
from benchmarks.learning.trial import Trial

BUDGET = 8
Point = tuple[int, int]
FORGETTING = {ADAMW: "adam_beta2", MUON: "muon_momentum", DEMO: "decay"}
STARTS = {
    ADAMW: (8e-3, 0.05),
    MUON: (8e-3, 0.05),
    DEMO: (1e-3, 0.05),
    "diloco": (4e-3, 0.2),
    "senders": (2e-3, 0.7),
    "normmatch": (4e-3, 1.0),
    "ours": (4e-3, 2.0),
    "ours/1": (4e-3, 1.0),
    "diloco/1+": (2e-3, 0.4),
    "senders/1+": (2e-3, 0.35),
    "normmatch/1+": (2e-3, 2.0),
    "ours/1+": (2e-3, 6.0),
    "ours/0+": (2e-3, 6.0),
    "ours-muon/1+": (4e-3, 6.0),
    "ours-muon/0+": (4e-3, 6.0),
}
"""Where a search starts; short trial runs gave the order of magnitude."""

NEAR = ((1, 0), (-1, 0), (0, 1), (0, -1))
FAR = ((1, 1), (1, -1), (-1, 1), (-1, -1), (2, 0), (-2, 0), (0, 2), (0, -2))


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """start * 2 ** i. With `from_one`, the number is 1 less that."""

    field: str
    start: float
    from_one: bool = False

    def value(self, index: int) -> float:
        scaled = self.start * 2.0**index
        return float(f"{1 - scaled if self.from_one else scaled:.6g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """The state of one contender's search, read from the record."""

    base: Trial
    axes: tuple[Axis, Axis]

    def trial(self, point: Point) -> Trial:
        changes: dict[str, Any] = {
            a.field: a.value(i) for a, i in zip(self.axes, point, strict=True)
        }
        return replace(self.base, seed=TUNING_SEED, **changes)

    def losses(self, rows: Mapping[str, Any], budget: int) -> dict[Point, float]:
        """Those points whose trial has ended, in the order in which the search takes them.

        A trial of other code counts as not run; one from before rows had a digest counts.
        """
        found: dict[Point, float] = {}
        while len(found) < budget:
            point = next_point(found)
            trial = self.trial(point)
            row = rows.get(trial.key)
            if row is None or age(trial, row) == STALE:
                break
            loss = row["outcome"]["held_out_loss"]
            found[point] = loss if math.isfinite(loss) else math.inf
        return found


def searches() -> dict[str, Search]:
    """Contender -> its search."""
    return {
        name: Search(base=base, axes=_axes(name))
        for name, base in contenders().items()
        if rates_name(name) == name
    }


def _axes(name: str) -> tuple[Axis, Axis]:
    """Inner rate, and alpha; where there is no alpha, how fast the optimiser forgets."""
    inner, second = STARTS.get(name) or STARTS[name.partition("/")[0]]
    field = FORGETTING.get(name, "outer_lr")
    return (
        Axis(field="inner_lr", start=inner),
        Axis(field=field, start=second, from_one=field != "outer_lr"),
    )


def next_point(found: Mapping[Point, float]) -> Point:
    """The untried point nearest to the best one; the same for the same past."""
    if not found:
        return (0, 0)
    for best in sorted(found, key=lambda point: found[point]):
        for move in (*NEAR, *FAR):
            point = (best[0] + move[0], best[1] + move[1])
            if point not in found:
                return point
    raise AssertionError("every finite set of points has an untried neighbour")


def best_point(found: Mapping[Point, float]) -> tuple[Point, bool]:
    """The best point, and whether its four neighbours are worse."""
    best = min(found, key=lambda point: found[point])
    return best, all((best[0] + i, best[1] + j) in found for i, j in NEAR)


def search(name: str, path: Path, budget: int) -> Iterator[Trial]:
    """Run what is missing of one contender's search; yields each trial that ended."""
    state = searches()[name]
    while len(found := state.losses(load(path), budget)) < budget:
        trial = state.trial(next_point(found))
        code = code_digest(trial)
        append(path, as_row(trial, run_trial(trial), code))
        yield trial


def summary(path: Path, budget: int = BUDGET) -> dict[str, Any]:
    """What `rates.json` holds: how far each search came, and the rates of those at its end."""
    rows, rates, table = load(path), {}, {}
    for name, state in searches().items():
        found = state.losses(rows, budget)
        if not found:
            continue
        point, interior = best_point(found)
        fields = [axis.field for axis in state.axes]
        values = [axis.value(index) for axis, index in zip(state.axes, point, strict=True)]
        if len(found) == budget:
            rates[name] = dict(zip(fields, values, strict=True))
        table[name] = {
            "loss": found[point],
            "trials": len(found),
            "interior": interior,
            "tried": [
                [*(axis.value(i) for axis, i in zip(state.axes, p, strict=True)), loss]
                for p, loss in found.items()
            ],
        }
    return {"budget": budget, "seed": TUNING_SEED, "rates": rates, "search": table}


def write_rates(record: Path, rates: Path, budget: int = BUDGET) -> None:
    rates.write_text(json.dumps(summary(record, budget), indent=1) + "\n")
