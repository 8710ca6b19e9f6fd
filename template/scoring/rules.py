"""The run spec's rules of scoring and pay, in the form that `evaluation` takes them."""

from evaluation.judge import JudgeRules
from evaluation.rules import PayRules
from evaluation.weights import WeightRules
from evaluation.work import WorkRules
from template.protocol.spec import EvaluationSpec, RunSpec

CLAIMED_PER_HELD_OUT, MIN_CLAIMED = 16, 4
"""The pool has at most so many claimed pages for each held-out one, and so many of each payload
at least: with many miners the work test takes more windows, not more time."""


def claims_of_each(evaluation: EvaluationSpec, num_payloads: int) -> int:
    """Claimed pages of each payload in the pool of a window with so many of them."""
    room = CLAIMED_PER_HELD_OUT * evaluation.held_out_pages // max(1, num_payloads)
    return min(evaluation.claimed_pages, max(MIN_CLAIMED, room))


def admits_claim(spec: RunSpec, num_pages: int) -> bool:
    """Whether a payload may say that it was made from so many pages: enough for the work test, and
    no more than are assigned.
    """
    return spec.evaluation.claimed_pages <= num_pages <= spec.training.pages_per_window


def judge_rules(evaluation: EvaluationSpec) -> JudgeRules:
    return JudgeRules(
        naming_z=evaluation.naming_z,
        min_relative_gain=evaluation.min_relative_gain,
        work=WorkRules(effect=evaluation.work_effect, error=evaluation.work_error),
    )


def pay_rules(spec: RunSpec) -> PayRules:
    """The run's rules of pay."""
    evaluation, weights = spec.evaluation, spec.weights
    return PayRules(
        judge=judge_rules(evaluation),
        weights=WeightRules(
            history_windows=weights.history_windows,
            most_windows=max(weights.history_windows, evaluation.work_windows),
            min_windows=weights.min_windows,
            confidence_z=evaluation.confidence_z,
            min_relative_gain=evaluation.min_relative_gain,
            gain_power=weights.gain_power,
            credit_share=weights.credit_share,
            max_share=weights.max_share,
            burn_uid=weights.burn_uid,
        ),
        work_windows=evaluation.work_windows,
        tested=evaluation.claimed_pages > 0,
    )
