"""The picture of unequal machines: loss over wall time, its price, utilisation and pay."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes

from benchmarks.pace.suite import BARRIER, DROP, EQUAL, MINERS, NO_LAG, OURS_MODE, POWER, SPREAD

mpl.use("Agg")
from matplotlib import pyplot as plt

COLORS: Final = {
    OURS_MODE: "#1f6f8b",
    BARRIER: "#8b1e3f",
    NO_LAG: "#d1802f",
    DROP: "#7fb069",
}
SHOWN: Final = ("4:1", "10:1", SPREAD)
"""Cases with a panel of losses."""


def draw(content: Mapping[str, Any], path: Path) -> None:
    """Nothing without runs of the modes."""
    lines = [line for line in content["lines"] if line["section"] == "pace"]
    if not lines:
        return
    figure, axes = plt.subplots(2, len(SHOWN), figsize=(14, 8.4), constrained_layout=True)
    for axis, case in zip(axes[0], SHOWN, strict=True):
        _losses(axis, [line for line in lines if line["case"] == case], case)
    axes[0, 0].set_ylabel("held-out loss, nats per byte")
    axes[0, 0].legend(frameon=False, fontsize=9)
    ours = [line for line in lines if line["label"] == OURS_MODE]
    _penalties(axes[1, 0], ours)
    _utilisation(axes[1, 1], lines, [line["case"] for line in ours])
    _pay(axes[1, 2], ours)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _losses(axis: Axes, lines: Sequence[Mapping[str, Any]], case: str) -> None:
    for line in lines:
        if line["label"] in COLORS:
            times, losses = zip(*line["curve"], strict=True)
            axis.plot(times, losses, color=COLORS[line["label"]], label=line["label"], lw=1.8)
    axis.set_xscale("symlog", linthresh=10)
    axis.set_xlabel("wall time, windows")
    axis.set_title(f"speeds {case}: as many batches", fontsize=10)


def _penalties(axis: Axes, ours: Sequence[Mapping[str, Any]]) -> None:
    places = [line for line in ours if f"percent over {EQUAL}" in line]
    for offset, label, color in ((-0.1, EQUAL, "#1f6f8b"), (0.1, POWER, "#c2763a")):
        shown = [
            (index + offset, line[f"percent over {label}"])
            for index, line in enumerate(places)
            if f"percent over {label}" in line
        ]
        axis.errorbar(
            [place for place, _ in shown],
            [found["mean"] for _, found in shown],
            yerr=[found["half_width_95"] or 0.0 for _, found in shown],
            fmt="o",
            color=color,
            capsize=3,
            label=f"over {label}",
        )
    axis.axhline(0, color="#444444", lw=1)
    axis.axhline(2, color="#444444", lw=1, ls=":")
    axis.set_xticks(range(len(places)), [_short(line["case"]) for line in places], fontsize=8)
    axis.set_title("loss at as many batches, percent, 95 %", fontsize=10)
    axis.legend(frameon=False, fontsize=8)


def _utilisation(axis: Axes, lines: Sequence[Mapping[str, Any]], cases: Sequence[str]) -> None:
    """The mean over all machines of a case: a machine that is left out does nothing."""
    for offset, label in ((-0.2, OURS_MODE), (0.0, BARRIER), (0.2, DROP)):
        found = {line["case"]: line["utilisation"] for line in lines if line["label"] == label}
        shown = [(cases.index(case), sum(busy) / MINERS) for case, busy in found.items()]
        places = [place + offset for place, _ in shown]
        axis.bar(places, [busy for _, busy in shown], 0.18, color=COLORS[label], label=label)
    axis.set_xticks(range(len(cases)), [_short(case) for case in cases], fontsize=8)
    axis.set_ylim(0, 1.19)
    axis.set_title("share of time in inner steps, mean of the 8 machines", fontsize=10)
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="upper right")


def _short(case: str) -> str:
    return case.replace("one away every third window", "one away\n1 of 3")


def _pay(axis: Axes, ours: Sequence[Mapping[str, Any]]) -> None:
    floor = 1e-3
    colors = ("#9a9a9a", "#7fb069", "#c2763a", "#8e6c8a", "#1f6f8b")
    for line, color in zip(ours, colors, strict=False):
        if "pay" in line:
            pay = [max(floor, share) for share in line["pay"]]
            axis.scatter(line["work"], pay, color=color, s=28, label=line["case"], alpha=0.8)
    ends = (floor, 0.7)
    axis.plot(ends, ends, color="#444444", lw=1)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("share of the work")
    axis.set_title(f"share of pay (at {floor:g}: none)", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
