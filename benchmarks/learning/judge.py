"""Which payloads lower the loss: the validators' test, on a common pool of pages."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from benchmarks.learning.workers import Workers
from evaluation.judge import Measured, judge
from evaluation.verdict import NOT_SCORED, Verdict
from evaluation.work import HELD_OUT
from template.scoring.rules import judge_rules


def useful(workers: Workers, number: int, params_N: Tensor, steps: Sequence[Tensor]) -> list[bool]:
    """Per payload, given as its full step [N]: would a validator name it?

    Scored at a share of its step at the parameters it is to be applied to, as in a run; there
    are no claims here, and so no work test.
    """
    evaluation, pages = workers.spec.evaluation, workers.scoring_pages(number)
    measured = Measured(
        owners_S=np.full(len(pages), HELD_OUT),
        before_S=workers.losses(params_N, pages),
        after_S={
            uid: workers.losses(params_N - evaluation.step_share * step_N, pages)
            for uid, step_N in enumerate(steps)
        },
    )
    blanks = [
        Verdict(window=number, uid=uid, hotkey=str(uid), digest="", status=NOT_SCORED)
        for uid in range(len(steps))
    ]
    return [verdict.named for verdict in judge(blanks, measured, {}, judge_rules(evaluation))]
