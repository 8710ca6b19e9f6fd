"""learning.json, tables in the terminal and pictures, from the record."""

import json
import math
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.learning import pictures
from benchmarks.learning.contenders import ADAMW, MUON, OURS, SYNCHRONOUS
from benchmarks.learning.goals import MAX_BYTES, Goal, goals
from benchmarks.learning.origin import CURRENT, STALE, UNMARKED, age
from benchmarks.learning.record import Interval, Rows, interval, losses, paired_percent
from benchmarks.learning.suite import Group
from benchmarks.learning.text import ROOT
from benchmarks.learning.trial import Trial


def write(groups: Sequence[Group], rows: Rows, results: Path, command: str) -> None:
    """Everything that the ended runs say. Groups without a run are left out."""
    points = [p for p in (summarise(group, groups, rows) for group in groups) if p]
    note = note_of_age(groups, rows)
    content = {
        "command": command,
        "commit": commit(),
        "code": note,
        "runs": [run_row(group, trial, rows) for group in groups for trial in group.trials
                 if trial.key in rows],
        "summary": points,
        "against_adamw": against(ADAMW, groups, rows),
        "against_muon": against(MUON, groups, rows),
        "against_shipped": against(OURS, groups, rows),
        "averages": averages(groups, rows),
        "goals": [goal_row(goal) for goal in goals(groups, rows)],
    }  # fmt: skip
    results.mkdir(parents=True, exist_ok=True)
    (results / "learning.json").write_text(json.dumps(content, indent=1) + "\n")
    print_tables(points)
    print_averages(averages(groups, rows))
    print_goals(goals(groups, rows))
    print(note)
    pictures.draw(groups, points, rows, results, note)


def note_of_age(groups: Sequence[Group], rows: Rows) -> str:
    """How many of the shown runs were made by other code than is here."""
    shown = {t.key: t for group in groups for t in group.trials if t.key in rows}
    ages = [age(trial, rows[key]) for key, trial in shown.items()]
    if not set(ages) - {CURRENT}:
        return f"all {len(ages)} runs are of the code that is here"
    return (
        f"* has runs of other code: of {len(ages)}, {ages.count(UNMARKED)} are from before rows "
        f"had a digest, {ages.count(STALE)} of code that was changed since"
    )


def against(reference: str, groups: Sequence[Group], rows: Rows) -> list[dict[str, Any]]:
    """Percent above another rule on the same tokens, pairs by seed, of section "main".

    `shipped`: what the shipped miner does, busy or with time to wait.
    `runs_of_other_code` counts runs of both sides.
    """
    main = [group for group in groups if group.section == "main"]
    beside = {group.x: group for group in main if group.label == reference}
    found = []
    for group in main:
        other = beside.get(group.x)
        if other is None or group.label == reference:
            continue
        pairs = [
            (mine, theirs)
            for mine in group.trials
            for theirs in other.trials
            if mine.seed == theirs.seed and mine.key in rows and theirs.key in rows
        ]
        if not pairs:
            continue
        percent = paired_percent(*(losses(side, rows) for side in zip(*pairs, strict=True)))
        both = {trial.key: trial for pair in pairs for trial in pair}
        half = None if math.isnan(percent.half) else percent.half
        found.append({
            "rule": group.label,
            "model": pairs[0][0].model,
            "rounds": int(group.x),
            "percent_low": None if half is None else percent.mean - half,
            "percent": percent.mean,
            "percent_high": None if half is None else percent.mean + half,
            "seeds": percent.count,
            "runs_of_other_code": _of_other_code(both.values(), rows),
            "shipped": group.label in (OURS, SYNCHRONOUS),
        })  # fmt: skip
    return found


def summarise(group: Group, groups: Sequence[Group], rows: Rows) -> dict[str, Any] | None:
    """One point: mean and interval, and the distance to AdamW on the same tokens and seeds."""
    ended = [trial for trial in group.trials if trial.key in rows]
    if not ended:
        return None
    outcomes = [rows[trial.key]["outcome"] for trial in ended]
    point = {
        "runs_of_other_code": _of_other_code(ended, rows),
        "section": group.section,
        "strategy": group.label,
        "x": group.x,
        "held_out_loss": _numbers(interval(losses(ended, rows))),
        "tokens": outcomes[0]["tokens"],
        "bytes_up_per_param_round": outcomes[0]["bytes_up_per_param_round"],
        "bytes_down_per_param_round": outcomes[0]["bytes_down_per_param_round"],
    }
    found = over_adamw(group, groups, rows)
    if found is None:
        return point
    over, reference = found
    return point | {
        "percent_over_adamw": _numbers(over),
        "adamw_runs_of_other_code": _of_other_code(reference, rows),
    }


def _of_other_code(trials: Iterable[Trial], rows: Rows) -> int:
    return sum(age(trial, rows[trial.key]) != CURRENT for trial in trials)


def over_adamw(
    group: Group, groups: Sequence[Group], rows: Rows
) -> tuple[Interval, list[Trial]] | None:
    """Percent above data-parallel AdamW, seed by seed, and AdamW's trials; None where it did not
    run beside.
    """
    reference = {
        (other.section, t.miners, t.model, t.seed): t
        for other in groups
        for t in other.trials
        if t.strategy == ADAMW and t.key in rows and (other.section, other.x) in _beside(group)
    }
    pairs = [
        (trial, other)
        for trial in group.trials
        if (other := reference.get((group.section, trial.miners, trial.model, trial.seed)))
        and trial.key in rows
    ]
    if not pairs:
        return None
    mine, theirs = zip(*pairs, strict=True)
    return paired_percent(losses(mine, rows), losses(theirs, rows)), list(theirs)


def _beside(group: Group) -> set[tuple[str, float]]:
    """Where AdamW on the same tokens stands: H changes nothing for it."""
    return {(group.section, 15 if group.section == "inner_steps" else group.x)}


def run_row(group: Group, trial: Trial, rows: Rows) -> dict[str, Any]:
    """One run, with the fields that everybody asks for first."""
    outcome = rows[trial.key]["outcome"]
    return {
        "section": group.section,
        "label": group.label,
        "code": age(trial, rows[trial.key]),
        "strategy": trial.strategy,
        "lag": trial.lag,
        "miners": trial.miners,
        "inner_steps": trial.inner_steps,
        "rounds": trial.rounds,
        "tokens": outcome["tokens"],
        "seed": trial.seed,
        "held_out_loss": outcome["held_out_loss"],
        "bytes_up_per_param_round": outcome["bytes_up_per_param_round"],
        "bytes_down_per_param_round": outcome["bytes_down_per_param_round"],
        "noise_kept": outcome["noise_kept"],
        "seconds": outcome["seconds"],
        "trial": asdict(trial),
    }


def averages(groups: Sequence[Group], rows: Rows) -> list[dict[str, Any]]:
    """Percent of averages over rounds above the same runs' last parameters, of section "main".

    `round`: where both were measured; at the run's own length on all held-out pages, before that
    on a few.
    """
    found = []
    for group in groups:
        ended = [rows[t.key]["outcome"] for t in group.trials if t.key in rows]
        ended = [outcome for outcome in ended if outcome.get("averages")]
        if group.section != "main" or not ended:
            continue
        whole = [o["averages"] | {"last": o["held_out_loss"]} for o in ended]
        measured = [(int(group.x), whole)] + [
            (parts[0][0], [losses for _, losses in parts])
            for parts in zip(*(o["averages_on_the_way"] for o in ended), strict=True)
            if parts[0][0] != group.x
        ]
        found += [
            {
                "rule": group.label,
                "rounds": int(group.x),
                "round": number,
                "average": name,
                "percent_over_last": _numbers(
                    paired_percent([m[name] for m in of_seed], [m["last"] for m in of_seed])
                ),
            }
            for number, of_seed in measured
            for name in ended[0]["averages"]
        ]
    return found


def print_averages(found: Sequence[Mapping[str, Any]]) -> None:
    """A line for each rule and round, a column for each average; nothing without runs."""
    if not found:
        return
    names = list(dict.fromkeys(row["average"] for row in found))
    table = Table("rule", "rounds", "at", *names, title="averages over rounds, % above the last")
    for key in dict.fromkeys((r["rule"], r["rounds"], r["round"]) for r in found):
        cells = {
            row["average"]: _shown(row["percent_over_last"], 2)
            for row in found
            if (row["rule"], row["rounds"], row["round"]) == key
        }
        table.add_row(*map(str, key), *(cells[name] for name in names))
    Console(width=130).print(table)


def print_tables(points: Sequence[Mapping[str, Any]]) -> None:
    console = Console(width=100)
    sections = [point["section"] for point in points]
    for section in dict.fromkeys(s for s in sections if sections.count(s) > 1):
        table = Table("rule", "x", "nats per byte", "over AdamW, %", "up", "down", title=section)
        for point in points:
            if point["section"] == section:
                table.add_row(
                    point["strategy"] + " *" * (point["runs_of_other_code"] > 0),
                    f"{point['x']:g}",
                    _shown(point["held_out_loss"], 4),
                    _shown(point.get("percent_over_adamw"), 2)
                    + " *" * (point.get("adamw_runs_of_other_code", 0) > 0),
                    f"{point['bytes_up_per_param_round']:.4f}",
                    f"{point['bytes_down_per_param_round']:.3f}",
                )
        console.print(table)
    console.print("up, down: bytes per parameter and round of one miner; intervals: 95 %")


def print_goals(reached: Sequence[Goal]) -> None:
    """Percent unless it says bytes."""
    table = Table("the shipped rule", "measured", "wanted", "")
    for goal in reached:
        measured = _shown(_numbers(goal.measured), 4 if goal.limit == MAX_BYTES else 2)
        verdict = "holds" if goal.holds else "[bold]does not hold"
        table.add_row(goal.what, measured, f"<= {goal.limit:g}", verdict)
    Console(width=110).print(table)


def goal_row(goal: Goal) -> dict[str, Any]:
    return {
        "what": goal.what,
        "measured": _numbers(goal.measured),
        "limit": goal.limit,
        "holds": goal.holds,
    }


def _numbers(value: Interval) -> dict[str, float | int | None]:
    half = None if math.isnan(value.half) else value.half
    return {"mean": value.mean, "half_width_95": half, "seeds": value.count}


def _shown(value: Mapping[str, Any] | None, digits: int) -> str:
    if value is None:
        return ""
    half = value["half_width_95"]
    return f"{value['mean']:.{digits}f}" + ("" if half is None else f" +- {half:.{digits}f}")


def commit() -> str:
    """The commit that is checked out, "-dirty" if files differ from it; "" without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
