"""The picture of the curve: pay over work on logarithmic axes, and the ratio of the two."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from benchmarks.pay.cases import LOCALNET, SUITE, SWARM
from benchmarks.pay.figures import BAND

mpl.use("Agg")
from matplotlib import pyplot as plt

STYLES: Final = {
    SUITE: ("o", "#1f6f8b", "swarm of the attack suite"),
    SWARM: ("s", "#c2763a", "real neurons, one process"),
    LOCALNET: ("^", "#8b1e3f", "localnet"),
}
"""Where -> marker, colour, label."""
SHIFT: Final = 1.02
"""Factor between points of equal work."""
LEAST: Final = 0.02
"""The lowest pay shown; a lower one stands there."""
TICKS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 4)


def draw(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Nothing without points."""
    if not points:
        return
    figure, (curve, ratio) = plt.subplots(1, 2, figsize=(12, 5.2), constrained_layout=True)
    _curve(curve, points)
    _ratio(ratio, points)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _curve(axis: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    works = [point["work"] for point in points]
    ends = np.array([0.7 * min(works), 1.4 * max(works)])
    axis.plot(ends, ends, color="#444444", lw=1, label="pay = work")
    axis.fill_between(
        ends, (1 - BAND) * ends, (1 + BAND) * ends, color="#dddddd", label=f"{BAND:.0%} about it"
    )
    _points(axis, points, over_work=False)
    axis.set_yscale("log")
    axis.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axis.set_ylabel("pay, usual machine = 1")
    axis.set_ylim(max(LEAST, 0.5 * ends[0]), 1.5 * ends[1])
    axis.set_title("Pay over work", fontsize=11)
    axis.legend(frameon=False, fontsize=9)
    _work_axis(axis, ends)


def _ratio(axis: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    works = [point["work"] for point in points]
    ends = np.array([0.7 * min(works), 1.4 * max(works)])
    axis.axhline(1, color="#444444", lw=1)
    axis.axhspan(1 - BAND, 1 + BAND, color="#dddddd")
    _points(axis, points, over_work=True)
    axis.set_ylim(0, 2)
    axis.set_title("Pay for each unit of work (beyond the edge: at the edge)", fontsize=11)
    _work_axis(axis, ends)


def _points(axis: Axes, points: Sequence[Mapping[str, Any]], *, over_work: bool) -> None:
    for place, (where, (marker, colour, label)) in enumerate(STYLES.items()):
        mine = [point for point in points if point["where"] == where]
        if not mine:
            continue
        units = [point["work"] if over_work else 1.0 for point in mine]
        pays = [point["pay"] / unit for point, unit in zip(mine, units, strict=True)]
        floor = 0.0 if over_work else LEAST
        ceiling = 2.0 if over_work else np.inf
        shown = np.clip(pays, floor, ceiling)
        lows = [_limit(point, "low") / unit for point, unit in zip(mine, units, strict=True)]
        highs = [_limit(point, "high") / unit for point, unit in zip(mine, units, strict=True)]
        below = shown - np.clip(lows, floor, shown)
        above = np.maximum(np.array(highs) - shown, 0.0)
        axis.errorbar(
            [point["work"] * SHIFT ** (place - 1) for point in mine], shown, yerr=[below, above],
            fmt=marker, color=colour, capsize=3, ms=6, label=label, zorder=3,
        )  # fmt: skip


def _limit(point: Mapping[str, Any], name: str) -> float:
    """An end of the interval; the mean where there is none."""
    return float(point["pay"] if point[name] is None else point[name])


def _work_axis(axis: Axes, ends: np.ndarray) -> None:
    axis.set_xscale("log")
    axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axis.minorticks_off()
    axis.set_xlim(*ends)
    axis.set_xlabel("work, usual machine = 1")
    axis.grid(color="#eeeeee", lw=0.7, zorder=0)
