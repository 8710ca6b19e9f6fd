"""Limits that follow from the run spec: pages of a pool, bytes of a verdict log."""

from dataclasses import replace

import pytest

from evaluation.log_values import MAX_DETAIL_CHARS
from evaluation.verdict_log import decode_log, encode_log
from template.protocol.spec import RunSpec
from template.scoring.rules import pay_rules, pool_limit, shown_limit, verdict_log_limit_bytes
from tests.support.logs import made_up_log


def _with(spec: RunSpec, **changes: int) -> RunSpec:
    return replace(spec, evaluation=replace(spec.evaluation, **changes))


def test_a_pool_has_the_held_out_pages_once_and_the_claims_of_every_payload(spec: RunSpec) -> None:
    evaluation = _with(spec, held_out_pages=64, claimed_pages=16, max_payloads=9).evaluation
    assert pool_limit(evaluation) == 64 + 9 * 16
    assert shown_limit(evaluation) == 64 + 16


@pytest.mark.parametrize("payloads", [1, 16, 64])
def test_the_limit_of_a_log_is_above_the_largest_and_close(spec: RunSpec, payloads: int) -> None:
    changed = _with(spec, max_payloads=payloads, work_windows=4)
    changed = replace(changed, weights=replace(changed.weights, history_windows=4, min_windows=2))
    text = encode_log(
        made_up_log(
            2**32 - 1,
            num_pages=pool_limit(changed.evaluation),
            num_payloads=payloads,
            num_uids=256,
            num_hotkeys=256 * pay_rules(changed).length,
            detail='"' * MAX_DETAIL_CHARS,
        )
    )
    decode_log(text)
    assert len(text) <= verdict_log_limit_bytes(changed) <= 1.5 * len(text)


def test_the_limit_grows_with_what_a_log_holds(spec: RunSpec) -> None:
    limits = [
        verdict_log_limit_bytes(_with(spec, max_payloads=payloads, held_out_pages=held_out))
        for payloads, held_out in ((1, 2), (1, 64), (16, 64), (256, 64), (256, 128))
    ]
    assert limits == sorted(set(limits))
