"""Limits that follow from the run spec: pages of a pool, bytes of a verdict log."""

from dataclasses import replace

import pytest

from evaluation.log_values import MAX_DETAIL_CHARS
from evaluation.verdict_log import decode_log, encode_log
from template.protocol.spec import RunSpec
from template.scoring.rules import (
    looked_at,
    pay_rules,
    pool_limit,
    shown_limit,
    shown_pages,
    verdict_log_limit_bytes,
)
from tests.support.logs import made_up_log


def _with(spec: RunSpec, **changes: int) -> RunSpec:
    return replace(spec, evaluation=replace(spec.evaluation, **changes))


def test_a_pool_has_the_held_out_pages_once_and_the_claims_of_every_payload(spec: RunSpec) -> None:
    changed = _with(spec, held_out_pages=64, claimed_pages=16, max_payloads=9)
    narrow, wide = (
        replace(changed, training=replace(changed.training, max_width=width)) for width in (1, 4)
    )
    assert pool_limit(narrow) == 64 + 9 * 16
    assert shown_limit(narrow) == 64 + 16
    assert pool_limit(wide) == 64 + 9 * 32
    assert shown_limit(wide) == shown_pages(changed.evaluation, 4) == 64 + 32


def test_wider_payloads_are_measured_on_more_pages_by_the_root(spec: RunSpec) -> None:
    """Whole pages, rounded down; none where the work test is off."""
    some, none = (_with(spec, claimed_pages=count).evaluation for count in (48, 0))
    assert [looked_at(some, width) for width in (1, 2, 3, 4, 8)] == [48, 67, 83, 96, 135]
    assert looked_at(none, 1024) == 0


@pytest.mark.parametrize("payloads", [1, 16, 64])
def test_the_limit_of_a_log_is_above_the_largest_and_close(spec: RunSpec, payloads: int) -> None:
    changed = _with(spec, max_payloads=payloads, work_windows=4)
    changed = replace(changed, weights=replace(changed.weights, history_windows=4, min_windows=2))
    text = encode_log(
        made_up_log(
            2**32 - 1,
            num_pages=pool_limit(changed),
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
