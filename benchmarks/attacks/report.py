"""attacks.json, a table in Markdown and a picture, from the record."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attacks.catalogue import (
    ATTACKS,
    FREE,
    KINDS,
    PARTIAL,
    SYBIL,
    VALIDATOR,
    Attack,
)
from benchmarks.attacks.picture import draw
from benchmarks.attacks.suite import TRIALS, WEAK, WINDOWS, Case, samples_of, shares_in
from benchmarks.attacks.sybil import INNER_STEPS
from benchmarks.learning.record import Interval, Rows, interval
from benchmarks.learning.workers import trial_spec
from benchmarks.pay.cases import SETTLED
from evaluation.work import WorkRules, WorkSample, WorkState

MAX_LOSS_RATIO, MIN_HONEST_SHARE = 1.01, 0.95
LIMITS = {FREE: 0.1, PARTIAL: 1.1, SYBIL: 1.1, VALIDATOR: 0.1}
"""Of an honest miner's pay; for partial work times the share that was done, for one machine's
hotkeys together, for a validator that of the miners in league with it. A tenth is for the error of
pay, which is linear in work. A miner that worked before it cheats is owed the pay for that beside.
"""
MAX_DIVIDENDS = 1.001
"""Of a dishonest validator over an honest one, by stake; the rest is rounding to 65535ths."""
MIN_BACKDOOR = 0.1
SMALL = 16
"""Miners up to which a run is of the small kind, where a quarter attack."""
COLUMNS = (
    "| attack | class | attackers | loss, undefended | earned, undefended | harm, undefended | "
    f"loss | earned | from window {SETTLED} on | limit | honest keep | windows to detection | "
    "dividends | backdoor | |"
)
LEGEND = (
    "Loss: against the same honest miners, seed and pages with the attackers away. Earned: an "
    "attacker's pay over an honest miner's from its first dishonest window on; of hotkeys of one "
    f"machine, together; beside it from window {SETTLED} on, when every account of pay is full. "
    "Harm: what the attack does where nobody defends; harmless if loss, pay, backdoor and progress "
    "stay as they were. Honest keep: of all that is paid, over what would "
    "be theirs if attackers were paid for the work that they do. Dividends: of a dishonest "
    "validator, by stake, over those of an honest one. Backdoor: how often the final model "
    "follows the trigger. (*): played before a step cut lengths (D180)."
)
Head = Mapping[str, Any]
COPYING = (
    "replay of a rival's",
    "delayed copy",
    "noisy copy",
    "partial copy",
    "average of two",
    "gaussian",
)
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
    shown = [p for p in points if p["miners"] <= SMALL] or points
    draw(shown, MAX_LOSS_RATIO, results / "attacks.png")


def attack_points(cases: Sequence[Case], rows: Rows) -> list[dict[str, Any]]:
    """One for every attack, number of miners and of attackers, over its seeds; class by class."""
    groups: dict[tuple[str, int, int], list[Case]] = {}
    for case in cases:
        if case.attack and case.defended:
            groups.setdefault((case.attack, case.miners, case.attackers), []).append(case)
    found = [_point(group, rows) for group in groups.values()]
    points = [point for point in found if point is not None]
    return sorted(points, key=lambda p: (p["miners"] > SMALL, KINDS.index(p["class"])))


def _point(group: Sequence[Case], rows: Rows) -> dict[str, Any] | None:
    pairs = [(case, _beside(case, rows)) for case in group]
    whole = [(case, beside) for case, beside in pairs if beside is not None]
    if not whole:
        return None
    case, attack = whole[0][0], ATTACKS[whole[0][0].attack]
    mine = [beside["attacked"] for _, beside in whole]
    clean = [beside["clean"] for _, beside in whole]
    ratio = interval(
        [r["held_out_loss"] / c["held_out_loss"] for r, c in zip(mine, clean, strict=True)]
    )
    limit, is_former = limit_of(attack), any(beside["is_former"] for _, beside in whole)
    played = [(one, beside["attacked"]) for one, beside in whole]
    earned = _mean([_valued(one, row, 0) for one, row in played])
    if earned is None:  # paid by gates: as it was played
        earned = _mean([_earned(row, attack) for row in mine])
    settled = _mean([_valued(one, row, SETTLED) for one, row in played])
    kept = _mean([_kept(row, c, case) for row, c in zip(mine, clean, strict=True)])
    dividends = _mean([row["dividends"] for row in mine])
    undefended = [b["undefended"] for _, b in whole if b["undefended"] is not None]
    holds = (
        ratio.mean <= MAX_LOSS_RATIO
        and earned <= limit
        and (kept is None or kept >= MIN_HONEST_SHARE)
        and (dividends is None or dividends <= MAX_DIVIDENDS)
    )
    return {
        "name": case.attack,
        "class": attack.kind,
        "fraction": round(case.attackers / case.miners, 3),
        "miners": case.miners,
        "seeds": [c.seed for c, _ in whole],
        "undefended": _undefended(undefended[0], attack) if undefended else None,
        "loss_ratio": _numbers(ratio),
        "earned_vs_honest": _or_none(earned),
        "earned_settled": settled,
        "limit": limit,
        "model": case.model,
        "is_former": is_former,
        "windows_to_detection": [row["windows_to_detection"] for row in mine],
        "honest_share": _mean([row["honest_share"] for row in mine]),
        "honest_kept": kept,
        "dividends_vs_honest": dividends,
        "backdoor": _mean([row["backdoor"] for row in mine]),
        "note": attack.note,
        "holds": holds,
    }


def limit_of(attack: Attack) -> float:
    """The most that an attacker may earn, as a share of an honest miner's pay."""
    if attack.kind == FREE:
        return LIMITS[FREE] + work_of(attack)
    return LIMITS[attack.kind] * (work_of(attack) if attack.kind == PARTIAL else 1.0)


def work_of(attack: Attack) -> float:
    """The share of an honest miner's work that a hotkey does; of 15 steps a half are 8. For a
    miner that stops working: the mean share of its honest windows in those that pay looks back on.
    """
    if attack.kind == FREE:
        return _worked_before(attack)
    share = attack.team()[0].share
    if attack.kind != PARTIAL or share != attack.work:
        return attack.work
    return round(share * INNER_STEPS) / INNER_STEPS


def _worked_before(attack: Attack) -> float:
    """Mean share of honest windows among those counted, from the first dishonest one on."""
    actor = attack.team()[0]
    counted = trial_spec(TRIALS[WEAK]).weights.history_windows
    first = next((w for w in range(WINDOWS) if actor.dishonest(w)), 0)
    honest = [max(0, first - max(0, w + 1 - counted)) for w in range(first, WINDOWS)]
    looked_at = [min(w + 1, counted) for w in range(first, WINDOWS)]
    return float(np.mean([h / all_ for h, all_ in zip(honest, looked_at, strict=True)]))


def _undefended(pair: Mapping[str, Any], attack: Attack) -> dict[str, Any]:
    """Effects of the attack on an undefended swarm. `harm`: in words; empty for no harm."""
    attacked, clean = pair["attacked"], pair["clean"]
    ratio = attacked["held_out_loss"] / clean["held_out_loss"]
    earned = _earned(attacked, attack)
    harms = {
        "stops every node": attacked["stopped"] is not None,
        "backdoor": attacked["backdoor"] > clean["backdoor"] + MIN_BACKDOOR,
        "loss": ratio > MAX_LOSS_RATIO,
        "pay": earned > limit_of(attack),
    }
    return {
        "loss_ratio": ratio,
        "earned_vs_honest": _or_none(earned),
        "stopped_in_window": attacked["stopped"],
        "backdoor": attacked["backdoor"],
        "harm": ", ".join(name for name, done in harms.items() if done),
    }


def _beside(case: Case, rows: Rows) -> dict[str, Any] | None:
    """The run and the one without the attackers, and both undefended if there are such."""
    attacked, clean = rows.get(case.key), rows.get(case.clean.key)
    is_former = attacked is None or clean is None
    if is_former:
        attacked, clean = rows.get(case.former_key or ""), rows.get(case.clean.former_key or "")
    if attacked is None or clean is None:
        return None
    open_, open_clean = rows.get(case.undefended.key), rows.get(case.undefended.clean.key)
    both = None if open_ is None or open_clean is None else {"attacked": open_, "clean": open_clean}
    return {"attacked": attacked, "clean": clean, "undefended": both, "is_former": is_former}


def _earned(row: Mapping[str, Any], attack: Attack) -> float:
    """Pay of an attacker, or of all hotkeys of a machine, over that of an honest miner, from its
    first dishonest window on. Infinite if honest miners got nothing.
    """
    if not row["honest_earned"]:
        return math.inf if row["earned"] else 0.0
    return float(row["earned"] / row["honest_earned"]) * attack.hotkeys


def _valued(case: Case, row: Mapping[str, Any], start: int) -> float | None:
    """`_earned` from a window on, or from its first dishonest one, by the verdicts on record and
    the rule of pay in force; None for classes that earn what slips through the gates, and where
    honest miners got nothing.
    """
    attack = ATTACKS[case.attack]
    if attack.kind not in (PARTIAL, SYBIL):
        return None
    actors = attack.group(case.attackers)
    dishonest = (w for w in range(case.windows) if any(actor.dishonest(w) for actor in actors))
    late = shares_in(case, row)[max(start, next(dishonest, 0)) :]
    uids = case.attacker_uids
    mine = math.fsum(shares[uid] for shares in late for uid in uids) / len(uids)
    honest = range(case.miners - case.attackers)
    theirs = math.fsum(shares[uid] for shares in late for uid in honest) / len(honest)
    return mine / theirs * attack.hotkeys if theirs else None


def _kept(row: Mapping[str, Any], clean: Mapping[str, Any], case: Case) -> float | None:
    """What honest miners get, over what they would: without a dishonest validator; of all that
    is paid, beside attackers who are paid for their work and no more. None if nobody is paid.
    """
    attack = ATTACKS[case.attack]
    if attack.kind == VALIDATOR:
        return float(row["honest_earned"] / clean["honest_earned"])
    honest = case.miners - case.attackers
    due = honest / (honest + work_of(attack) * case.attackers)
    return None if row["honest_share"] is None else float(row["honest_share"] / due)


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
    come in runs, and four times as many samples without effect would pass (D55). `observed` are
    the careers as they were. Of the smaller model, whose test is the harder one.
    """
    copiers: list[list[WorkSample]] = []
    honest: list[list[WorkSample]] = []
    for case in cases:
        row = rows.get(case.key)
        if row is None or not case.defended or case.model != WEAK:
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
    """The tables that people read: one for every size, class by class."""
    lines: list[str] = []
    for size, points in _by_size(content["attacks"]):
        lines += [f"## {size}", "", COLUMNS, "|" + "---|" * (COLUMNS.count("|") - 1)]
        lines += [*map(_line, points), ""]
    tests = content["tests"]
    lines += [
        f"Work test, 20 evaluations: a payload of other pages passes in "
        f"{_percent(tests['copier_false_pass'])}, honest work in "
        f"{_percent(tests['honest_accept_20'])} of {tests['careers']} careers drawn from the "
        f"samples of {tests['observed']['copiers'][0]} and "
        f"{tests['observed']['honest'][0]} miners.",
        "",
        LEGEND,
    ]
    harmless = [p for p in content["attacks"] if p["undefended"] and not p["undefended"]["harm"]]
    if harmless:
        named = "; ".join(f"{p['name']} ({p['note'] or 'in this run'})" for p in harmless)
        lines += ["", f"Harmless undefended: {named}."]
    return "\n".join(lines) + "\n"


def _by_size(points: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Small swarms together, larger ones by their number of miners."""
    sizes: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        small = point["miners"] <= SMALL
        name = "A quarter attack" if small else f"Among {point['miners']} miners"
        sizes.setdefault(name, []).append(point)
    return list(sizes.items())


def _line(p: Mapping[str, Any]) -> str:
    detected = ", ".join("never" if d is None else str(d) for d in p["windows_to_detection"])
    half = p["loss_ratio"]["half_width_95"]
    spread = "" if half is None else f" +- {half:.3f}"
    cells = [
        p["name"] + (" (*)" if p["is_former"] else ""),
        p["class"],
        f"{p['fraction']:.0%} of {p['miners']}",
        *_undefended_cells(p["undefended"]),
        f"{p['loss_ratio']['mean']:.3f}{spread}",
        _pay(p["earned_vs_honest"]),
        "" if p["earned_settled"] is None else f"{p['earned_settled']:.3f}",
        f"{p['limit']:.2f}",
        "nobody paid" if p["honest_kept"] is None else f"{p['honest_kept']:.3f}",
        detected,
        "" if p["dividends_vs_honest"] is None else f"{p['dividends_vs_honest']:.3f}",
        f"{p['backdoor']:.0%}",
        "holds" if p["holds"] else "**does not hold**",
    ]
    return f"| {' | '.join(cells)} |"


def _undefended_cells(undefended: Mapping[str, Any] | None) -> list[str]:
    if undefended is None:
        return ["", "", ""]
    return [
        f"{undefended['loss_ratio']:.3f}",
        _pay(undefended["earned_vs_honest"]),
        undefended["harm"] or "harmless",
    ]


def _pay(earned: float | None) -> str:
    return "all" if earned is None else f"{earned:.3f}"


def _or_none(earned: float) -> float | None:
    """JSON has no infinity: None where attackers were paid and nobody else."""
    return earned if math.isfinite(earned) else None


def _percent(value: float | None) -> str:
    return "no run" if value is None else f"{100 * value:.2f} %"
