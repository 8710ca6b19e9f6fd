"""The suite's picture: pay and loss of every attack, with and without defence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.attacks.catalogue import KINDS

mpl.use("Agg")
from matplotlib import pyplot as plt

LOST = 1e5
"""A loss ratio beyond it is that of a model that has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """What an axis shows. `endless`: the word for infinity."""

    low: float
    high: float
    endless: str

    def inside(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def word(self, value: float) -> str:
        """For a value that is not on it."""
        if math.isinf(value):
            return self.endless
        return "lost" if value > LOST else f"{value:.3g}"


PAYS = Scale(low=0.0, high=2.0, endless="all of it")
LOSSES = Scale(low=0.98, high=1.06, endless="stops")


def draw(shown: Sequence[Mapping[str, Any]], max_loss_ratio: float, path: Path) -> None:
    """Pay and loss of every attack, undefended and defended; `shown` class by class."""
    names = [p["name"] for p in shown]
    figure, axes = plt.subplots(1, 2, figsize=(12, 0.24 * len(names) + 2.0), sharey=True)
    pays = [p["undefended"] and _or_all(p["undefended"]["earned_vs_honest"]) for p in shown]
    losses = [p["undefended"] and _or_stopped(p["undefended"]) for p in shown]
    _dots(axes[0], pays, [_or_all(p["earned_vs_honest"]) for p in shown], PAYS)
    _dots(axes[1], losses, [p["loss_ratio"]["mean"] for p in shown], LOSSES)
    rows = range(len(shown))
    limits = [p["limit"] for p in shown]
    axes[0].scatter(limits, rows, marker="|", c="black", s=90, label="limit", zorder=4)
    axes[1].axvline(max_loss_ratio, color="black", lw=1)
    axes[0].set_title("pay over an honest miner's", fontsize=10)
    axes[1].set_title("final loss over the run without attackers", fontsize=10)
    axes[0].set_yticks(list(rows), names, fontsize=8)
    axes[0].set_ylim(len(shown) - 0.4, -0.6)
    for kind in KINDS:
        of_kind = [row for row in rows if shown[row]["class"] == kind]
        if of_kind:
            _mark_class(axes, kind, of_kind[0], of_kind[-1])
    handles, labels = axes[0].get_legend_handles_labels()
    # Title and legend keep their height in inches, however many attacks there are.
    height = figure.get_figheight()
    title = "Every attack, a quarter of the miners or of the stake"
    figure.suptitle(title, fontsize=12, y=1 - 0.15 / height, va="top")
    figure.legend(handles, labels, frameon=False, fontsize=9, loc="lower center", ncols=3)
    figure.tight_layout(rect=(0, 0.4 / height, 1, 1 - 0.4 / height))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _or_all(earned: float | None) -> float:
    return math.inf if earned is None else earned


def _or_stopped(undefended: Mapping[str, Any]) -> float:
    stopped = undefended["stopped_in_window"] is not None
    return math.inf if stopped else float(undefended["loss_ratio"])


def _dots(axis: Any, open_: Sequence[Any], defended: Sequence[float], scale: Scale) -> None:
    """A dot for every value; one beyond the scale stands at its edge, with a word beside it."""
    known = [(row, value) for row, value in enumerate(open_) if value is not None]
    for label, colour, values in (
        ("undefended", "#c2763a", known),
        ("Tessera", "#1f6f8b", list(enumerate(defended))),
    ):
        inside = [scale.inside(value) for _, value in values]
        rows = [row for row, _ in values]
        axis.scatter(inside, rows, c=colour, s=30, label=label, zorder=3, clip_on=False)
        for row, value in values:
            if value != scale.inside(value):
                axis.annotate(
                    scale.word(value), (scale.inside(value), row), textcoords="offset points",
                    xytext=(6, -3), fontsize=7, color=colour, annotation_clip=False,
                )  # fmt: skip
    axis.set_xlim(scale.low, scale.high)
    axis.grid(axis="y", color="#e4e4e4", lw=0.7)
    axis.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _mark_class(axes: Any, kind: str, first: int, last: int) -> None:
    if first:
        for axis in axes:
            axis.axhline(first - 0.5, color="#888888", lw=0.8)
    axes[1].annotate(
        kind, (1.0, (first + last) / 2), xycoords=("axes fraction", "data"), xytext=(40, 0),
        textcoords="offset points", rotation=90, va="center", fontsize=9, annotation_clip=False,
    )  # fmt: skip
