"""What was promised of the shipped rule, beside what was measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.codec.shapes import bench_shapes, num_params
from benchmarks.learning.contenders import ADAMW, OURS, SYNCHRONOUS
from benchmarks.learning.record import Interval, Rows, paired_percent
from benchmarks.learning.rules import LOCAL_RULES
from benchmarks.learning.suite import LONGEST, Group
from compression import make_plan

MAX_BYTES = 0.0198
BUSY, WAITING = "busy miners", "miners who wait"
"""With inner steps before the others' payloads come, and without: these train as at lag 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """`measured` in percent over the reference, or in bytes; `holds` looks at the mean."""

    what: str
    measured: Interval
    limit: float

    @property
    def holds(self) -> bool:
        return self.measured.mean <= self.limit


def goals(groups: Sequence[Group], rows: Rows) -> list[Goal]:
    """Those of which there are runs."""
    found = {(g.section, g.label, g.x): g for g in groups}

    def percent(what: str, mine: tuple[str, str, float], other: tuple[str, str, float],
                limit: float) -> list[Goal]:  # fmt: skip
        pairs = _pairs(found.get(mine), found.get(other), rows)
        if not pairs:
            return []
        measured = paired_percent([a for a, _ in pairs], [b for _, b in pairs])
        return [Goal(what=what, measured=measured, limit=limit)]

    ours = ("main", OURS, 24)
    compared = [
        goal
        for rounds, limit in ((80, 3.0), (LONGEST, 1.0))
        for name, who in ((OURS, BUSY), (SYNCHRONOUS, WAITING))
        for goal in percent(
            f"{who}: over AdamW, {rounds} rounds",
            ("main", name, rounds), ("main", ADAMW, rounds), limit,
        )
    ]  # fmt: skip
    for rounds in (24, 80, LONGEST):
        compared += percent(
            f"{BUSY}: over no lag from the same start, {rounds} rounds",
            ("main", OURS, rounds), ("main", SYNCHRONOUS, rounds), 2.0,
        )  # fmt: skip
    for rule in LOCAL_RULES:
        if rule != "ours":
            size = " (float32)" if rule == "diloco" else ""
            what = f"{BUSY}: over {rule}{size} with the same remedies, 24 rounds"
            compared += percent(what, ours, ("main", f"{rule}/1+", 24), 0.0)
    compared += percent(
        "with 2 noise miners over the honest alone",
        ("noise", "2 of 8 send noise", 2), ("noise", "6 honest alone", 0), 1.0,
    )  # fmt: skip
    return compared + _size(found.get(ours), rows)


def _pairs(mine: Group | None, other: Group | None, rows: Rows) -> list[tuple[float, float]]:
    """Losses of both, seed by seed."""
    if mine is None or other is None:
        return []
    theirs = dict(_seeds(other, rows))
    return [(loss, theirs[seed]) for seed, loss in _seeds(mine, rows) if seed in theirs]


def _seeds(group: Group, rows: Rows) -> list[tuple[int, float]]:
    ended = [trial for trial in group.trials if trial.key in rows]
    return [(trial.seed, rows[trial.key]["outcome"]["held_out_loss"]) for trial in ended]


def _size(group: Group | None, rows: Rows) -> list[Goal]:
    """Of the model that was trained, and of one whose sides are multiples of 64, as large
    models' are: without the short chunks at the edges.
    """
    ended = [t for t in group.trials if t.key in rows] if group else []
    if not ended:
        return []
    shapes = bench_shapes()
    at_scale = make_plan(shapes, top_k=ended[0].top_k).num_bytes / num_params(shapes)
    sizes = {
        "bytes up per parameter and round, 0.11 M": rows[ended[0].key]["outcome"][
            "bytes_up_per_param_round"
        ],
        "bytes of the same payload of 102 M parameters": at_scale,
    }
    return [
        Goal(what=what, measured=Interval(mean=size, half=math.nan, count=1), limit=MAX_BYTES)
        for what, size in sizes.items()
    ]
