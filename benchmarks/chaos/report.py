"""chaos.json, a table in Markdown and a picture of the run, from one dict."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Record = Mapping[str, Any]
INK, CURVE, FAULT, BAD = "#222222", "#0072B2", "#E69F00", "#D55E00"
COLUMNS = (
    "window",
    "fault",
    "to whom",
    "seen",
    "votes missing",
    "no-ops",
    "exits",
    "lost",
    "apart",
    "healed after",
    "digests",
    "payloads lost",
)
LEGEND = (
    "Seen: what shows that the fault took effect. Votes missing: windows, of the three that a "
    "fault may change and in which something was accepted, and who did not vote on them in time. "
    "No-ops: of the three those in which nothing was accepted, why, and how many nodes said so. "
    "Exits: processes that ended before the next fault, with their statuses. Lost: of the three "
    "those in which nothing was accepted, or that most validators had not applied a window late, "
    "less what is lost before any fault. Apart: windows at whose end some node did not stand with "
    "the others, from the fault's beginning to the next one. Healed after: windows from the "
    "fault's end until all nodes stand at one digest and stay so. Payloads lost: accepted, and in "
    "no bucket."
)
MANY = 4
SHORTEST = 0.15
"""Windows; a kill would not be seen."""


def write(record: Record, folder: Path) -> None:
    """All three files, replacing what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=2) + "\n"
    (folder / "chaos.json").write_text(text, encoding="utf-8")
    (folder / "chaos.md").write_text(table(record), encoding="utf-8")
    draw(record, folder / "chaos.png")


def table(record: Record) -> str:
    """The page in Markdown."""
    setting = record["setting"]
    lines = [
        "# Chaos",
        "",
        f"`{record['command']}`, commit `{record['commit']}`: {setting['num_windows']} windows of "
        f"{setting['window_s']:g} s, {len(setting['miners'])} miners and "
        f"{len(setting['validators'])} validators, {record['wall_s']:.0f} s in all; load "
        f"{record['load_before']:.1f} before the start, {record['load_after']:.1f} at the end.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
        *(_row(fault, setting) for fault in record["faults"]),
        "",
        LEGEND,
        "",
        f"Replay to the same digest: {_replay(record)}. "
        f"Windows lost in {record['calm']['num_windows']} calm windows: "
        f"{record['calm']['windows_lost']}. In all {record['windows_lost']} of "
        f"{setting['num_windows']}; in {len(record['judged'])} more the validators measured all "
        "payloads and found none good enough.",
        "",
        *(f"- Does not hold: {sentence}" for sentence in record["wrong"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _replay(record: Record) -> str:
    equal = record["replay_digest_equal"]
    if equal is None:
        return f"not known ({record['replay']['reason']})"
    return "yes" if equal else f"no ({record['replay']['reason']})"


def _row(fault: Record, setting: Record) -> str:
    healed = fault["heal_windows"]
    cells = (
        str(fault["window"]),
        fault["name"],
        _whom(fault["targets"], setting),
        _seen(fault),
        "; ".join(f"{w}: {', '.join(who)}" for w, who in fault["votes_missing"].items()),
        "; ".join(f"{w}: {_reasons(why)}" for w, why in fault["no_ops"].items()),
        "; ".join(f"{n}: {', '.join(map(str, s))}" for n, s in fault["exits"].items()),
        str(fault["windows_lost"]),
        str(fault["apart_windows"]),
        "not" if healed is None else str(healed),
        "equal" if fault["digests_equal"] else "DIFFER",
        str(fault["payloads_lost"]),
    )
    return f"| {' | '.join(cells)} |"


def _reasons(nodes_by_reason: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} ({nodes})" for reason, nodes in nodes_by_reason.items())


def _whom(targets: Sequence[str], setting: Record) -> str:
    everybody = len(setting["miners"]) + len(setting["validators"])
    return "all" if len(targets) == everybody else ", ".join(targets)


def _seen(fault: Record) -> str:
    if not fault["took_effect"]:
        return "NOTHING"
    rows = {_words(evidence) for evidence in fault["evidence"].values()}
    return "; ".join(sorted(rows)) if len(rows) < MANY else _total(fault["evidence"])


def _words(evidence: Record) -> str:
    return ", ".join(
        f"{key} {'/'.join(value) if isinstance(value, list) else value}"
        for key, value in evidence.items()
        if key != "pid"
    )


def _total(evidence: Mapping[str, Record]) -> str:
    sums: dict[str, int] = {}
    for counts in evidence.values():
        for key, count in counts.items():
            sums[key] = sums.get(key, 0) + count
    return ", ".join(f"{key} {total}" for key, total in sums.items())


def draw(record: Record, path: Path) -> None:
    """Loss over windows, and below it every fault where it was; PNG."""
    figure = Figure(figsize=(12, 4.2 + 0.24 * len(record["faults"])), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    ratios = (4.0, max(1.0, 0.27 * len(record["faults"])))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
    _draw_loss(top, record)
    _draw_faults(bottom, record)
    for axes in (top, bottom):
        for window in record["lost"]:
            axes.axvspan(window, window + 1, color=BAD, alpha=0.25, lw=0)
        for fault in record["faults"]:
            axes.axvline(fault["began"], color=INK, alpha=0.15, lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png")


def _draw_loss(axes: Axes, record: Record) -> None:
    points = sorted((int(window), loss) for window, loss in record["losses"].items())
    axes.plot([w for w, _ in points], [x for _, x in points], color=CURVE, marker="o", ms=3)
    axes.grid(axis="y", alpha=0.25)
    axes.set_title("Held-out loss under faults", loc="left", weight="bold")
    axes.set_ylabel("nats per token")


def _draw_faults(axes: Axes, record: Record) -> None:
    for row, fault in enumerate(record["faults"]):
        length = max(fault["ended"] - fault["began"], SHORTEST)
        colour = FAULT if fault["took_effect"] else BAD
        axes.barh(row, length, left=fault["began"], height=0.7, color=colour)
        axes.text(
            fault["began"] + length + 0.3, row, _fate(fault), fontsize=8, color=INK, va="center"
        )
    names = [fault["name"] for fault in record["faults"]]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * record["setting"]["num_windows"])
    axes.set_xlabel("window (shaded: lost)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _fate(fault: Record) -> str:
    words = [] if fault["took_effect"] else ["no effect"]
    if fault["windows_lost"]:
        words.append(f"lost {fault['windows_lost']}")
    healed = fault["heal_windows"]
    words.append("never healed" if healed is None else f"healed after {healed}")
    return ", ".join(words)
