"""Rules of the outer step under attack, one beside the other.

    python -m benchmarks.attacks.rules --quick      one seed
    python -m benchmarks.attacks.rules              two seeds

Evaluation is off: whatever decodes is merged, so that the rule alone stands between attackers and
model; a few cases are with evaluation too. Every rule takes the best of its outer rates on the
clean run. Runs are appended to the record as they end; the tables are of all runs on record.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attacks import suite
from benchmarks.attacks.actor import Actor
from benchmarks.attacks.aggregation import RULES, OursWith, Rule
from benchmarks.attacks.catalogue import ATTACKS
from benchmarks.attacks.idle import Undelivered
from benchmarks.attacks.swarm import Swarm
from benchmarks.attacks.working import Fewer
from benchmarks.learning.pool import Job, run_jobs
from benchmarks.learning.record import Rows, append, load
from benchmarks.learning.report import commit
from benchmarks.learning.text import ROOT

RECORD = ROOT / "benchmarks" / "results" / "attack_rules_runs.jsonl"
MINERS, ATTACKERS, INNER_STEPS, WARM_STEPS = 8, 2, 4, 120
CLEAN, UNEQUAL = suite.CLEAN, "one miner with three times the steps of the others"
SHOWN = (
    "gaussian",
    "sign flip",
    "magnitude 10",
    "magnitude 1000",
    "a little is enough",
    "inner product",
    "index hijack",
    "unique coordinates",
)
SHARES = (1.0, 0.4, 0.25)
CAPS: Mapping[str, Rule] = {
    f"cap {share:g}": Rule(make=partial(OursWith, share=share, together=ATTACKERS))
    for share in SHARES
}
"""Ours with both attackers under one coldkey."""
CAPPED = ("magnitude 10", "index hijack")
EVALUATED = ("ours", "mean", "mean over senders")
EVALUATED_ATTACKS = ("magnitude 1000",)
LOST = 3.0
"""Times the loss of our clean run: further from learning than theta_0 at random."""
COST_EVALUATED = 4.0
VERSION = 3
"""Goes up whenever the same case would end otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleCase:
    """One run of 24 windows. The attackers have the last uids."""

    rule: str
    alpha: float
    attack: str
    seed: int
    evaluated: bool = False

    @property
    def key(self) -> str:
        text = json.dumps([VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def swarm(self) -> Swarm:
        case = suite.Case(
            attack=CLEAN, miners=MINERS, attackers=ATTACKERS, seed=self.seed, defended=True
        )
        trial = replace(
            case.trial, inner_steps=INNER_STEPS, warm_steps=WARM_STEPS, outer_lr=self.alpha
        )
        make = {**RULES, **CAPS}[self.rule].make
        return Swarm(trial, self._roster(), defended=self.evaluated, rule=make)

    def _roster(self) -> list[Actor]:
        honest = [Actor() for _ in range(MINERS - ATTACKERS)]
        if self.attack == UNEQUAL:
            return [Actor(), *(Fewer(1 / 3) for _ in range(MINERS - 1))]
        if self.attack == CLEAN:
            return [*honest, *(Undelivered() for _ in range(ATTACKERS))]
        return [*honest, *ATTACKS[self.attack].group(ATTACKERS)]


def run_case(case: RuleCase, record: Path) -> str:
    """Play one case and append it; what the pool's processes do."""
    loss = case.swarm().play().held_out_loss
    append(record, {"key": case.key, "case": asdict(case), "held_out_loss": loss})
    guard = ", evaluated" if case.evaluated else ""
    return f"{case.rule}, alpha {case.alpha:g}{guard}, {case.attack or 'clean'}: loss {loss:.4f}"


def tuning_cases(seeds: Sequence[int]) -> list[RuleCase]:
    """Every rule without attackers, at every rate."""
    return [
        RuleCase(rule=name, alpha=alpha, attack=CLEAN, seed=seed)
        for seed in seeds
        for name, rule in RULES.items()
        for alpha in rule.alphas
    ]


def best_alphas(rows: Rows, seeds: Sequence[int]) -> dict[str, float]:
    """Of each rule the rate with the least loss without attackers."""

    def loss(name: str, alpha: float) -> float:
        return mean_loss(rows, RuleCase(rule=name, alpha=alpha, attack=CLEAN, seed=0), seeds)

    return {name: min(rule.alphas, key=partial(loss, name)) for name, rule in RULES.items()}


def attack_cases(alphas: Mapping[str, float], seeds: Sequence[int]) -> list[RuleCase]:
    """The three tables, one after the other."""
    ours = alphas["ours"]
    found = [(name, a, attack, False) for attack in SHOWN for name, a in alphas.items()]
    found += [(name, ours, attack, False) for attack in (*CAPPED, UNEQUAL) for name in CAPS]
    found += [(name, alphas[name], a, True) for a in EVALUATED_ATTACKS for name in EVALUATED]
    return [
        RuleCase(rule=name, alpha=alpha, attack=attack, seed=seed, evaluated=evaluated)
        for seed in seeds
        for name, alpha, attack, evaluated in found
    ]


def mean_loss(rows: Rows, case: RuleCase, seeds: Sequence[int]) -> float:
    """Over the seeds; NaN if one of them has no run."""
    keys = [replace(case, seed=seed).key for seed in seeds]
    known = all(key in rows for key in keys)
    return float(np.mean([rows[k]["held_out_loss"] for k in keys])) if known else float("nan")


def results(rows: Rows, seeds: Sequence[int]) -> dict[str, Any]:
    """Final losses over that of our rule without attackers, by table, attack and rule."""
    alphas = best_alphas(rows, seeds)
    start = RuleCase(rule="ours", alpha=alphas["ours"], attack=CLEAN, seed=0)
    clean = mean_loss(rows, start, seeds)

    def ratios(
        attacks: Iterable[str], rules: Mapping[str, float], *, evaluated: bool = False
    ) -> dict[str, dict[str, float]]:
        return {
            attack or "no attack": {
                name: mean_loss(rows, RuleCase(
                    rule=name, alpha=alpha, attack=attack, seed=0, evaluated=evaluated
                ), seeds) / clean
                for name, alpha in rules.items()
            }
            for attack in attacks
        }  # fmt: skip

    judged = {name: alphas[name] for name in EVALUATED}
    return {
        "clean_loss": clean,
        "seeds": list(seeds),
        "alphas": alphas,
        "tuning": {
            f"{case.rule}, alpha {case.alpha:g}": mean_loss(rows, case, seeds) / clean
            for case in tuning_cases(seeds[:1])
        },
        "rules": ratios((CLEAN, *SHOWN), alphas),
        "caps": ratios((*CAPPED, UNEQUAL), dict.fromkeys(CAPS, alphas["ours"])),
        "evaluated": ratios(EVALUATED_ATTACKS, judged, evaluated=True),
    }


def markdown(content: Mapping[str, Any]) -> str:
    """The three tables that people read."""
    alphas = content["alphas"]
    lines = [
        f"Final loss over {content['clean_loss']:.4f} nats, that of our rule without attackers. "
        f"{ATTACKERS} of {MINERS} miners attack, 24 windows of {INNER_STEPS} inner steps, "
        f"{len(content['seeds'])} seed(s), evaluation off.",
        "",
        *_table({"alpha": alphas}, content["rules"]),
        "",
        "Ours with other caps on a coldkey's share of the energy (1: none; with seven coldkeys a "
        "share below 2/7 counts as that). The last two miners, which are the attackers where there "
        "are any, have one coldkey together:",
        "",
        *_table({}, content["caps"]),
        "",
        "With evaluation, which leaves out what does not lower the loss:",
        "",
        *_table({}, content["evaluated"]),
    ]
    return "\n".join(lines) + "\n"


def _table(
    first: Mapping[str, Mapping[str, float]], body: Mapping[str, Mapping[str, float]]
) -> list[str]:
    names = list(next(iter(body.values())))
    rows = [
        f"| {head} | " + " | ".join(f"{r[n]:g}" for n in names) + " |" for head, r in first.items()
    ]
    rows += [
        f"| {head} | " + " | ".join(_shown(r[n]) for n in names) + " |" for head, r in body.items()
    ]
    return ["| | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1), *rows]


def _shown(ratio: float) -> str:
    if math.isnan(ratio):
        return "no run"
    return "lost" if ratio > LOST else f"{ratio:.3f}"


def main(argv: list[str]) -> None:
    """Run what is missing, then write the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.attacks.rules", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args(argv)
    seeds = (1,) if arguments.quick else (1, 2)
    try:
        _run(tuning_cases(seeds), arguments)
        alphas = best_alphas(load(arguments.record), seeds)
        _run(attack_cases(alphas, seeds), arguments)
    except KeyboardInterrupt:
        print("interrupted: the runs that ended are on record")
    command = " ".join(["python -m benchmarks.attacks.rules", *argv])
    content = {
        "command": command,
        "commit": commit(),
        **results(load(arguments.record), seeds),
    }
    folder = arguments.record.parent
    (folder / "attack_rules.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "attack_rules.md").write_text(markdown(content))
    print(markdown(content))


def _run(cases: Sequence[RuleCase], arguments: argparse.Namespace) -> None:
    done = load(arguments.record)
    jobs = [
        Job(
            call=run_case,
            arguments=(case, arguments.record),
            cost=COST_EVALUATED if case.evaluated else 1.0,
        )
        for case in cases
        if case.key not in done
    ]
    run_jobs(jobs, arguments.workers)


if __name__ == "__main__":
    main(sys.argv[1:])
