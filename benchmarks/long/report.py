"""The long runs in numbers and pictures, and what the goals ask of them."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.learning.record import Rows
from benchmarks.learning.workers import PLAN
from benchmarks.long.case import BACK, BLOCK, HONEST, TURN, Case
from benchmarks.long.contenders import (
    RULES,
    Rule,
    Window,
    figures_of,
    turned,
    windows_to_naming,
    windows_to_refusal,
    without_gain,
)
from template.commands.plan import load_plan

mpl.use("Agg")
from matplotlib import pyplot as plt

NOISE, COPY = 4, 5
"""Uids beside the honest ones, where the cast is `noise`."""
UNPAID = int(load_plan(PLAN)["weights"]["min_windows"])
"""First windows without pay for anybody."""
EVERY = 8
"""Windows between the starts of two careers in the comparison of rules."""
COLORS = {"honest named": "#1f6f8b", "honest paid": "#7fb069", "noise named": "#8b1e3f"}

Row = Mapping[str, Any]


def summary(cases: Sequence[Case], rows: Rows) -> dict[str, Any]:
    """Everything that the tables and the picture show."""
    found = [(case, rows[case.key]) for case in cases if case.key in rows]
    return {
        "runs": [_run(case, row, found) for case, row in found],
        "rules": _compare([row for case, row in found if _is_usual(case)]),
    }


def _is_usual(case: Case) -> bool:
    return case.cast == "noise" and case.first_alpha is None


def _run(case: Case, row: Row, found: Sequence[tuple[Case, Row]]) -> dict[str, Any]:
    clean = [
        other["held_out_loss"]
        for one, other in found
        if (one.cast, one.seed, one.windows) == ("clean", case.seed, case.windows)
    ]
    loss = row["held_out_loss"]
    run = {
        "cast": case.cast,
        "seed": case.seed,
        "windows": case.windows,
        "held_out_loss": loss,
        "over_clean_percent": 100 * (loss / clean[0] - 1) if clean else None,
        "curve": row["curve"],
        "first_alpha": case.first_alpha,
        "alphas": [row["alphas"][0], *row["alphas"][BLOCK - 1 :: BLOCK]],
        "honest_named": _blocks(row, HONEST, _is_named),
        "honest_paid": _blocks(row, HONEST, _is_paid, UNPAID),
    }
    if case.cast == "noise":
        run |= {
            "noise_named": sum(_blocks(row, (NOISE,), _is_named)),
            "noise_paid": sum(_blocks(row, (NOISE,), _is_paid)),
            "copy_named": sum(_blocks(row, (COPY,), _is_named)),
            "copy_paid": sum(_blocks(row, (COPY,), _is_paid)),
        }
    elif case.cast != "clean":
        turncoat = HONEST[-1]
        run["turncoat_named"] = [
            window for window in range(TURN, BACK) if _is_named(row["windows"][window][turncoat])
        ]
        run["windows_to_return"] = next(
            (w - BACK for w in range(BACK, case.windows) if _is_named(row["windows"][w][turncoat])),
            None,
        )
    return run


def _blocks(row: Row, uids: Sequence[int], counts: Any, since: int = 0) -> list[float]:
    """The share of the uids' payloads that count, in each block of windows from `since` on."""
    windows = row["windows"]
    blocks = [windows[max(first, since) : first + BLOCK] for first in range(0, len(windows), BLOCK)]
    return [
        statistics.fmean(counts(window[uid]) for window in block for uid in uids)
        for block in blocks
        if block
    ]


def _is_named(figures: Sequence[Any]) -> bool:
    return bool(figures[0] == "named")


def _is_paid(figures: Sequence[Any]) -> bool:
    return bool(figures[5] > 0)


def _compare(rows: Sequence[Row]) -> dict[str, Any]:
    """How often each rule is wrong, asked about the gains of the same runs; nothing from short
    runs.
    """
    runs = [
        [
            {uid: found for uid, each in enumerate(window) if (found := figures_of(each))}
            for window in row["windows"]
        ]
        for row in rows
        if len(row["windows"]) > 3 * BLOCK + EVERY
    ]
    return {name: _errors(rule, runs) for name, rule in RULES.items()} if runs else {}


def _errors(rule: Rule, runs: Sequence[Sequence[Window]]) -> dict[str, float]:
    refused, named = [], []
    noise, nothing, newcomer = [], [], []
    turncoat = HONEST[-1]
    for windows in runs:
        for window, uids in zip(windows, rule(windows), strict=True):
            refused += [uid not in uids for uid in HONEST if uid in window]
            named += [uid in uids for uid in (NOISE, COPY) if uid in window]
        for first in range(BLOCK, len(windows) - 2 * BLOCK, EVERY):
            as_noise = turned(windows, turncoat, NOISE, first)
            noise.append(windows_to_refusal(rule, as_noise, turncoat, first))
            as_nothing = without_gain(windows, turncoat, first)
            nothing.append(windows_to_refusal(rule, as_nothing, turncoat, first))
            newcomer.append(windows_to_naming(rule, windows, turncoat, first))
    return {
        "honest_refused": statistics.fmean(refused),
        "worthless_named": statistics.fmean(named),
        "windows_to_refuse_noise": statistics.fmean(noise),
        "most_windows_to_refuse_noise": max(noise),
        "windows_to_refuse_nothing": statistics.fmean(nothing),
        "windows_to_name_a_newcomer": statistics.fmean(newcomer),
        "most_windows_to_name_a_newcomer": max(newcomer),
    }


def write(content: Mapping[str, Any], folder: Path, command: str) -> None:
    """`long.json`, `long.md` and `long.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "long.json").write_text(
        json.dumps({"command": command, **content}, indent=1) + "\n", encoding="utf-8"
    )
    (folder / "long.md").write_text("\n".join(_lines(content, command)) + "\n", encoding="utf-8")
    _draw(content, folder / "long.png")


def _lines(content: Mapping[str, Any], command: str) -> Iterator[str]:
    yield f"`{command}`"
    yield ""
    yield "| run | loss | over clean | honest named, fewest in a block | noise, copy named | paid |"
    yield "|---|---|---|---|---|---|"
    for run in content["runs"]:
        over = run["over_clean_percent"]
        others = (
            f"{run['noise_named']:.0%}, {run['copy_named']:.0%}" if "noise_named" in run else ""
        )
        yield (
            f"| {_label(run)} "
            f"| {run['held_out_loss']:.4f} | {'' if over is None else f'{over:+.2f} %'} "
            f"| {min(run['honest_named']):.1%} | {others} "
            f"| {min(run['honest_paid'], default=0.0):.0%} |"
        )
    yield ""
    yield f"Alpha in the first window and at the end of each {BLOCK} windows:"
    yield ""
    for run in content["runs"]:
        alphas = ", ".join(f"{alpha:.2f}" for alpha in run["alphas"])
        yield f"- {_label(run)}: {alphas}"
    for run in content["runs"]:
        if "turncoat_named" in run:
            yield ""
            yield (
                f"{run['cast']} in windows {TURN} to {BACK - 1}: named in "
                f"{len(run['turncoat_named'])} of them {run['turncoat_named']}, and named again "
                f"{run['windows_to_return']} windows after its return."
            )
    yield ""
    yield (
        "| rule | honest refused | worthless named | windows to refuse noise (most) "
        "| a payload of no effect | windows to name a newcomer (most) |"
    )
    yield "|---|---|---|---|---|---|"
    for name, errors in content["rules"].items():
        yield (
            f"| {name} | {errors['honest_refused']:.2%} | {errors['worthless_named']:.2%} "
            f"| {errors['windows_to_refuse_noise']:.1f} ({errors['most_windows_to_refuse_noise']}) "
            f"| {errors['windows_to_refuse_nothing']:.1f} "
            f"| {errors['windows_to_name_a_newcomer']:.1f} "
            f"({errors['most_windows_to_name_a_newcomer']}) |"
        )


def _label(run: Mapping[str, Any]) -> str:
    first = run["first_alpha"]
    start = "" if first is None else f", alpha {first:g} at first"
    return f"{run['cast']}, seed {run['seed']}, {run['windows']} windows{start}"


def _draw(content: Mapping[str, Any], path: Path) -> None:
    """Shares by block above, losses below."""
    figure, (shares, losses) = plt.subplots(2, 1, figsize=(9, 7), sharex=True)
    for run in content["runs"]:
        if run["cast"] not in ("noise", "clean") or run["first_alpha"] is not None:
            continue
        is_long = run["windows"] == max(r["windows"] for r in content["runs"])
        if run["cast"] == "noise":
            for label, key in (("honest named", "honest_named"), ("honest paid", "honest_paid")):
                ends = [min(BLOCK * (n + 1), run["windows"]) for n in range(len(run[key]))]
                shares.plot(
                    ends, run[key], color=COLORS[label], lw=2.0 if is_long else 1.0, marker=".",
                    label=label if run["seed"] == 1 and is_long else None,
                )  # fmt: skip
        windows, values = zip(*run["curve"], strict=True)
        style = "-" if run["cast"] == "noise" else ":"
        losses.plot(
            windows, values, style, color=f"C{run['seed'] - 1}", lw=2.0 if is_long else 1.2,
            label=f"{run['cast']}, seed {run['seed']}, {run['windows']} windows",
        )  # fmt: skip
    shares.set_ylim(0, 1.05)
    shares.set_ylabel(f"share of payloads in {BLOCK} windows")
    shares.axhline(0.95, color="#999999", lw=0.8, ls="--")
    shares.legend(loc="lower left")
    shares.set_title("Honest work named and paid, beside noise and a noisy copy (named: never)")
    losses.set_xlabel("window")
    losses.set_ylabel("held-out loss, nats per byte")
    losses.legend(fontsize=8)
    for axes in (shares, losses):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
