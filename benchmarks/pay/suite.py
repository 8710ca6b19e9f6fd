"""A case played in the swarm of the attack suite, and its line of the record."""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from benchmarks.attacks.model import LeanWorkers
from benchmarks.attacks.swarm import Swarm
from benchmarks.learning.workers import CURVE_PAGES, trial_spec
from benchmarks.pay import prices
from benchmarks.pay.cases import SETTING, Case, suite_machines, suite_roster, suite_trial
from template.scoring.rules import pay_rules


class OfTheWholeText(LeanWorkers):
    """Miners who draw their pages from all of the text.

    A shard of a ninth has 17,000 pages, of which a machine of width 4 would draw 38,000 in a run.
    """

    def _draw(self, what: int, miner: int, step: int, width: int = 1) -> np.ndarray:
        count = width * self.trial.batch_pages
        ids = self._random(what, miner, step).integers(len(self._pages.train), size=count)
        return self._pages.train[ids]


class PaidSwarm(Swarm):
    make_workers = OfTheWholeText


def play(case: Case) -> dict[str, Any]:
    """`verdicts`: of each window and uid, what pay rests on (`prices.FIELDS`)."""
    start_s = time.perf_counter()
    swarm = PaidSwarm(suite_trial(case), suite_roster(case), setting=SETTING)
    params_N = swarm.run()
    return {
        "machines": [asdict(machine) for machine in suite_machines(case)],
        "verdicts": [
            [prices.figures_of(verdict) for verdict in verdicts]
            for verdicts in swarm.outcome.verdicts
        ],
        "held_out_loss": swarm.workers.held_out_loss(params_N, CURVE_PAGES),
        "seconds": time.perf_counter() - start_s,
    }


def paid(case: Case, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """An outcome on record with its `shares` of pay, window by window, by uid."""
    spec = trial_spec(suite_trial(case))
    evaluation = replace(
        spec.evaluation,
        claimed_pages=SETTING.claimed_pages,
        work_effect=SETTING.work_effect,
    )
    rules = pay_rules(replace(spec, evaluation=evaluation))
    shares = prices.shares_of(outcome["verdicts"], rules, spec.outer.quorum_rules())
    return {**outcome, "shares": shares}
