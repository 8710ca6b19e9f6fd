"""What is run: every attack at several fractions, beside the same honest miners without it."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attacks.actor import Actor
from benchmarks.attacks.catalogue import ATTACKS
from benchmarks.attacks.council import BURN_UID
from benchmarks.attacks.idle import Undelivered
from benchmarks.attacks.panel import Outcome, Setting
from benchmarks.attacks.swarm import Swarm
from benchmarks.learning.record import append
from benchmarks.learning.trial import KEY_DIGITS, Trial
from evaluation.work import WorkSample

CLEAN = ""
"""Name of the run in which the attackers are away."""

VERSION, UNDEFENDED_VERSION = 9, 5
"""Of rules and attacks, and of attacks alone: go up whenever the same case would end otherwise."""

WINDOWS, UNDEFENDED_WINDOWS = 24, 14
MINERS_PER_HOTKEY = 4
"""A team of k hotkeys stands among at least so many times k miners, to be a quarter at most."""
PAID_SHARE = 0.1
"""Of an honest miner's pay: below this an attacker is found out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One run. The attackers have the last uids."""

    attack: str
    miners: int
    attackers: int
    seed: int
    defended: bool

    @property
    def windows(self) -> int:
        """Fewer where it is only to be seen that the attack bites."""
        return WINDOWS if self.defended else UNDEFENDED_WINDOWS

    @property
    def key(self) -> str:
        version = VERSION if self.defended else UNDEFENDED_VERSION
        text = json.dumps([version, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]

    @property
    def attacker_uids(self) -> range:
        return range(self.miners - self.attackers, self.miners)

    @property
    def trial(self) -> Trial:
        """Eighteen thousand parameters, warm-started as a run is, and no lag: miners wait."""
        return Trial(
            strategy="ours",
            lag=0,
            model="tiny",
            miners=self.miners,
            rounds=self.windows,
            seed=self.seed,
            inner_lr=4e-3,
            outer_lr=4.0,
            min_divisor=4,
            warm_steps=240,
        )

    @property
    def stake(self) -> float:
        """Of a dishonest validator: the attackers' share of the miners, if the attack has none."""
        stake = ATTACKS[self.attack].stake if self.attack else None
        return self.attackers / self.miners if stake is None else stake

    def swarm(self) -> Swarm:
        honest = [Actor() for _ in range(self.miners - self.attackers)]
        if not self.attack:
            attackers: list[Actor] = [Undelivered() for _ in range(self.attackers)]
            return Swarm(self.trial, [*honest, *attackers], defended=self.defended)
        attack = ATTACKS[self.attack]
        roster = [*honest, *attack.group(self.attackers)]
        if attack.validator is None:
            return Swarm(self.trial, roster, defended=self.defended)
        setting = Setting(dishonest=attack.validator(), stake=self.stake)
        return Swarm(self.trial, roster, defended=self.defended, setting=setting)


def quick() -> list[Case]:
    """All attacks at 25 % of 8 miners, one seed."""
    return list(_cases(8, 2, 1, both=True))


def full() -> list[Case]:
    """8 miners with three seeds; then 20 miners, at 5, 25 and 40 %. Undefended once: it is to show
    that an attack bites.
    """
    cases = [case for seed in (1, 2, 3) for case in _cases(8, 2, seed, both=seed == 1)]
    cases += [case for count in (5, 8, 1) for case in _cases(20, count, 1, both=False)]
    return list({case.key: case for case in cases}.values())


def _cases(miners: int, attackers: int, seed: int, *, both: bool) -> Iterator[Case]:
    """Every attack and, before the first of its size, the run without it."""
    clean: set[tuple[int, int]] = set()
    for name, attack in ATTACKS.items():
        all_miners = max(miners, MINERS_PER_HOTKEY * attack.hotkeys)
        teams = max(1, attackers // attack.hotkeys)
        size = (all_miners, teams * attack.hotkeys)
        names = (name,) if size in clean else (CLEAN, name)
        clean.add(size)
        for one in names:
            for defended in (True, False) if both else (True,):
                yield Case(
                    attack=one, miners=size[0], attackers=size[1], seed=seed, defended=defended
                )


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
        "samples": {
            hotkey: [
                [w, e.work.effect, e.work.variance, e.work.quarter_effect, e.work.quarter_square]
                for w, e in sorted(h.items())
                if e.work
            ]
            for hotkey, h in swarm.histories.items()
        },
    }


def run_case(case: Case, record: Path) -> str:
    """Play one case and append it; what the pool's processes do."""
    row = play(case)
    append(record, row)
    name = case.attack or "attackers away"
    guard = "defended" if case.defended else "undefended"
    return f"{name}, {case.attackers} of {case.miners}, {guard}: loss {row['held_out_loss']:.4f}"


def samples_of(row: Mapping[str, Any], uids: Sequence[int]) -> list[list[WorkSample]]:
    """The work test's samples of some miners, in the order of their windows."""
    return [
        [
            WorkSample(effect=e, variance=v, quarter_effect=qe, quarter_square=qs)
            for _, e, v, qe, qs in row["samples"].get(str(uid), [])
        ]
        for uid in uids
    ]


def _first_dishonest(case: Case, swarm: Swarm) -> int:
    actors = [swarm.roster[uid] for uid in case.attacker_uids]
    return next((w for w in range(case.windows) if any(actor.dishonest(w) for actor in actors)), 0)


def _pay(outcome: Outcome, window: int, uids: Sequence[int]) -> float:
    """Mean share of these uids in a window."""
    shares = outcome.shares[window]
    return float(np.mean([shares.get(uid, 0.0) for uid in uids]))


def _dividends(outcome: Outcome, case: Case) -> float | None:
    """Of a dishonest validator, by stake, over those of an honest one; None if all are honest."""
    if not case.attack or ATTACKS[case.attack].validator is None or not outcome.dividends:
        return None
    mine = math.fsum(shares[0] for shares in outcome.dividends)
    theirs = math.fsum(math.fsum(shares[1:]) for shares in outcome.dividends)
    return (mine / case.stake) / (theirs / (1 - case.stake)) if theirs else None


def _honest_share(outcome: Outcome, first: int, honest: Sequence[int]) -> float | None:
    """Of all that miners were paid from the first dishonest window on; None if nobody was."""
    paid = [(uid, s) for shares in outcome.shares[first:] for uid, s in shares.items()]
    total = math.fsum(s for uid, s in paid if uid != BURN_UID)
    return math.fsum(s for uid, s in paid if uid in honest) / total if total else None


def _detected(mine: Sequence[float], theirs: Sequence[float], first: int) -> int | None:
    """Windows from the first dishonest one until pay is gone for good; None if it never is."""
    paid = [w for w in range(first, len(mine)) if mine[w] > PAID_SHARE * theirs[w]]
    last = max(paid, default=first - 1)
    return None if last == len(mine) - 1 else last + 1 - first
