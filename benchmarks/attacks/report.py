"""attacks.json, a table in Markdown and a picture, from the record."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from benchmarks.attacks.catalogue import ATTACKS, FREE, PARTIAL, SYBIL
from benchmarks.attacks.suite import CLEAN, Case, samples_of
from benchmarks.learning.record import Interval, Rows, interval
from evaluation.work import WorkRules, WorkSample, WorkState

mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

MAX_LOSS_RATIO, MIN_HONEST_SHARE = 1.01, 0.95
LIMITS = {FREE: 0.1, PARTIAL: 1.1, SYBIL: 1.0}
"""Of an honest miner's pay; for partial work times the share that was done, for one machine's
hotkeys together.
"""
Head = Mapping[str, Any]
COPYING = ("delayed copy", "noisy copy", "partial copy", "average of two", "gaussian")
CAREERS, EVALUATIONS = 4000, 20


def write(cases: Sequence[Case], rows: Rows, rules: WorkRules, results: Path, head: Head) -> None:
    """Points of which there are runs, and the work test's error rates from their samples."""
    points = attack_points(cases, rows)
    if not points:
        return
    content = {**head, "attacks": points, "tests": test_rates(cases, rows, rules)}
    results.mkdir(parents=True, exist_ok=True)
    (results / "attacks.json").write_text(json.dumps(content, indent=1) + "\n")
    (results / "attacks.md").write_text(markdown(content))
    draw(points, results / "attacks.png")


def attack_points(cases: Sequence[Case], rows: Rows) -> list[dict[str, Any]]:
    """One for every attack, number of miners and of attackers, over its seeds."""
    groups: dict[tuple[str, int, int], list[Case]] = {}
    for case in cases:
        if case.attack and case.defended:
            groups.setdefault((case.attack, case.miners, case.attackers), []).append(case)
    found = [_point(group, rows) for group in groups.values()]
    return [point for point in found if point is not None]


def _point(group: Sequence[Case], rows: Rows) -> dict[str, Any] | None:
    pairs = [(case, _beside(case, rows)) for case in group]
    whole = [(case, beside) for case, beside in pairs if beside is not None]
    if not whole:
        return None
    case, attack = whole[0][0], ATTACKS[whole[0][0].attack]
    mine = [beside["attacked"] for _, beside in whole]
    open_ = [beside["undefended"] for _, beside in whole]
    losses = [(r["held_out_loss"], b["clean"]) for r, (_, b) in zip(mine, whole, strict=True)]
    ratio = interval([attacked / clean for attacked, clean in losses])
    earned = _mean([_earned(row) for row in mine])
    together = earned / attack.work if attack.kind == SYBIL else earned
    limit = LIMITS[attack.kind] * (attack.work if attack.kind == PARTIAL else 1.0)
    share = _mean([row["honest_share"] for row in mine])
    undefended_ratio = _mean(
        [r["held_out_loss"] / b["undefended_clean"] for r, (_, b) in zip(open_, whole, strict=True)]
    )
    keeps = share is None or share >= MIN_HONEST_SHARE or attack.kind != FREE
    return {
        "name": case.attack,
        "class": attack.kind,
        "fraction": round(case.attackers / case.miners, 3),
        "miners": case.miners,
        "seeds": [c.seed for c, _ in whole],
        "undefended": {
            "loss_ratio": undefended_ratio,
            "earned_vs_honest": _mean([_earned(row) for row in open_]),
        },
        "loss_ratio": _numbers(ratio),
        "earned_vs_honest": together,
        "limit": limit,
        "windows_to_detection": [row["windows_to_detection"] for row in mine],
        "honest_share": share,
        "holds": ratio.mean <= MAX_LOSS_RATIO and together <= limit and keeps,
    }


def _beside(case: Case, rows: Rows) -> dict[str, Any] | None:
    """The run, the same undefended, and the losses of both without the attackers."""

    def key(attack: str, *, defended: bool) -> str:
        return Case(
            attack=attack, miners=case.miners, attackers=case.attackers, seed=case.seed,
            defended=defended, windows=case.windows,
        ).key  # fmt: skip

    keys = [key(a, defended=d) for a in (case.attack, CLEAN) for d in (True, False)]
    if any(k not in rows for k in keys):
        return None
    attacked, undefended, clean, undefended_clean = (rows[k] for k in keys)
    return {
        "attacked": attacked,
        "undefended": undefended,
        "clean": clean["held_out_loss"],
        "undefended_clean": undefended_clean["held_out_loss"],
    }


def _earned(row: Mapping[str, Any]) -> float:
    """Pay of an attacker over that of an honest miner, from its first dishonest window on."""
    return float(row["earned"] / row["honest_earned"]) if row["honest_earned"] else math.inf


def _mean(values: Sequence[float | None]) -> Any:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _numbers(value: Interval) -> dict[str, float | int | None]:
    half = None if math.isnan(value.half) else value.half
    return {"mean": value.mean, "half_width_95": half, "seeds": value.count}


def test_rates(cases: Sequence[Case], rows: Rows, rules: WorkRules) -> dict[str, Any]:
    """How often a career of 20 evaluations ever opens the gate: of who never trained on its
    pages, and of honest miners. A career is drawn from the samples of one miner on record, so that
    a miner whose work shows less stays so, and each of them once: with replacement luck would
    come in runs, and four times as many samples without effect would pass (D50). `observed` are
    the careers as they were.
    """
    copiers: list[list[WorkSample]] = []
    honest: list[list[WorkSample]] = []
    for case in cases:
        row = rows.get(case.key)
        if row is None or not case.defended:
            continue
        honest += samples_of(row, range(case.miners - case.attackers))
        if case.attack in COPYING:
            copiers += samples_of(row, case.attacker_uids)
    rng = np.random.default_rng(0)
    return {
        "copier_false_pass": _passing(copiers, rules, rng),
        "honest_accept_20": _passing(honest, rules, rng),
        "careers": CAREERS,
        "observed": {
            "copiers": [len(copiers), _ever(copiers, rules)],
            "honest": [len(honest), _ever(honest, rules)],
        },
        "effect": rules.effect,
        "error": rules.error,
    }


def _passing(careers: Sequence[Sequence[WorkSample]], rules: WorkRules, rng: Any) -> float | None:
    known = [career for career in careers if career]
    if not known:
        return None
    drawn = []
    for _ in range(CAREERS):
        career = known[rng.integers(len(known))]
        drawn.append([career[i] for i in rng.permutation(len(career))[:EVALUATIONS]])
    return _ever(drawn, rules) / CAREERS


def _ever(careers: Sequence[Sequence[WorkSample]], rules: WorkRules) -> int:
    """Careers that opened the gate at least once within 20 evaluations."""
    count = 0
    for career in careers:
        state = WorkState()
        for sample in career[:EVALUATIONS]:
            state = state.after(sample, rules)
            if state.holds:
                count += 1
                break
    return count


def markdown(content: Mapping[str, Any]) -> str:
    """The table that people read."""
    lines = [
        "| attack | class | attackers | loss, undefended | earned, undefended | loss | earned | "
        "limit | windows to detection | honest share | |",
        "|" + "---|" * 11,
    ]
    for p in content["attacks"]:
        detected = ", ".join("never" if d is None else str(d) for d in p["windows_to_detection"])
        half = p["loss_ratio"]["half_width_95"]
        spread = "" if half is None else f" +- {half:.3f}"
        share = "nobody paid" if p["honest_share"] is None else f"{p['honest_share']:.3f}"
        lines.append(
            f"| {p['name']} | {p['class']} | {p['fraction']:.0%} of {p['miners']} | "
            f"{p['undefended']['loss_ratio']:.3f} | {p['undefended']['earned_vs_honest']:.2f} | "
            f"{p['loss_ratio']['mean']:.3f}{spread} | {p['earned_vs_honest']:.3f} | "
            f"{p['limit']:.2f} | {detected} | {share} | "
            f"{'holds' if p['holds'] else '**does not hold**'} |"
        )
    tests = content["tests"]
    lines += [
        "",
        f"Work test, 20 evaluations: a payload of other pages passes in "
        f"{_percent(tests['copier_false_pass'])}, honest work in "
        f"{_percent(tests['honest_accept_20'])} of {tests['careers']} careers drawn from the "
        f"samples of {tests['observed']['copiers'][0]} and "
        f"{tests['observed']['honest'][0]} miners.",
        "",
        "Loss: against the same honest miners, seed and pages with the attackers away. Earned: an "
        "attacker's pay over an honest miner's from its first dishonest window on; of hotkeys of "
        "one machine, together.",
    ]
    return "\n".join(lines) + "\n"


def _percent(value: float | None) -> str:
    return "no run" if value is None else f"{100 * value:.2f} %"


def draw(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Pay and loss of every attack, undefended and defended, at the first fraction there is."""
    first = (points[0]["miners"], points[0]["fraction"])
    shown = [p for p in points if (p["miners"], p["fraction"]) == first]
    names = [p["name"] for p in shown]
    figure, axes = plt.subplots(1, 2, figsize=(12, 0.32 * len(names) + 1.6), sharey=True)
    pairs = (
        ("earned_vs_honest", lambda p: p["earned_vs_honest"], "pay over an honest miner's"),
        ("loss_ratio", lambda p: p["loss_ratio"]["mean"], "final loss over the run without them"),
    )
    for axis, (key, value, title) in zip(axes, pairs, strict=True):
        axis.scatter(
            [p["undefended"][key] for p in shown], names, c="#c2763a", s=45, label="undefended"
        )
        axis.scatter([value(p) for p in shown], names, c="#1f6f8b", s=45, label="Tessera")
        axis.grid(axis="y", color="#dddddd", lw=0.8)
        axis.set_title(title, fontsize=10)
    axes[0].scatter([p["limit"] for p in shown], names, marker="|", c="black", s=90, label="limit")
    axes[1].axvline(MAX_LOSS_RATIO, color="black", lw=1)
    axes[0].invert_yaxis()
    axes[0].legend(frameon=False, fontsize=9, loc="lower right")
    figure.suptitle(f"{first[1]:.0%} of {first[0]} miners attack", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
