"""A case played in the swarm of the attack suite, and its line of the record."""

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.attacks.model import LeanWorkers
from benchmarks.attacks.swarm import Swarm
from benchmarks.learning.workers import CURVE_PAGES
from benchmarks.pay.cases import SETTING, Case, suite_machines, suite_roster, suite_trial


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
    """`shares`: of pay, window by window, by uid. `verdicts`: of each window and uid, what pay
    rests on: status, relative gain, claimed pages, and the four figures of the work test.
    """
    start_s = time.perf_counter()
    swarm = PaidSwarm(suite_trial(case), suite_roster(case), setting=SETTING)
    params_N, outcome = swarm.run(), swarm.outcome
    uids = range(len(swarm.roster))
    return {
        "machines": [asdict(machine) for machine in suite_machines(case)],
        "shares": [[shares.get(uid, 0.0) for uid in uids] for shares in outcome.shares],
        "verdicts": [
            [
                [
                    v.status,
                    v.relative_gain,
                    v.pages_consumed,
                    v.work_effect,
                    v.work_variance,
                    v.quarter_effect,
                    v.quarter_square,
                ]
                for v in verdicts
            ]
            for verdicts in outcome.verdicts
        ],
        "held_out_loss": swarm.workers.held_out_loss(params_N, CURVE_PAGES),
        "seconds": time.perf_counter() - start_s,
    }
