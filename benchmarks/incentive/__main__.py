"""How much of a payload's training shows, by parameters and pages: points, law and picture.

    make bench-incentive              what the record lacks (an hour of one core), then the law
    make bench-incentive QUICK=1      six small points of one seed, to a folder apart
    python -m benchmarks.incentive --report     of the points on record, none more

Writes benchmarks/results/incentive.{json,md,png}, and the law that the planner reads to
template/planning/effects.json.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.incentive.law import Shown, fit, fit_gain, shown_in, typical_miss
from benchmarks.incentive.picture import draw
from benchmarks.incentive.point import STEPS, Point, record_point
from benchmarks.learning.pool import Job, run_jobs
from benchmarks.learning.record import load
from benchmarks.learning.report import commit
from benchmarks.learning.text import ROOT
from template.cli.plan_flags import read_plan_or_spec
from template.planning.evidence import (
    LAW_FILE,
    EffectLaw,
    expect_work,
    law_text,
    pages_to_pass,
    windows_to_pass,
)
from template.protocol.spec.model import count_parameters

RESULTS: Final = ROOT / "benchmarks" / "results"
RECORD: Final = RESULTS / "incentive_runs.jsonl"
SIZES: Final[Mapping[str, Sequence[int]]] = {
    "tiny": (60, 240, 960, 3840),
    "small": (60, 240, 960, 3840),
    "medium": (60, 240, 960, 3840),
    "large": (60, 240, 960),
    "huge": (60, 240),
}
"""Model -> pages of a payload."""
LONGEST: Final = (("medium", 3840), ("large", 960), ("huge", 240))
"""Of one seed alone: minutes each."""
MANY_STEPS: Final = (("small", 960, 120), ("small", 3840, 480))
"""Model, pages and steps: the pages of large batches in as many steps as small ones make."""
SEEDS: Final = {"tiny": 4, "small": 4, "medium": 4, "large": 2, "huge": 2}
"""Model -> number of seeds; the effect differs by up to two times between seeds."""
QUICK: Final = tuple((model, pages) for model in ("tiny", "small") for pages in (60, 240, 960))
SECONDS_PER_PAGE: Final = {
    "tiny": 0.002, "small": 0.004, "medium": 0.01, "large": 0.05, "huge": 0.15,
}  # fmt: skip
"""Of one core; for the order of the jobs."""
POINT_COLUMNS: Final = (
    "| parameters | pages | steps | seed | effect | standard error | gain, deviations of a page | "
    "by the law |"
)
PLAN_COLUMNS: Final = (
    "| plan | parameters | pages of a payload | effect by the law, 95 % | assumed | claimed, "
    "held-out pages looked at | windows to the gate, at the lower end | claimed pages for 1, 2, 4 "
    "windows, at the lower end |"
)
WINDOWS: Final = (1, 2, 4)
"""To the gate, for which the pages are stated."""
PLANS: Final = ("localnet", "testnet", "150m", "1b", "8b", "72b")


def full() -> list[Point]:
    """All points: those of one seed alone are minutes each."""
    others = [Point(model=m, pages=n, steps=s, seed=1) for m, n, s in MANY_STEPS]
    return others + [
        Point(model=model, pages=pages, seed=seed)
        for model, sizes in SIZES.items()
        for pages in sizes
        for seed in range(1, 1 + (1 if (model, pages) in LONGEST else SEEDS[model]))
    ]


def main(argv: Sequence[str]) -> None:
    """Play what is missing, then write."""
    parser = argparse.ArgumentParser(prog="benchmarks.incentive", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="six small points of one seed")
    parser.add_argument("--report", action="store_true", help="of the points on record, none more")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, help="folder of record and results")
    arguments = parser.parse_args(argv)
    usual = ROOT / ".cache" / "incentive_quick" if arguments.quick else RESULTS
    out: Path = arguments.out or usual
    record = out / RECORD.name
    points = [Point(model=m, pages=n, seed=1) for m, n in QUICK] if arguments.quick else full()
    done = load(record)
    jobs = [
        Job(call=record_point, arguments=(point, record), cost=_cost(point))
        for point in points
        if point.key not in done and not arguments.report
    ]
    jobs.sort(key=lambda job: -job.cost)
    run_jobs(jobs, arguments.workers)
    shown = [shown_in(row) for row in load(record).values()]
    law = fit(shown)
    content = results(shown, law, " ".join(["python -m benchmarks.incentive", *argv]))
    (out / "incentive.json").write_text(json.dumps(content, indent=1) + "\n")
    (out / "incentive.md").write_text(markdown(content))
    draw(shown, law, content["plans"], out / "incentive.png")
    if out == RESULTS:
        LAW_FILE.write_text(law_text(law), encoding="ascii")
    print((out / "incentive.md").read_text())


def _cost(point: Point) -> float:
    return SECONDS_PER_PAGE[point.model] * (point.pages * 8 + 1920)


def results(shown: Sequence[Shown], law: EffectLaw, command: str) -> dict[str, Any]:
    """The object of incentive.json: points, both laws, and what the shipped plans may expect."""
    return {
        "command": command,
        "commit": commit(),
        "points": [asdict(each) for each in shown],
        "law": asdict(law),
        "miss": typical_miss(law, shown),
        "gain_law": fit_gain(shown),
        "plans": [_plan(name, law) for name in PLANS],
    }


def _plan(name: str, law: EffectLaw) -> dict[str, Any]:
    """What the law says of a shipped plan's payloads of width 1."""
    spec = read_plan_or_spec(ROOT / "runs" / f"{name}.toml")
    evaluation, expected = spec.evaluation, expect_work(spec, law)
    needed = {
        str(windows): [
            pages_to_pass(each, evaluation.held_out_pages, evaluation.work_error, windows)
            for each in (expected.effect, expected.low)
        ]
        for windows in WINDOWS
    }
    lower = windows_to_pass(expected.low, evaluation)
    return {
        "plan": name,
        "parameters": count_parameters(spec.model),
        **asdict(expected),
        "assumed": evaluation.work_effect,
        "claimed": evaluation.claimed_pages,
        "held_out": evaluation.held_out_pages,
        "windows_low": lower if math.isfinite(lower) else None,
        "needed": needed,
    }


def markdown(content: Mapping[str, Any]) -> str:
    """The tables that people read."""
    law, gain = content["law"], content["gain_law"]
    lines = [
        POINT_COLUMNS,
        "|---|---|---|---|---|---|---|---|",
    ]
    for p in sorted(
        content["points"], key=lambda p: (p["parameters"], p["pages"], p["steps"], p["seed"])
    ):
        line = _line(content, p)
        lines.append(line)
    lines += [
        "",
        _law_words("effect", law) + f" The {law['points']} points of 30 steps miss it by "
        f"{content['miss']:.2f} (root mean square). Intervals are 95 %, of the fit alone.",
        "",
        f"Gain, in deviations of a page: exp({gain[0]:.2f}) x parameters^{gain[1]:.2f} x "
        f"pages^{gain[2]:.2f}.",
        "",
        PLAN_COLUMNS,
        "|---|---|---|---|---|---|---|---|",
        *[_plan_line(plan) for plan in content["plans"]],
        "",
        "(*): beyond the models and payloads measured; an extrapolation.",
    ]
    return "\n".join(lines) + "\n"


def _line(content: Mapping[str, Any], p: Mapping[str, Any]) -> str:
    law = content["law"]
    told = EffectLaw(**law).effect(p["parameters"], p["pages"])
    by_law = f"{told:.3f}" if p["steps"] == STEPS else "(other steps)"
    return (
        f"| {p['parameters']:,} | {p['pages']:,} | {p['steps']} | {p['seed']} | "
        f"{p['effect']:.3f} | {p['error']:.3f} | {p['gain']:.2f} | {by_law} |"
    )


def _law_words(name: str, law: Mapping[str, Any]) -> str:
    """The law as a formula, each coefficient with its interval."""
    values = [
        f"({value:.2f} +- {1.96 * law['covariance'][i][i] ** 0.5:.2f})"
        for i, value in enumerate(law["coefficients"])
    ]
    start, by_parameters, turn, turn_by_parameters = values
    return (
        f"{name} = exp {start} x (parameters / 100,000)^{by_parameters} / sqrt(pages (1 + pages / "
        f"turn)), turn = exp {turn} x (parameters / 100,000)^{turn_by_parameters}."
    )


def _plan_line(plan: Mapping[str, Any]) -> str:
    needed = ", ".join(
        "/".join("none" if n is None else str(n) for n in pair) for pair in plan["needed"].values()
    )
    far = "" if plan["measured"] else " (*)"
    return (
        f"| {plan['plan']}{far} | {plan['parameters']:,} | {plan['pages']:,} | "
        f"{plan['effect']:.2f} ({plan['low']:.2f} to {plan['high']:.2f}) | {plan['assumed']:g} | "
        f"{plan['claimed']}, {plan['held_out']} | {_windows(plan['windows'])}, "
        f"{_windows(plan['windows_low'])} | {needed} |"
    )


def _windows(count: float | None) -> str:
    return "never" if count is None else f"{count:.1f}"


if __name__ == "__main__":
    main(sys.argv[1:])
