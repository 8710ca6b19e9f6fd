"""The cases: crowds, rules, chains and stakes, with three seeds each."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Final

import numpy as np

from benchmarks.validators.chain import NUM_HONEST, YUMA, run_epochs
from benchmarks.validators.crowd import WINDOWS_PER_EPOCH, Crowd, Floats, Rule, modelled_crowd
from benchmarks.validators.roles import ROLES, Scene, honest_rows
from localnet.chain.yuma import YumaParams

SEEDS: Final = (1, 2, 3)
EPOCHS, FIRST_EPOCH = 60, 20
"""Bonds of the first twenty epochs are of the start: they keep 0.9 of themselves per epoch."""
EPOCHS_PER_DAY: Final = 20
NOISES: Final = (0.08, 0.30)
"""Of equal machines' pay in a window: by the curve of pay, and four times as much."""
CROWDS: Final = ((8, True), (8, False), (20, True), (20, False))
RULES: Final = {
    "no duels": Rule(account=16),
    "duels of 1/4": Rule(account=16, duel=0.25),
    "duels of 3/8": Rule(account=16, duel=0.375),
    "duels of 1/2": Rule(account=16, duel=0.5),
}
STAKES: Final = (0.05, 0.10, 0.25, 0.40)
USUAL_STAKE: Final = 0.25
USUAL_YUMA: Final = "yuma 3"
"""As on the local chain's new subnets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One row of the table, of all roles."""

    miners: int
    equal: bool
    noise: float
    rule: str
    yuma: str = USUAL_YUMA
    stake: float = USUAL_STAKE

    def crowd(self, seed: int) -> Crowd:
        return modelled_crowd(
            self.miners,
            is_equal=self.equal,
            noise=self.noise,
            num_windows=WINDOWS_PER_EPOCH * EPOCHS,
            seed=seed,
        )


def cases(*, quick: bool) -> Iterator[Case]:
    """Every noise and rule: for the first crowd on every chain, for the others on one; then the
    other stakes for the first crowd.
    """
    for index, (miners, equal) in enumerate(CROWDS[:1] if quick else CROWDS):
        for yuma in YUMA if index == 0 and not quick else (USUAL_YUMA,):
            for noise in NOISES:
                for rule in RULES:
                    yield Case(miners=miners, equal=equal, noise=noise, rule=rule, yuma=yuma)
    miners, equal = CROWDS[0]
    for stake in () if quick else STAKES:
        for rule in RULES:
            if stake != USUAL_STAKE:
                yield Case(miners=miners, equal=equal, noise=NOISES[0], rule=rule, stake=stake)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """`first_epoch`: of those that count. `stake`: the watched validator's share."""

    stake: float
    params: YumaParams
    first_epoch: int


def measure(case: Case, seeds: tuple[int, ...] = SEEDS) -> dict[str, Any]:
    """Relative dividends of every role, and how the rule pays miners, over all seeds."""
    crowds = [case.crowd(seed) for seed in seeds]
    earned = [crowd.shares_WM[WINDOWS_PER_EPOCH * FIRST_EPOCH :].mean(axis=0) for crowd in crowds]
    chain = Chain(stake=case.stake, params=YUMA[case.yuma], first_epoch=FIRST_EPOCH)
    return asdict(case) | measure_all(crowds, RULES[case.rule], earned, chain)


def measure_all(
    crowds: Sequence[Crowd], rule: Rule, earned: Sequence[Floats], chain: Chain
) -> dict[str, Any]:
    """Relative dividends of every role over the crowds, and the pay of their miners.

    `earned`: what each miner [M] of each crowd should be paid, of 1.
    """
    found: dict[str, list[float]] = {}
    pays: list[dict[str, float]] = []
    for crowd, earned_M in zip(crowds, earned, strict=True):
        rows = [honest_rows(crowd.measured_by(v), rule) for v in range(1, 1 + NUM_HONEST)]
        honest = list(map(list, zip(*rows, strict=True)))
        scene = Scene(crowd=crowd, rule=rule, honest=rows[0])
        for name, role in ROLES.items():
            course = run_epochs(honest, role(scene), chain.stake, chain.params)
            found.setdefault(name, []).append(course.relative_dividends(chain.first_epoch))
            if name == "honest":
                pays.append(pay_of(np.array(course.pay[chain.first_epoch :]), earned_M))
    dividends = {
        name: {"mean": fmean(values), "least": min(values), "most": max(values)}
        for name, values in found.items()
    }
    return {"dividends": dividends, "pay": {k: fmean(pay[k] for pay in pays) for k in pays[0]}}


def pay_of(pay_EM: Floats, earned_M: Floats) -> dict[str, float]:
    """Of miners' pay, as parts of what they earned; root mean squares over miners.

    `error`: of the whole pay; `luck`: its standard error if epochs are independent. `per_epoch`,
    `per_day`: standard deviation of an epoch's and a day's pay, the latter of two days or more.
    """
    relative_EM = pay_EM / earned_M
    per_epoch = float(np.sqrt(relative_EM.var(axis=0, ddof=1).mean()))
    found = {
        "error": float(np.sqrt(((relative_EM.mean(axis=0) - 1.0) ** 2).mean())),
        "luck": per_epoch / math.sqrt(len(pay_EM)),
        "per_epoch": per_epoch,
    }
    days = len(pay_EM) // EPOCHS_PER_DAY
    if days > 1:
        whole_EM = relative_EM[: days * EPOCHS_PER_DAY]
        days_DM = whole_EM.reshape(days, EPOCHS_PER_DAY, -1).mean(axis=1)
        found["per_day"] = float(np.sqrt(days_DM.var(axis=0, ddof=1).mean()))
    return found
