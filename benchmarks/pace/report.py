"""pace.json, pace.md and the picture, from the record."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from benchmarks.learning.record import Interval, Rows, interval, paired_percent
from benchmarks.learning.report import commit
from benchmarks.pace import pictures
from benchmarks.pace.suite import (
    BARRIER,
    DROP,
    EQUAL,
    MINERS,
    NO_LAG,
    OURS_MODE,
    POWER,
    SPEEDS,
    Group,
    machines_of,
)

MOST_PENALTY_PERCENT: Final = 2.0
LEAST_SPEED_UP: Final = 1.5


def write(groups: Sequence[Group], rows: Rows, results: Path, command: str) -> None:
    """Everything that the ended races say; groups without one are left out."""
    content = summary(groups, rows) | {"command": command, "commit": commit()}
    results.mkdir(parents=True, exist_ok=True)
    (results / "pace.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (results / "pace.md").write_text(table(content), encoding="utf-8")
    pictures.draw(content, results / "pace.png")
    print(table(content))


def summary(groups: Sequence[Group], rows: Rows) -> dict[str, Any]:
    lines = [line for group in groups if (line := summarise(group, groups, rows))]
    return {
        "time": "windows; a machine of speed 1 makes a payload in one",
        "work": "batches, of usual width",
        "lines": lines,
        "goals": goals(lines),
    }


def summarise(group: Group, groups: Sequence[Group], rows: Rows) -> dict[str, Any] | None:
    """One line: loss, the distance to others on the same seeds, and what each miner did."""
    outcomes = outcomes_of(group, rows)
    if not outcomes:
        return None
    first = group.races[0]
    windows = first.trial.rounds
    line: dict[str, Any] = {
        "section": group.section,
        "case": group.case,
        "label": group.label,
        "windows": windows,
        "wall_windows": windows * group.stretch,
        "batches": mean([sum(one["sent"]) for one in outcomes.values()]),
        "held_out_loss": numbers(interval([o["held_out_loss"] for o in outcomes.values()])),
        "utilisation": utilisation(group, outcomes),
    }
    if group.case:
        line["curve"] = _curve(group, outcomes)
    for label in dict.fromkeys((group.over, EQUAL, POWER)):
        other = find(groups, group.section, group.case, label)
        if other is not None and other is not group and (o := outcomes_of(other, rows)):
            line[f"percent over {label}"] = numbers(paired(outcomes, o))
    if all("pay" in one for one in outcomes.values()):
        line["pay"] = _means([one["pay"] for one in outcomes.values()])
        done = _means([one["sent"] for one in outcomes.values()])
        line["work"] = [part / sum(done) for part in done]
    for name, values in notes_of(outcomes).items():
        is_claim = group.section == "claims" and name == "share of miner 0"
        if is_claim or name.startswith("gain of part"):
            line[name] = numbers(interval(values))
    if group.case and group.label == OURS_MODE:
        line |= _speed_ups(group, groups, rows)
    return line


def notes_of(outcomes: Mapping[int, Mapping[str, Any]]) -> dict[str, list[float]]:
    """What was seen on the way, by name: a mean for each seed that has it."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes.values():
        for name, (value,) in outcome["notes"].items():
            found.setdefault(name, []).append(value)
    return dict(sorted(found.items()))


def utilisation(group: Group, outcomes: Mapping[int, Mapping[str, Any]]) -> list[float]:
    """Of each machine's time since its first start, the share in inner steps."""
    if group.label in (BARRIER, NO_LAG):
        machines = machines_of(group.case)
        return [round(1 / (machine.speed * group.stretch), 4) for machine in machines]
    if group.label == DROP and len(group.races[0].machines) < MINERS:
        return [1 / speed if speed >= 1 else 0.0 for speed in SPEEDS[group.case]]
    (race, *_), (outcome, *_) = group.races, outcomes.values()
    windows = race.trial.rounds
    return [
        round(busy * windows / (windows - machine.first), 4)
        for busy, machine in zip(outcome["busy"], race.machines, strict=True)
    ]


def _curve(group: Group, outcomes: Mapping[int, Mapping[str, Any]]) -> list[list[float]]:
    """(windows of wall time, mean loss on a few held-out pages)."""
    return [
        [points[0][0] * group.stretch, mean([loss for _, loss in points])]
        for points in zip(*(one["curve"] for one in outcomes.values()), strict=True)
    ]


def _speed_ups(group: Group, groups: Sequence[Group], rows: Rows) -> dict[str, Any]:
    """Times less wall time to one loss than each barrier: the higher of both last losses."""
    found: dict[str, Any] = {}
    ours = outcomes_of(group, rows)
    for label in (BARRIER, NO_LAG):
        other = find(groups, group.section, group.case, label)
        theirs = outcomes_of(other, rows) if other else {}
        ratios = []
        for seed in sorted(ours.keys() & theirs.keys()):
            mine, its = ours[seed]["curve"], theirs[seed]["curve"]
            goal = max(mine[-1][1], its[-1][1])
            assert other is not None
            ratios.append(other.stretch * time_to(its, goal) / time_to(mine, goal))
        if ratios:
            found[f"times faster than {label}"] = numbers(interval(ratios))
    return found


def time_to(curve: Sequence[Sequence[float]], goal: float) -> float:
    """When a curve first falls to a loss, between its points in a straight line; else infinity."""
    for (before, high), (after, low) in pairwise(curve):
        if low <= goal:
            return (
                before if high <= goal else before + (after - before) * (high - goal) / (high - low)
            )
    return math.inf


def goals(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The goals beside the figures measured; `holds` compares the mean."""
    found = []
    for line in lines:
        if line["section"] != "pace" or line["label"] != OURS_MODE:
            continue
        for label in (EQUAL, POWER):
            measured = line.get(f"percent over {label}")
            if measured is not None:
                found.append(
                    {
                        "what": f"{line['case']}: loss over {label}, as many batches, percent",
                        "measured": measured,
                        "at_most": MOST_PENALTY_PERCENT,
                        "holds": measured["mean"] <= MOST_PENALTY_PERCENT,
                    }
                )
        for label in (BARRIER, NO_LAG):
            measured = line.get(f"times faster than {label}")
            if measured is not None and line["case"] != "equal":
                found.append(
                    {
                        "what": f"{line['case']}: times less wall time to a loss than {label}",
                        "measured": measured,
                        "at_least": LEAST_SPEED_UP,
                        "holds": measured["mean"] >= LEAST_SPEED_UP,
                    }
                )
    return found


def find(groups: Sequence[Group], section: str, case: str, label: str) -> Group | None:
    """The group of a section and case."""
    wanted = (section, case, label)
    return next((g for g in groups if (g.section, g.case, g.label) == wanted), None)


def outcomes_of(group: Group, rows: Rows) -> dict[int, Mapping[str, Any]]:
    """seed -> outcome of the races that have ended."""
    return {r.trial.seed: rows[r.key]["outcome"] for r in group.races if r.key in rows}


def paired(
    mine: Mapping[int, Mapping[str, Any]], other: Mapping[int, Mapping[str, Any]]
) -> Interval:
    """How much higher the loss is, in percent, seed by seed."""
    seeds = sorted(mine.keys() & other.keys())
    return paired_percent(
        [mine[seed]["held_out_loss"] for seed in seeds],
        [other[seed]["held_out_loss"] for seed in seeds],
    )


def numbers(found: Interval) -> dict[str, Any]:
    half = None if math.isnan(found.half) else round(found.half, 5)
    return {"mean": round(found.mean, 5), "half_width_95": half, "count": found.count}


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean of each column."""
    return [mean(column) for column in zip(*rows, strict=True)]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def said(found: Mapping[str, Any] | None, sign: str = "+") -> str:
    """A number with its interval."""
    if found is None:
        return ""
    half = found["half_width_95"]
    return f"{found['mean']:{sign}.2f}" + ("" if half is None else f" \u00b1 {half:.2f}")


def table(content: Mapping[str, Any]) -> str:
    """Markdown: a table for each section, then the goals."""
    text, lines = ["# Unequal machines", "", f"`{content.get('command', '')}`"], content["lines"]
    for section in dict.fromkeys(line["section"] for line in lines):
        mine = [line for line in lines if line["section"] == section]
        text += ["", f"## {section}", ""]
        text += ["| | batches | wall time, windows | loss | % over equal | % over equal power |"]
        text += ["|---|---|---|---|---|---|"]
        for line in mine:
            name = f"{line['case']}: {line['label']}" if line["case"] else line["label"]
            loss = line["held_out_loss"]["mean"]
            text.append(
                f"| {name} | {line['batches']:.0f} | {line['wall_windows']:.0f} | {loss:.4f} | "
                f"{said(line.get(f'percent over {EQUAL}'))} | "
                f"{said(line.get(f'percent over {POWER}'))} |"
            )
    text += ["", "## goals", "", "| | measured | goal | |", "|---|---|---|---|"]
    for goal in content["goals"]:
        limit = (
            f"\u2264 {goal['at_most']:g}" if "at_most" in goal else f"\u2265 {goal['at_least']:g}"
        )
        holds = "holds" if goal["holds"] else "MISSED"
        text.append(f"| {goal['what']} | {said(goal['measured'], '')} | {limit} | {holds} |")
    return "\n".join(text) + "\n"
