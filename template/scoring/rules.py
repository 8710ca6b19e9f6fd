"""The run spec's rules of scoring and pay, as parameters for `evaluation`."""

import math
from collections.abc import Callable

from evaluation.evidence import GainRules
from evaluation.judge import JudgeRules
from evaluation.log_values import MAX_DETAIL_CHARS
from evaluation.rules import PayRules
from evaluation.weights import WeightRules
from evaluation.work import WorkRules
from template.protocol.payload import PayloadHeader
from template.protocol.ranges import WHOLE, BlockRange, drawn_range
from template.protocol.record import MAX_UIDS
from template.protocol.spec import EvaluationSpec, RunSpec

NUMBER_CHARS = 26
"""Maximum length of a double in JSON, with comma and space."""
PLACE_CHARS = 28
"""Maximum length of a page's id and owner in a log's first line."""
UID_CHARS = 5
"""Maximum length of a uid in a list of JSON."""
VERDICT_CHARS = 1240 + 2 * MAX_DETAIL_CHARS
"""Maximum length of a verdict without losses and uids alike; JSON may double a character of the
reason."""
REPUTATION_CHARS = 320
HOTKEY_CHARS = 72
"""Maximum length of a hotkey with a uid or a window beside it."""
ROOM_CHARS = 1024
"""Allowance for the rest of a log."""


def admits_claim(spec: RunSpec, header: PayloadHeader) -> bool:
    """Whether a payload may claim its pages: those of one inner step at least, and a width that is
    neither above the run's nor above what the pages need.

    Less is expected of wide payloads: a width beyond the pages would be a discount for nothing.
    """
    training, pages = spec.training, header.pages_consumed
    is_within = 1 <= header.width <= training.max_width
    return is_within and pages >= training.batch_pages and header.width == training.width_of(pages)


def part_to_train(
    header: PayloadHeader, list_seed: Callable[[str, int], bytes], hotkey: str
) -> BlockRange:
    """The part of the model that the page list of a payload draws among as many parts.

    `list_seed`: of a hotkey's page list for a window; not asked for a payload of the whole model.
    """
    if header.blocks.is_whole:
        return WHOLE
    return drawn_range(list_seed(hotkey, header.base_window), header.blocks.parts)


def judge_rules(evaluation: EvaluationSpec) -> JudgeRules:
    return JudgeRules(
        naming_z=evaluation.naming_z,
        min_relative_gain=evaluation.min_relative_gain,
        work=WorkRules(effect=evaluation.work_effect, error=evaluation.work_error),
        gain=GainRules(gain=evaluation.naming_gain, error=evaluation.naming_error),
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
            max_share=weights.max_share,
            duel_share=weights.duel_share,
            period_windows=spec.schedule.period_windows,
        ),
        work_windows=evaluation.work_windows,
        tested=evaluation.claimed_pages > 0,
    )


def looked_at(evaluation: EvaluationSpec, width: int) -> int:
    """Number of claimed pages on which a payload of this width is measured, if it claims as many.

    What a page shows falls with the width, and what the claim is paid grows with it (D177).
    """
    return math.isqrt(width * evaluation.claimed_pages**2)


def pool_limit(spec: RunSpec) -> int:
    """Maximum number of pages in the pool of a window."""
    evaluation = spec.evaluation
    claims = evaluation.max_payloads * looked_at(evaluation, spec.training.max_width)
    return evaluation.held_out_pages + claims


def shown_pages(evaluation: EvaluationSpec, width: int = 1) -> int:
    """Number of pages on which a payload of this width is measured."""
    return evaluation.held_out_pages + looked_at(evaluation, width)


def shown_limit(spec: RunSpec) -> int:
    """Maximum number of pages on which one payload is measured."""
    return shown_pages(spec.evaluation, spec.training.max_width)


def verdict_log_limit_bytes(spec: RunSpec) -> int:
    """Maximum bytes of a window's verdict log: every uid commits, every measured figure is long.

    Hotkeys with a reputation: every uid in every remembered window, as if all changed hands. All
    measured payloads may be alike.
    """
    evaluation, length = spec.evaluation, pay_rules(spec).length
    remembered = MAX_UIDS * min(length, spec.schedule.num_windows)
    after_chars = evaluation.max_payloads * shown_limit(spec) * NUMBER_CHARS
    return (
        pool_limit(spec) * (NUMBER_CHARS + PLACE_CHARS)
        + after_chars
        + evaluation.held_out_pages * NUMBER_CHARS
        + evaluation.max_payloads**2 * UID_CHARS
        + MAX_UIDS * (VERDICT_CHARS + HOTKEY_CHARS + NUMBER_CHARS)
        + remembered * (REPUTATION_CHARS + HOTKEY_CHARS)
        + length * NUMBER_CHARS
        + ROOM_CHARS
    )
