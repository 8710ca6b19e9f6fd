"""pay_curve.json, pay_curve.md and the picture, from the record."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.learning.record import Rows
from benchmarks.learning.report import commit
from benchmarks.learning.text import ROOT
from benchmarks.pay import figures, picture, suite
from benchmarks.pay.cases import FIRST, LOCALNET, SETTLED, SUITE, SWARM, WINDOWS, Case
from template.commands.plan import load_plan
from template.planning.case import BLOCK_S

PUBLIC: Final = ("testnet", "150m", "1b", "8b", "72b")
BLOCK_SECONDS: Final = {"localnet": 0.25, "small": 1.0, **dict.fromkeys(PUBLIC, BLOCK_S)}
"""Plan -> seconds of a block, as the comments in the plans say."""


def write(cases: Sequence[Case], rows: Rows, results: Path, command: str) -> None:
    """Everything that the runs on record say; cases without one are left out."""
    content = summary(cases, rows) | {"command": command, "commit": commit()}
    results.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1) + "\n"
    (results / "pay_curve.json").write_text(text, encoding="utf-8")
    (results / "pay_curve.md").write_text(table(content), encoding="utf-8")
    picture.draw(content["curve"], results / "pay_curve.png")
    print(table(content))


def summary(cases: Sequence[Case], rows: Rows) -> dict[str, Any]:
    """`curve`, `noise` and `splitting`, with the number of points outside the band."""
    ended = [(case, _paid(case, rows[case.key]["outcome"])) for case in cases if case.key in rows]
    points: list[dict[str, Any]] = []
    for where in (SUITE, SWARM):
        mine = [row for case, row in ended if case.where == where and not case.hotkeys]
        points += figures.curve(mine, where)
    points += [
        point
        for row in rows.values()
        if row["case"]["where"] == LOCALNET
        for point in row["points"]
    ]
    played = [row for case, row in ended if case.where == SUITE]
    return {
        "unit": "an honest machine with all inner steps of usual batches: work 1, pay 1",
        "windows": [FIRST, WINDOWS - 1],
        "settled_from": SETTLED,
        "band": figures.BAND,
        "curve": [point | {"outside": figures.outside(point)} for point in points],
        "noise": [_with_duels(line) for line in figures.noise(played, window_seconds())],
        "splitting": figures.splitting(
            (case.hotkeys, row) for case, row in ended if case.hotkeys and case.where == SUITE
        ),
    }


def _paid(case: Case, outcome: Mapping[str, Any]) -> Mapping[str, Any]:
    """An outcome with its shares of pay: worked out, or as neurons wrote them to the chain."""
    return suite.paid(case, outcome) if case.where == SUITE else outcome


def _with_duels(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the noise with what the plan's duels add, by arithmetic: a duel between equal
    machines moves its whole part up or down, anew in every pay period of the day.
    """
    if line["period"] != "day":
        return {**line, "duels": 0.0, "together": line["sd"]}
    plan = load_plan(ROOT / "runs" / f"{line['plan']}.toml")
    schedule = plan["schedule"]
    period_windows = -(-schedule["tempo_blocks"] // schedule["blocks_per_window"])
    periods = figures.DAY_S / (line["window_s"] * period_windows)
    duels = plan["weights"]["duel_share"] / math.sqrt(periods)
    return {**line, "duels": duels, "together": math.hypot(line["sd"], duels)}


def window_seconds() -> dict[str, float]:
    """Plan -> seconds of a window."""
    return {
        name: block_s * load_plan(ROOT / "runs" / f"{name}.toml")["schedule"]["blocks_per_window"]
        for name, block_s in BLOCK_SECONDS.items()
    }


def table(content: Mapping[str, Any]) -> str:
    """Markdown: the curve, the noise, the split machine."""
    first, last = content["windows"]
    text = [
        "# Pay over work",
        "",
        f"`{content.get('command', '')}`",
        "",
        f"Pay of windows {first} to {last}; of a localnet, all emission. The usual machine's row "
        "is one of them over the others.",
        "",
        "| where | machine | work | pay | 95 % | seeds | pay / work | | from window "
        f"{content['settled_from']} on | windows without pay |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for point in content["curve"]:
        said = "OUTSIDE" if point["outside"] else f"within {content['band']:.0%}"
        settled = point["settled"]
        late = "" if settled is None else f"{settled / point['work']:.3f}"
        unpaid = "" if point["unpaid"] is None else f"{point['unpaid']:.0%}"
        ratio = point["pay"] / point["work"]
        text.append(
            f"| {point['where']} | {point['name']} | {point['work']:.3f} | {point['pay']:.3f} | "
            f"{_interval(point)} | {point['seeds']} | {ratio:.3f} | {said} | {late} | {unpaid} |"
        )
    text += [
        "",
        "## Noise",
        "",
        "Standard deviation of an equal machine's pay, of its mean: measured in the suite, and "
        "what the plan's duels add to a day, by arithmetic.",
        "",
    ]
    text += [
        "| period | plan | windows | averaged over | deviation | of duels | together |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in content["noise"]:
        text.append(
            f"| {line['period']} | {line['plan']} | {line['windows']} | {line['averaged']} | "
            f"{line['sd']:.1%} | {line['duels']:.1%} | {line['together']:.1%} |"
        )
    text += ["", "## One machine, several hotkeys", ""]
    text += ["| hotkeys | pay together | 95 % | seeds | limit | |", "|---|---|---|---|---|---|"]
    for line in content["splitting"]:
        limit = "" if line["limit"] is None else f"{line['limit']:.2f}"
        holds = "" if line["limit"] is None else "holds" if line["holds"] else "DOES NOT HOLD"
        text.append(
            f"| {line['hotkeys']} | {line['pay']:.3f} | {_interval(line)} | {line['seeds']} | "
            f"{limit} | {holds} |"
        )
    return "\n".join(text) + "\n"


def _interval(found: Mapping[str, Any]) -> str:
    return "" if found["low"] is None else f"{found['low']:.3f} to {found['high']:.3f}"
