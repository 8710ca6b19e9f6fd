"""What a validator would pay: gains on a common pool, the project's verdicts and chain weights."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from benchmarks.learning.judge import measure
from benchmarks.learning.workers import Workers
from evaluation.history import Histories, add_window, past_of
from evaluation.judge import judge
from evaluation.verdict import NOT_SCORED, Verdict
from evaluation.weights import chain_weights
from evaluation.work import HELD_OUT
from template.scoring.rules import pay_rules


class Payroll:
    """A validator of one run that remembers gains, and claims of pages; without a work test."""

    def __init__(self, workers: Workers) -> None:
        self._workers, self._rules = workers, pay_rules(workers.spec)
        self._histories: Histories = {}
        self._paid: dict[int, float] = {}
        self.gains: dict[int, list[float]] = {}
        """uid -> gains in nats per byte, payload by payload."""

    def window(
        self, number: int, params_N: Tensor, steps: Mapping[int, Tensor], pages: Mapping[int, int]
    ) -> dict[int, float]:
        """Score the payloads of a window: uid -> scored step [N], and claimed pages; gains in nats
        per byte by uid.
        """
        pool = self._workers.scoring_pages(number)
        owners_S = np.full(len(pool), HELD_OUT)
        measured = measure(self._workers, params_N, pool, owners_S, steps)
        blanks = [
            Verdict(
                window=number,
                uid=uid,
                hotkey=str(uid),
                digest="",
                status=NOT_SCORED,
                pages_consumed=pages[uid],
            )
            for uid in steps
        ]
        past = past_of(self._histories, self._rules.judge)
        verdicts = judge(blanks, measured, past, self._rules.judge)
        self._histories = add_window(self._histories, number, verdicts, self._rules.length)
        found = {verdict.uid: verdict.gain or 0.0 for verdict in verdicts}
        for uid, gain in found.items():
            self.gains.setdefault(uid, []).append(gain)
        by_uid = {int(hotkey): history for hotkey, history in self._histories.items()}
        paid = chain_weights(by_uid, by_uid, number, self._rules.weights, burn_uid=None)
        for uid, share in paid.items():
            self._paid[uid] = self._paid.get(uid, 0.0) + share
        return found

    def shares(self, count: int) -> list[float]:
        """Of all that was paid, by uid."""
        total = sum(self._paid.values()) or 1.0
        return [self._paid.get(uid, 0.0) / total for uid in range(count)]


def mean_gains(gains: Mapping[int, Sequence[float]], count: int) -> list[float]:
    """The mean gain of each uid's payloads; 0 without one."""
    return [
        sum(found) / len(found) if (found := gains.get(uid, [])) else 0.0 for uid in range(count)
    ]
