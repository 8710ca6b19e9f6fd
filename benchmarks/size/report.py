"""The benchmark of sizes: bars, a page, a picture."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.size.meter import BEFORE_WINDOW, RESTART

mpl.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parents[1] / "results"
BAR_SIZE = "100M"
MAX_PEAK = {"miner": 26.0, "validator": 16.0}
"""Bytes a parameter at most, at any moment."""
MAX_WINDOW_S = 6.0
"""All of a window but training and scoring, in seconds for each 100 M parameters."""
OUTSIDE = {"join", BEFORE_WINDOW, "train", "score", RESTART}
"""Phases that are not part of each window, or are the work itself."""
BEFORE = {
    "miner's peak, bytes a parameter": 37.7,
}
"""As measured before these bars."""
HUNDRED_MILLION = 1e8
COLOURS = {"miner": "#1f6f8b", "validator": "#c8b6a6"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A promise and what was measured."""

    what: str
    measured: float
    most: float

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return self.measured <= self.most


def peak_per_param(row: dict[str, Any]) -> float:
    """The highest peak of all phases, bytes a parameter."""
    peak: float = max(phase["peak_bytes"] for phase in row["phases"])
    return peak / row["params"]


def window_s(row: dict[str, Any], clock: str = "wall_s") -> float:
    """Seconds of a window for each 100 M parameters, without `OUTSIDE`."""
    spent = sum(p[clock] for p in row["phases"] if p["name"] not in OUTSIDE)
    return float(spent / row["params"] * HUNDRED_MILLION)


def bars(result: dict[str, Any]) -> list[Bar]:
    """The bars at `BAR_SIZE`; none where this size was not measured."""
    found = []
    for row in result["rows"]:
        if row["size"] == BAR_SIZE:
            role = row["role"]
            peak = Bar(
                what=f"{role}'s peak, bytes a parameter",
                measured=peak_per_param(row),
                most=MAX_PEAK[role],
            )
            spent = Bar(
                what=f"{role}'s window without training and scoring, s for 100 M parameters",
                measured=window_s(row),
                most=MAX_WINDOW_S,
            )
            found += [peak, spent]
    return found


def write_all(result: dict[str, Any], folder: Path) -> None:
    """size.json, size.md, size.png."""
    found = bars(result)
    missed = [bar.what for bar in found if not bar.holds]
    text = json.dumps(result | {"does_not_hold": missed}, indent=1) + "\n"
    (folder / "size.json").write_text(text, "ascii")
    (folder / "size.md").write_text(page(result), "utf-8")
    draw(result, folder / "size.png")


def page(result: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# What a window costs for each parameter",
        "",
        "Written by `python -m benchmarks.size`: each role and size in a process of its own, two",
        "threads, the least time of several processes, the most memory. Memory is the peak of the",
        "process beyond interpreter and libraries. The batch is small, so that parameters and not",
        "activations are measured.",
        "",
        "| bar at 100 M parameters | measured | at most | before | |",
        "|---|---|---|---|---|",
    ]
    for bar in bars(result):
        verdict = "holds" if bar.holds else "does not hold"
        before = BEFORE.get(bar.what, "")
        lines.append(f"| {bar.what} | {bar.measured:.1f} | {bar.most:g} | {before} | {verdict} |")
    for row in result["rows"]:
        lines += ["", f"## {row['role']}, {row['params']:,} parameters", ""]
        lines += [
            "| phase | s for 100 M | CPU s for 100 M | peak, bytes a parameter |",
            "|---|---|---|---|",
        ]
        scale = HUNDRED_MILLION / row["params"]
        for phase in row["phases"]:
            wall, cpu = phase["wall_s"] * scale, phase["cpu_s"] * scale
            peak = phase["peak_bytes"] / row["params"]
            lines.append(f"| {phase['name']} | {wall:.2f} | {cpu:.2f} | {peak:.1f} |")
        lines.append(
            f"| **window without {', '.join(sorted(OUTSIDE))}** | **{window_s(row):.2f}** | "
            f"**{window_s(row, 'cpu_s'):.2f}** | **{peak_per_param(row):.1f}** |"
        )
    machine = result["machine"]
    lines += ["", f"Machine: {machine['cpus']} cores, load {machine['load']}, torch "
              f"{machine['torch']}."]  # fmt: skip
    return "\n".join(lines) + "\n"


def draw(result: dict[str, Any], path: Path) -> None:
    """Peak and time against the size, with the bars."""
    figure, (memory, spent) = plt.subplots(1, 2, figsize=(9, 3.6))
    for role, colour in COLOURS.items():
        rows = [row for row in result["rows"] if row["role"] == role]
        sizes = [row["params"] / 1e6 for row in rows]
        memory.plot(sizes, list(map(peak_per_param, rows)), "o-", color=colour, label=role)
        memory.axhline(MAX_PEAK[role], color=colour, linestyle=":")
        spent.plot(sizes, list(map(window_s, rows)), "o-", color=colour, label=role)
    spent.axhline(MAX_WINDOW_S, color="#8b1e3f", linestyle=":")
    memory.set_ylabel("peak, bytes a parameter")
    spent.set_ylabel("s for 100 M parameters")
    spent.set_title("a window without training and scoring")
    memory.set_title("memory beyond the libraries")
    for axes in (memory, spent):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("million parameters")
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
