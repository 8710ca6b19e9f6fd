"""The run spec's rules of scoring and pay, as parameters for `evaluation`."""

from evaluation.judge import JudgeRules
from evaluation.rules import PayRules
from evaluation.weights import WeightRules
from evaluation.work import WorkRules
from template.protocol.spec import EvaluationSpec, RunSpec

CLAIMED_PER_HELD_OUT, MIN_CLAIMED = 16, 4
"""Maximum claimed pages per held-out page in a pool; minimum claimed pages per payload.

With many miners the work test takes more windows instead of more time per window."""


def claims_of_each(evaluation: EvaluationSpec, num_payloads: int) -> int:
    """Claimed pages of each payload in the pool of a window with `num_payloads` payloads."""
    room = CLAIMED_PER_HELD_OUT * evaluation.held_out_pages // max(1, num_payloads)
    return min(evaluation.claimed_pages, max(MIN_CLAIMED, room))


def admits_claim(spec: RunSpec, num_pages: int) -> bool:
    """Whether a payload may claim `num_pages` pages: enough for the work test, at most as many as
    are assigned.
    """
    return spec.evaluation.claimed_pages <= num_pages <= spec.training.pages_per_window


def judge_rules(evaluation: EvaluationSpec) -> JudgeRules:
    return JudgeRules(
        naming_z=evaluation.naming_z,
        min_relative_gain=evaluation.min_relative_gain,
        work=WorkRules(effect=evaluation.work_effect, error=evaluation.work_error),
    )


def pay_rules(spec: RunSpec) -> PayRules:
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
