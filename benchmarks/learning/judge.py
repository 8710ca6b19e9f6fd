"""Which payloads lower the loss: the validators' test, on a common pool of pages."""

from collections.abc import Sequence

from torch import Tensor

from benchmarks.learning.workers import Workers
from evaluation.gain import paired_gain
from evaluation.verdict import Verdict
from template.base.scoring import SCORED, name_useful


def useful(workers: Workers, number: int, params_N: Tensor, steps: Sequence[Tensor]) -> list[bool]:
    """Per payload, given as its full step [N]: would a validator name it?

    Scored at a share of its step at the parameters it is to be applied to, as in a run.
    """
    evaluation, pages = workers.spec.evaluation, workers.scoring_pages(number)
    before = workers.losses(params_N, pages)
    verdicts = []
    for uid, step_N in enumerate(steps):
        after = workers.losses(params_N - evaluation.step_share * step_N, pages)
        gain = paired_gain(before, after)
        verdicts.append(
            Verdict(
                window=number,
                uid=uid,
                hotkey=str(uid),
                digest="",
                status=SCORED,
                gain=gain.mean,
                gain_standard_error=gain.standard_error,
            )
        )
    return [verdict.named for verdict in name_useful(verdicts, evaluation)]
