"""Verdicts on simulated payloads: losses by the lean model, the rules by `evaluation`.

A test holds measurements and verdicts equal to those of a validator in the real loops.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.learning.workers import Workers
from evaluation.history import Histories, add_window, past_of
from evaluation.judge import Measured, judge
from evaluation.verdict import NOT_SCORED, Verdict
from evaluation.work import HELD_OUT, QUARTERS, shown_to
from template.scoring.rules import pay_rules


def measure(
    workers: Workers,
    params_N: Tensor,
    pages_ST: np.ndarray,
    owners_S: np.ndarray,
    steps: Mapping[int, Tensor],
    step_start_N: Tensor | None = None,
) -> Measured:
    """Losses of S pages at the parameters, and after each uid's step [N] alone on its own part.

    `owners_S`: the uid with a claim on each page, or HELD_OUT. `step_start_N`: the parameters
    before the last step, for losses half-way through that step.
    """
    half_way_H = None
    if step_start_N is not None:
        half_way_N = torch.lerp(step_start_N, params_N, 0.5)
        held_out_PT = pages_ST[owners_S == HELD_OUT]
        half_way_H = workers.part_losses(half_way_N, held_out_PT, QUARTERS).mean(axis=1)
    return Measured(
        owners_S=owners_S,
        before_SQ=workers.part_losses(params_N, pages_ST, QUARTERS),
        after_KQ={
            uid: workers.part_losses(params_N - step, pages_ST[shown_to(owners_S, uid)], QUARTERS)
            for uid, step in steps.items()
        },
        half_way_H=half_way_H,
    )


class Judge:
    """A validator of one run: remembers what it measured."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._rules = pay_rules(workers.spec)
        self._histories: Histories = {}

    def useful(self, number: int, params_N: Tensor, steps: Sequence[Tensor]) -> list[bool]:
        """Whether a validator would accept each payload, given as its full step [N].

        Scored at a share of its step at the parameters before the update, as in a run. Without
        claimed pages there is no work test.
        """
        evaluation, pages = self._workers.spec.evaluation, self._workers.scoring_pages(number)
        scored = {uid: evaluation.step_share * step_N for uid, step_N in enumerate(steps)}
        owners_S = np.full(len(pages), HELD_OUT)
        blanks = [
            Verdict(window=number, uid=uid, hotkey=str(uid), digest="", status=NOT_SCORED)
            for uid in scored
        ]
        measured = measure(self._workers, params_N, pages, owners_S, scored)
        past = past_of(self._histories, self._rules.judge)
        verdicts = judge(blanks, measured, past, self._rules.judge)
        self._histories = add_window(self._histories, number, verdicts, self._rules.length)
        return [verdict.named for verdict in verdicts]
