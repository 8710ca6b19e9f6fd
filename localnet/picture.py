"""The picture of a finished localnet run: the loss curve and the miners' pay.

Owns the drawing, on matplotlib's Agg canvas without a display. Every number comes from the report.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from localnet.report import NeuronReport, Report, SwitchReport, emission_shares
from localnet.roster import HONEST

SIZE_INCHES = (12, 9)
DPI = 100
CROWDED_BARS = 9
"""From this number of neurons on, labels are vertical and values left out, to avoid overlap."""
MIN_PLACES = 6
"""Least number of places on the x axis, to keep a single bar narrow."""

INK, MUTED = "#222222", "#777777"
CURVE, UNIGRAM, HONEST_COLOUR, NEUTRAL = "#0072B2", "#D55E00", "#0072B2", "#BBBBBB"
OTHER_COLOURS = ("#D55E00", "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#F0E442")
"""Okabe and Ito's palette, distinct under every colour blindness."""


def draw(report: Report, path_png: Path) -> None:
    """Write a PNG of 1200 x 900 pixels, replacing an earlier file. OSError if writing fails."""
    layout = ConstrainedLayoutEngine(h_pad=0.15, w_pad=0.15)
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, height_ratios=(1.25, 1))
    _draw_loss(top, report)
    _draw_pay(bottom, report)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK)
    path_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path_png, format="png")


def _draw_loss(axes: Axes, report: Report) -> None:
    losses, num_windows = report["held_out_loss"], len(report["windows"])
    points = [(w, x) for w, x in enumerate(losses["per_window"], start=1) if x is not None]
    axes.set_title(f"Held-out loss over {num_windows} windows", loc="left", weight="bold")
    axes.set_xlabel("state window")
    axes.set_ylabel("nats per token")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", alpha=0.25)
    axes.set_xlim(0.4, max(len(losses["per_window"]), 2) + 0.6)
    axes.margins(y=0.14)
    if losses["unigram"] is not None:
        label = f"entropy of single tokens: {losses['unigram']:.3f}"
        axes.axhline(losses["unigram"], color=UNIGRAM, linestyle="--", label=label)
    if not points:
        axes.text(0.5, 0.5, "no loss was measured", transform=axes.transAxes, ha="center")
        return
    axes.plot(*zip(*points, strict=True), color=CURVE, marker="o", ms=4, label="held-out loss")
    for point, rise_points in ((points[0], 9), (points[-1], -18)):
        axes.annotate(
            f"{point[1]:.3f}",
            point,
            xytext=(0, rise_points),
            textcoords="offset points",
            ha="center",
            color=CURVE,
            weight="bold",
        )
    _draw_switches(axes, report["switches"])
    axes.legend(loc="center right", frameon=False)


def _draw_switches(axes: Axes, switches: Sequence[SwitchReport]) -> None:
    """A line before the first theta that the payloads of each new spec lead to."""
    for number, switch in enumerate(switches, start=2):
        place = switch["window"] + 0.5
        axes.axvline(place, color=MUTED, linestyle=":", linewidth=1.5)
        axes.annotate(
            f"spec {number}, from window {switch['window']}",
            (place, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -4),
            textcoords="offset points",
            va="top",
            color=MUTED,
            fontsize=9,
        )


def _draw_pay(axes: Axes, report: Report) -> None:
    """Two bars a neuron: its weight, filled, and its emission share, hatched."""
    shown = [n for n in report["neurons"] if n["role"] == "miner" or n["weight"]]
    shown.sort(key=lambda n: -1 if n["uid"] is None else n["uid"])
    shares = emission_shares(report)
    colours = _colours(shown)
    axes.set_title("Final weights, and shares of the miners' emission", loc="left", weight="bold")
    axes.set_ylabel("share")
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_ylim(0, 1.2 * max([0.05, *(n["weight"] or 0.0 for n in shown), *shares.values()]))
    crowded = len(shown) >= CROWDED_BARS
    for place, neuron in enumerate(shown):
        colour = colours[_kind(neuron)]
        _bar(axes, place - 0.2, neuron["weight"], not crowded, {"color": colour})
        hatched = {"facecolor": "white", "edgecolor": colour, "hatch": "///"}
        _bar(axes, place + 0.2, shares.get(neuron["name"]), not crowded, hatched)
    between = "  " if crowded else "\n"
    labels = [f"uid {n['uid']}{between}{_kind(n)}" for n in shown]
    axes.set_xticks(range(len(shown)), labels, rotation=90 if crowded else 0)
    axes.set_xlim(-0.7, max(len(shown), MIN_PLACES) - 0.3)
    _add_legend(axes)


def _bar(
    axes: Axes, x: float, height: float | None, labelled: bool, style: Mapping[str, Any]
) -> None:
    if height is None:
        return
    axes.bar(x, height, 0.38, **style)
    if labelled:
        axes.annotate(
            f"{height:.3f}",
            (x, height),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            color=INK,
            fontsize=9,
        )


def _kind(neuron: NeuronReport) -> str:
    """A miner's behaviour, or the role of owner and validators."""
    return neuron["behaviour"] if neuron["role"] == "miner" else neuron["role"]


def _colours(neurons: Sequence[NeuronReport]) -> dict[str, str]:
    """Kind -> colour, in order of appearance; honest miners have a fixed colour."""
    colours: dict[str, str] = {}
    others = cycle(OTHER_COLOURS)
    for neuron in neurons:
        kind = _kind(neuron)
        if kind in colours:
            continue
        if neuron["role"] != "miner":
            colours[kind] = NEUTRAL
        else:
            colours[kind] = HONEST_COLOUR if kind == HONEST else next(others)
    return colours


def _add_legend(axes: Axes) -> None:
    """Explain filled and hatched bars; the x labels explain the colours."""
    handles = [
        Patch(facecolor=MUTED, label="weight"),
        Patch(facecolor="white", edgecolor=MUTED, hatch="///", label="share of the emission"),
    ]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
