"""The picture of one window: when a miner and a validator do what, on matplotlib's Agg canvas.

Owns the drawing; every number comes from the planner's answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from template.planning import validator as of_validator
from template.planning.miner import (
    ANCHOR,
    COMMIT,
    DIGEST,
    FETCH,
    FINALITY,
    OPEN,
    SAVE_AFTER,
    SAVE_BEFORE,
    STEP,
    UPLOAD,
)
from template.planning.outlook import Outlook
from template.planning.phases import INNER_STEPS, Phase

SIZE_INCHES = (12, 9)
DPI = 100
INK, MUTED = "#222222", "#777777"
TRAINING, BLOCKING, HIDDEN = "#0072B2", "#D55E00", "#BBBBBB"
"""Of Okabe and Ito's palette, distinct under every colour blindness."""
AFTER: Mapping[str, str] = {
    UPLOAD: FINALITY,
    STEP: OPEN,
    DIGEST: STEP,
    ANCHOR: DIGEST,
    COMMIT: SAVE_BEFORE,
    SAVE_AFTER: COMMIT,
}
"""A miner's lanes: phase -> the phase before."""
LEAST_SHARE = 0.002
"""Bars are at least this share of the window wide, to be seen at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A piece of a row, in seconds from the start of the window."""

    start_s: float
    length_s: float
    colour: str


def draw(outlook: Outlook, path_png: Path) -> None:
    """Write a PNG of 1200 x 900 pixels, replacing an earlier file. OSError if writing fails."""
    layout = ConstrainedLayoutEngine(h_pad=0.15, w_pad=0.15)
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    case, miner, validator = outlook.case, outlook.miner, outlook.validator
    top, bottom = figure.subplots(
        2, 1, height_ratios=(len(miner.phases), len(validator.phases)), sharex=True
    )
    figure.suptitle(
        f"{case.spec.name} on {case.machine.name}, {case.line.up_mbps:g}/{case.line.down_mbps:g} "
        f"Mb/s, {case.peers} miners",
        weight="bold",
    )
    schedule = case.spec.schedule
    deadline_s = case.blocks_s(schedule.upload_blocks)
    votes_s = miner.window_s - case.blocks_s(schedule.vote_margin_blocks)
    counted_s = votes_s + case.blocks_s(schedule.finality_lag_blocks)
    _draw_rows(
        top,
        f"A miner's window: {miner.utilisation:.1%} in the plan's inner steps, "
        f"{miner.utilisation_limit:.1%} left for them",
        bars(miner.phases, 0.0, {FETCH: deadline_s, OPEN: counted_s}, AFTER),
        miner.phases,
        miner.window_s,
    )
    _draw_rows(
        bottom,
        "A validator's window, from the upload deadline on",
        bars(validator.phases, deadline_s, {of_validator.STEP: votes_s}),
        validator.phases,
        miner.window_s,
    )
    for second, words in ((deadline_s, "upload deadline"), (votes_s, "votes count")):
        for axes in (top, bottom):
            axes.axvline(second, color=MUTED, linestyle=":", linewidth=1)
        bottom.annotate(
            words, (second, -0.6), color=MUTED, fontsize=9, xytext=(4, 0),
            textcoords="offset points",
        )  # fmt: skip
    bottom.set_xlabel("seconds since the window's start")
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3, frameon=False)
    path_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path_png, format="png")


def bars(
    phases: Sequence[Phase],
    start_s: float,
    earliest_s: Mapping[str, float],
    after: Mapping[str, str] = MappingProxyType({}),
) -> list[list[Bar]]:
    """The bars of each phase: blocking ones follow each other, hidden ones lie behind them.

    `earliest_s`: phase -> second before which it does not begin. `after`: phase -> the phase of the
    same lane that it follows.
    """
    now_s, rows = start_s, []
    ends_s: dict[str, float] = {}
    for phase in phases:
        row: list[Bar] = []
        before_s = ends_s.get(after.get(phase.name, ""), 0.0)
        begin_s = max(now_s, before_s, earliest_s.get(phase.name, 0.0))
        ends_s[phase.name] = begin_s + phase.seconds
        hidden_s = min(phase.hidden_s, phase.seconds)
        if hidden_s:
            row.append(Bar(start_s=begin_s, length_s=hidden_s, colour=HIDDEN))
        if phase.blocking_s:
            colour = TRAINING if phase.name == INNER_STEPS else BLOCKING
            row.append(Bar(start_s=begin_s, length_s=phase.blocking_s, colour=colour))
            now_s = begin_s + phase.blocking_s
        rows.append(row)
    return rows


def _draw_rows(
    axes: Axes,
    title: str,
    rows: Sequence[Sequence[Bar]],
    phases: Sequence[Phase],
    window_s: float,
) -> None:
    axes.set_title(title, loc="left", weight="bold", fontsize=11)
    end_s = 0.0
    for place, (phase, row) in enumerate(zip(phases, rows, strict=True)):
        end_s = max([end_s, *(bar.start_s + bar.length_s for bar in row)])
        for depth, bar in enumerate(row):
            length_s = max(bar.length_s, LEAST_SHARE * window_s)
            axes.barh(place, length_s, 0.62 - 0.24 * depth, left=bar.start_s, color=bar.colour)
        last_s = max((bar.start_s + bar.length_s for bar in row), default=0.0)
        axes.annotate(
            f"{phase.seconds:,.0f} s" if phase.seconds >= 10 else f"{phase.seconds:,.2g} s",
            (last_s, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=8,
        )
    axes.set_yticks(range(len(phases)), [phase.name for phase in phases], fontsize=9)
    axes.invert_yaxis()
    axes.axvline(window_s, color=INK, linewidth=1)
    axes.set_xlim(0, max(axes.get_xlim()[1], 1.08 * max(window_s, end_s)))
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)


def _legend() -> list[Patch]:
    return [
        Patch(facecolor=TRAINING, label="inner steps"),
        Patch(facecolor=BLOCKING, label="blocks"),
        Patch(facecolor=HIDDEN, label="hidden behind other work"),
    ]
