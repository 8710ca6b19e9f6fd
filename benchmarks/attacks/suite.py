"""What is run: every attack at several fractions, beside the same honest miners without it."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attacks.actor import Actor
from benchmarks.attacks.catalogue import ATTACKS, FREE, PARTIAL, SYBIL, VALIDATOR
from benchmarks.attacks.council import BURN_UID
from benchmarks.attacks.idle import Undelivered
from benchmarks.attacks.panel import Outcome, Setting
from benchmarks.attacks.swarm import Swarm
from benchmarks.learning.record import append
from benchmarks.learning.trial import KEY_DIGITS, Trial
from benchmarks.learning.workers import trial_spec
from benchmarks.pay.prices import figures_of, shares_of, verdicts_of
from evaluation.judge import sample_of
from evaluation.verdict import Verdict
from evaluation.work import WorkSample
from template.scoring.rules import pay_rules

CLEAN = ""
"""Name of the run in which the attackers are away."""

UNDEFENDED_VERSION = 5
"""Goes up whenever the same case would end otherwise."""

WINDOWS, UNDEFENDED_WINDOWS = 24, 14
WEAK, STRONG = "tiny", "small"
"""Models of 18 and of 114 thousand parameters, the localnet's."""
MODEL_OF = {FREE: WEAK, VALIDATOR: WEAK, PARTIAL: STRONG, SYBIL: STRONG}
"""Class -> model. What the first two earn hangs on the gates, which the smaller model shows in a
third of the time. What the others earn hangs on the share of a claim that was trained, and on the
smaller model a trained page shows half of the effect: too little to tell a part from the whole.
"""
VERSIONS = {WEAK: 10, STRONG: 11}
"""The same of defended cases: a step cuts lengths (D180)."""
FORMER_VERSIONS = {WEAK: 9, STRONG: 10}
"""Model -> version before, whose steps do not."""
MAX_LENGTH_RATIO = 1.1
"""As in the shipped plans."""
TRIALS = {
    WEAK: Trial(
        strategy="ours",
        lag=0,
        model=WEAK,
        inner_lr=4e-3,
        outer_lr=4.0,
        min_divisor=4,
        warm_steps=240,
        max_length_ratio=MAX_LENGTH_RATIO,
    ),
    STRONG: Trial(
        strategy="ours",
        lag=0,
        model=STRONG,
        inner_lr=2e-3,
        outer_lr=6.0,
        min_divisor=6,
        warm_steps=240,
        max_length_ratio=MAX_LENGTH_RATIO,
    ),
}
"""Warm-started as a run is, and no lag: miners wait."""
SETTINGS = {WEAK: Setting(), STRONG: Setting(claimed_pages=48, work_effect=0.4)}
"""What validators look at: of the stronger model as in the localnet's plan."""
DIGITS = 8
"""Significant digits of a figure on record."""
MINERS_PER_HOTKEY = 4
"""A team of k hotkeys stands among at least so many times k miners, to be a quarter at most."""
PAID_SHARE = 0.1
"""Of an honest miner's pay: below this an attacker is found out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One run. The attackers have the last uids. `model`: name in `MODELS` of the workers."""

    attack: str
    miners: int
    attackers: int
    seed: int
    defended: bool
    model: str = WEAK

    @property
    def windows(self) -> int:
        """Fewer where it is only to be seen that the attack bites."""
        return WINDOWS if self.defended else UNDEFENDED_WINDOWS

    @property
    def key(self) -> str:
        return self._key(VERSIONS[self.model] if self.defended else UNDEFENDED_VERSION)

    @property
    def former_key(self) -> str | None:
        """The key of the run by the rules of before, for tables that lack a newer one."""
        former = FORMER_VERSIONS.get(self.model) if self.defended else None
        return None if former is None else self._key(former)

    def _key(self, version: int) -> str:
        text = json.dumps([version, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]

    @property
    def attacker_uids(self) -> range:
        return range(self.miners - self.attackers, self.miners)

    @property
    def trial(self) -> Trial:
        """The model's trial at this case's size."""
        return replace(TRIALS[self.model], miners=self.miners, rounds=self.windows, seed=self.seed)

    @property
    def clean(self) -> "Case":
        """The same run without the attackers."""
        return replace(self, attack=CLEAN)

    @property
    def undefended(self) -> "Case":
        """The attack where nobody defends: on the smaller model, whatever its class."""
        return replace(self, defended=False, model=WEAK)

    @property
    def stake(self) -> float:
        """Of a dishonest validator: the attackers' share of the miners, if the attack has none."""
        stake = ATTACKS[self.attack].stake if self.attack else None
        return self.attackers / self.miners if stake is None else stake

    def swarm(self) -> Swarm:
        honest = [Actor() for _ in range(self.miners - self.attackers)]
        setting = SETTINGS[self.model]
        if not self.attack:
            attackers: list[Actor] = [Undelivered() for _ in range(self.attackers)]
            roster = [*honest, *attackers]
            return Swarm(self.trial, roster, defended=self.defended, setting=setting)
        attack = ATTACKS[self.attack]
        roster = [*honest, *attack.group(self.attackers)]
        if attack.validator is not None:
            setting = replace(setting, dishonest=attack.validator(), stake=self.stake)
        return Swarm(self.trial, roster, defended=self.defended, setting=setting)


def quick() -> list[Case]:
    """All attacks at 25 % of 8 miners, one seed."""
    return list(_cases(8, 2, 1, both=True))


def full() -> list[Case]:
    """8 miners and a quarter of 20 with three seeds; then 20 miners at 40 and 5 %. Undefended once:
    it is to show that an attack bites.
    """
    cases = [case for seed in (1, 2, 3) for case in _cases(8, 2, seed, both=seed == 1)]
    cases += [case for seed in (1, 2, 3) for case in _cases(20, 5, seed, both=False)]
    cases += [case for count in (8, 1) for case in _cases(20, count, 1, both=False)]
    return list({case.key: case for case in cases}.values())


def _cases(miners: int, attackers: int, seed: int, *, both: bool) -> Iterator[Case]:
    """Every attack and, before the first of its size and model, the run without it."""
    seen: set[Case] = set()
    for name, attack in ATTACKS.items():
        teams = max(1, attackers // attack.hotkeys)
        defended = Case(
            attack=name,
            miners=max(miners, MINERS_PER_HOTKEY * attack.hotkeys),
            attackers=teams * attack.hotkeys,
            seed=seed,
            defended=True,
            model=MODEL_OF[attack.kind],
        )
        for case in (defended, defended.undefended) if both else (defended,):
            for one in (case.clean, case):
                if one not in seen:
                    seen.add(one)
                    yield one


def play(case: Case) -> dict[str, Any]:
    """The line of the record for one case."""
    swarm = case.swarm()
    outcome = swarm.play()
    first = _first_dishonest(case, swarm)
    attackers, honest = case.attacker_uids, range(case.miners - case.attackers)
    mine = [_pay(outcome, window, attackers) for window in range(case.windows)]
    theirs = [_pay(outcome, window, honest) for window in range(case.windows)]
    return {
        "key": case.key,
        "case": asdict(case),
        "held_out_loss": outcome.held_out_loss,
        "earned": math.fsum(mine[first:]),
        "honest_earned": math.fsum(theirs[first:]),
        "honest_share": _honest_share(outcome, first, honest),
        "windows_to_detection": _detected(mine, theirs, first) if case.defended else None,
        "backdoor": outcome.backdoor,
        "stopped": outcome.stopped,
        "dividends": _dividends(outcome, case),
        "named": [outcome.named.get(uid, 0) for uid in range(case.miners)],
        "verdicts": [
            [[_rounded(figure) for figure in figures_of(verdict)] for verdict in verdicts]
            for verdicts in outcome.verdicts
        ],
    }


def _rounded(figure: Any) -> Any:
    """A number to the digits that the record keeps; a rounded float is the same float again."""
    return float(f"{figure:.{DIGITS}g}") if isinstance(figure, float) else figure


def run_case(case: Case, record: Path) -> str:
    """Play one case and append it; what the pool's processes do."""
    row = play(case)
    append(record, row)
    name = case.attack or "attackers away"
    guard = "defended" if case.defended else "undefended"
    return f"{name}, {case.attackers} of {case.miners}, {guard}: loss {row['held_out_loss']:.4f}"


def verdicts_in(row: Mapping[str, Any]) -> list[list[Verdict]]:
    """An honest validator's verdicts of every window, in the order of uids; none undefended."""
    return [verdicts_of(window, lines) for window, lines in enumerate(row["verdicts"])]


def samples_of(row: Mapping[str, Any], uids: Sequence[int]) -> list[list[WorkSample]]:
    """The work test's samples of some miners, in the order of their windows."""
    windows = verdicts_in(row)
    samples = [[sample_of(verdicts[uid]) for verdicts in windows] for uid in uids]
    return [[sample for sample in career if sample is not None] for career in samples]


def shares_in(case: Case, row: Mapping[str, Any]) -> list[list[float]]:
    """Shares of miners' pay after each window, by uid, from the verdicts on record and the rule of
    pay in force; of a run whose validators are honest.
    """
    spec, setting = trial_spec(case.trial), SETTINGS[case.model]
    evaluation = replace(
        spec.evaluation,
        claimed_pages=setting.claimed_pages,
        work_effect=setting.work_effect,
    )
    rules = pay_rules(replace(spec, evaluation=evaluation))
    return shares_of(row["verdicts"], rules, spec.outer.quorum_rules())


def _first_dishonest(case: Case, swarm: Swarm) -> int:
    actors = [swarm.roster[uid] for uid in case.attacker_uids]
    return next((w for w in range(case.windows) if any(actor.dishonest(w) for actor in actors)), 0)


def _pay(outcome: Outcome, window: int, uids: Sequence[int]) -> float:
    """Mean share of these uids in a window."""
    shares = outcome.shares[window]
    return float(np.mean([shares.get(uid, 0.0) for uid in uids]))


def _dividends(outcome: Outcome, case: Case) -> float | None:
    """A dishonest validator's dividends over an honest one's, by stake; None if all are honest."""
    if not case.attack or ATTACKS[case.attack].validator is None or not outcome.dividends:
        return None
    mine = math.fsum(shares[0] for shares in outcome.dividends)
    theirs = math.fsum(math.fsum(shares[1:]) for shares in outcome.dividends)
    return (mine / case.stake) / (theirs / (1 - case.stake)) if theirs else None


def _honest_share(outcome: Outcome, first: int, honest: Sequence[int]) -> float | None:
    """Honest miners' share of all miners' pay from window `first` on; None if nobody was paid."""
    paid = [(uid, s) for shares in outcome.shares[first:] for uid, s in shares.items()]
    total = math.fsum(s for uid, s in paid if uid != BURN_UID)
    return math.fsum(s for uid, s in paid if uid in honest) / total if total else None


def _detected(mine: Sequence[float], theirs: Sequence[float], first: int) -> int | None:
    """Windows from the first dishonest one until pay is gone for good; None if it never is."""
    paid = [w for w in range(first, len(mine)) if mine[w] > PAID_SHARE * theirs[w]]
    last = max(paid, default=first - 1)
    return None if last == len(mine) - 1 else last + 1 - first
