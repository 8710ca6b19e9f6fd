"""Pictures of the learning benchmark: only what is read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

from benchmarks.learning.contenders import ADAMW, MUON, OURS, SYNCHRONOUS, WITH_MUON
from benchmarks.learning.record import Rows
from benchmarks.learning.suite import Group

mpl.use("Agg")
from matplotlib import pyplot as plt

COLORS = {
    "adamw_dp": "#444444",
    "demo": "#b59f3b",
    "diloco": "#8b1e3f",
    "senders": "#d1802f",
    "mean": "#7fb069",
    "normmatch": "#8e6c8a",
    "ours": "#1f6f8b",
    "muon_dp": "#c0392b",
    "ours-muon": "#5b2a86",
}
SWEEPS = {
    "catch_up": "step of 15 when payloads come (15: never)",
    "inner_steps": "inner steps a round (H), equal tokens",
    "miners": "miners (R), 24 rounds",
    "top_k": "kept of 4096 (k)",
    "bits": "bits a value",
    "decay": "decay of error feedback",
    "clip_factor": "clip factor (0: none)",
}
SHADES = {
    "ours/0": "#9a9a9a",
    "ours/1": "#c2763a",
    SYNCHRONOUS: "#7fb069",
    OURS: "#1f6f8b",
    WITH_MUON[SYNCHRONOUS]: "#b39bc8",
    WITH_MUON[OURS]: "#5b2a86",
    MUON: "#c0392b",
}
MIN_SPAN_NATS = 0.1
Points = Sequence[Mapping[str, Any]]


def draw(groups: Sequence[Group], points: Points, rows: Rows, folder: Path, note: str) -> None:
    """Write learning_rules.png, learning_gap.png and learning_sweeps.png, if there are runs.

    `note` says below each picture whose code made the runs; a label with * has runs of other code.
    """
    sections = {point["section"] for point in points}
    if "main" in sections:
        draw_rules(groups, points, rows, folder / "learning_rules.png", note)
        draw_gap(points, folder / "learning_gap.png", note)
    if any(_varied(points, name) for name in SWEEPS):
        draw_sweeps(points, folder / "learning_sweeps.png", note)


def draw_rules(groups: Sequence[Group], points: Points, rows: Rows, path: Path, note: str) -> None:
    """Loss against tokens, and against the bytes that a miner sends and fetches."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), constrained_layout=True)
    shown = (ADAMW, MUON, "demo", "diloco/0", "ours/0", "ours/1", OURS, WITH_MUON[OURS])
    short = [p for p in points if p["section"] == "main" and p["x"] == 24]
    labels = {p["strategy"]: _labelled([p]) for p in short}
    for group in groups:
        if group.section == "main" and group.x == 24 and group.label in shown:
            _curve(axes[0], group, rows, labels.get(group.label, ""))
    axes[0].set_xlabel("tokens, thousands")
    axes[0].set_ylabel("held-out loss, nats per byte")
    axes[0].set_ylim(top=3.6)
    axes[0].legend(frameon=False, fontsize=9)
    axes[0].set_title("loss against tokens, 24 rounds, mean of the seeds", fontsize=10)
    _against_bytes(axes[1], short)
    figure.supxlabel(note, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_gap(points: Points, path: Path, note: str) -> None:
    """Percent above AdamW against rounds, and what each remedy does at lag 1."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), constrained_layout=True)
    for name in SHADES:
        gaps = [p for p in points if p["section"] == "main" and p["strategy"] == name]
        gaps = sorted((p for p in gaps if "percent_over_adamw" in p), key=lambda p: p["x"])
        over = [p["percent_over_adamw"] for p in gaps]
        if not gaps:
            continue
        axes[0].errorbar(
            [p["x"] for p in gaps],
            [o["mean"] for o in over],
            yerr=[o["half_width_95"] or 0.0 for o in over],
            label=_marked(_said(name), gaps, against_adamw=True),
            color=SHADES[name],
            ls=_line(name),
            marker="o",
            capsize=3,
        )
    axes[0].axhline(0, color=COLORS[ADAMW], lw=1)
    lengths = sorted({p["x"] for p in points if p["section"] == "main"})
    axes[0].set_xscale("log")
    axes[0].set_xticks(lengths, [f"{length:g}" for length in lengths])
    axes[0].minorticks_off()
    axes[0].set_xlabel("rounds (each point is a run of that length)")
    axes[0].set_title("percent above data-parallel AdamW, 95 % interval", fontsize=10)
    axes[0].legend(frameon=False, fontsize=9)
    remedies = [p for p in points if p["section"] == "remedies"]
    main = [p for p in points if p["section"] == "main" and p["x"] == 24]
    known = {p["strategy"]: p for p in main}
    rows = [(_labelled([known[n]]), known[n]) for n in SHADES if n in known and n != MUON]
    rows += [(_marked(p["strategy"], [p]), p) for p in remedies]
    rows.sort(key=lambda row: row[1]["held_out_loss"]["mean"])
    means = [p["held_out_loss"]["mean"] for _, p in rows]
    plain = {_labelled([known[name]]) for name in SHADES if name in known}
    colors = [COLORS["ours"] if label in plain else "#a9c7d0" for label, _ in rows]
    axes[1].scatter(means, [label for label, _ in rows], c=colors, s=60, zorder=2)
    axes[1].grid(axis="y", color="#dddddd", lw=0.8)
    axes[1].invert_yaxis()
    axes[1].set_title("held-out loss at 24 rounds, ours, by remedy", fontsize=10)
    figure.supxlabel(note, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_sweeps(points: Points, path: Path, note: str) -> None:
    """One panel for each number that was varied."""
    names = [name for name in SWEEPS if _varied(points, name)]
    columns = 3
    lines = -(-len(names) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(12, 3.6 * lines), constrained_layout=True, squeeze=False
    )
    for axes, name in zip(grid.flat, names, strict=False):
        chosen = [p for p in points if p["section"] == name]
        for label in dict.fromkeys(p["strategy"] for p in chosen):
            line = sorted((p for p in chosen if p["strategy"] == label), key=lambda p: p["x"])
            loss = [p["held_out_loss"]["mean"] for p in line]
            rule = label.partition("/")[0]
            color, style = COLORS.get(rule, COLORS["mean"]), _line(label)
            axes.plot(
                [p["x"] for p in line], loss, "o", ls=style, color=color, label=_labelled(line)
            )
        if name in ("top_k", "inner_steps", "miners"):
            axes.set_xscale("log", base=2)
            axes.set_xticks([p["x"] for p in chosen], [f"{p['x']:g}" for p in chosen])
            axes.minorticks_off()
        _widen(axes)
        axes.set_title(_marked(SWEEPS[name], chosen), fontsize=10)
        if len({p["strategy"] for p in chosen}) > 1:
            axes.legend(frameon=False, fontsize=9)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    figure.suptitle("held-out loss, nats per byte", fontsize=10)
    figure.supxlabel(note, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _curve(axes: Axes, group: Group, rows: Rows, label: str) -> None:
    ended = [rows[trial.key] for trial in group.trials if trial.key in rows]
    if not ended:
        return
    first, tokens = ended[0]["trial"], ended[0]["outcome"]["tokens"]
    last = ended[0]["outcome"]["curve"][-1][0]
    warm = first["warm_steps"] / first["miners"] / first["inner_steps"]
    curves = [row["outcome"]["curve"] for row in ended]
    xs = [(number + warm) * tokens / (last + warm) / 1000 for number, _ in curves[0]]
    ys = [sum(loss for _, loss in point) / len(point) for point in zip(*curves, strict=True)]
    color = COLORS[group.label.partition("/")[0]]
    axes.plot(xs, ys, color=color, ls=_line(group.label), label=label)


def _against_bytes(axes: Axes, points: Points) -> None:
    for point in points:
        rule, loss = point["strategy"], point["held_out_loss"]
        moved = point["bytes_up_per_param_round"] + point["bytes_down_per_param_round"]
        marker = {"/0": "o", "/1": "s"}.get(rule[-2:], "D")
        color = COLORS[rule.partition("/")[0]]
        axes.errorbar(
            moved, loss["mean"], yerr=loss["half_width_95"] or 0.0, fmt=marker, color=color,
            mfc="white" if marker == "s" else color, capsize=3, label=_labelled([point]),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("bytes up and down per parameter and round")
    axes.set_title("loss against bytes, 24 rounds, 95 % interval", fontsize=10)
    axes.legend(frameon=False, fontsize=8, ncols=2)


def _widen(axes: Axes) -> None:
    """A difference of a percent should look like one."""
    low, high = axes.get_ylim()
    missing = max(0.0, MIN_SPAN_NATS - (high - low)) / 2
    axes.set_ylim(low - missing, high + missing)


def _varied(points: Points, section: str) -> bool:
    return len({p["x"] for p in points if p["section"] == section}) > 1


def _line(label: str) -> str:
    return {"/0": "--", "/1": ":", "0+": "-."}.get(label[-2:], "-")


def _labelled(points: Points) -> str:
    """What a rule is called, with a mark if any of its runs is of other code."""
    return _marked(_said(points[0]["strategy"]), points)


def _marked(label: str, points: Points, *, against_adamw: bool = False) -> str:
    """With a mark if a run is of other code; of AdamW too, where the distance to it is shown."""
    fields = ["runs_of_other_code", *["adamw_runs_of_other_code"] * against_adamw]
    return label + " *" * any(point.get(field) for point in points for field in fields)


def _said(label: str) -> str:
    """ "ours/1+" -> "ours, lag 1 with remedies"."""
    rule, slash, lag = label.replace("-muon", " with Muon").partition("/")
    more = {"0": "", "1": "", "0+": " from the warm start", "1+": " with remedies"}
    return f"{rule}, lag {lag[0]}{more[lag]}" if slash and lag in more else label
