"""Payloads of parts of a model: measured by wholes, and no wholes are measured by them."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from evaluation.evidence import Past
from evaluation.gain import BEST_RELATIVE_GAIN
from evaluation.history import Entry, Histories, add_window
from evaluation.judge import judge
from evaluation.verdict import NAMED, Verdict
from evaluation.weights import WeightRules, chain_weights
from evaluation.work import HELD_OUT
from tests.support.judged import KNOWN, NUM_HELD, RULES, blank, measured_of


def _part(uid: int, share: float) -> Verdict:
    return replace(blank(uid), part=0, parts=4, model_share=share)


def test_a_part_is_named_for_what_such_a_part_gains() -> None:
    """A tenth of the model gains little: of a whole payload that would be too little."""
    gains = {1: 0.04, 2: 0.04, 3: 0.004, 4: 0.004}
    blanks = [blank(1), blank(2), _part(3, 0.1), blank(4)]
    measured = measured_of(gains, dict.fromkeys(gains, 5.0))
    proven = Past(evidence={hotkey: KNOWN.evidence[hotkey] for hotkey in ("hk1", "hk2")})
    judged = {verdict.uid: verdict for verdict in judge(blanks, measured, proven, RULES)}
    assert judged[3].status == NAMED
    assert judged[4].status == "no_gain"


@pytest.mark.parametrize("share", [0.25, 0.02])
def test_parts_change_neither_verdicts_nor_relative_gains_of_wholes(share: float) -> None:
    """However much they gain over their share, and however many they are."""
    gains = {1: 0.04, 2: 0.03, 3: 0.035, **dict.fromkeys(range(4, 10), 0.05)}
    alone = {uid: gains[uid] for uid in (1, 2, 3)}
    with_parts = judge(
        [*map(blank, alone), *(_part(uid, share) for uid in range(4, 10))],
        measured_of(gains, dict.fromkeys(gains, 5.0)), KNOWN, RULES,
    )  # fmt: skip
    own = judge([*map(blank, alone)], measured_of(alone, dict.fromkeys(alone, 5.0)), KNOWN, RULES)
    for uid, verdict in enumerate(own, start=1):
        beside = with_parts[uid - 1]
        assert beside.status == verdict.status == NAMED
        assert beside.relative_gain == pytest.approx(verdict.relative_gain, rel=0.2)
    assert all((v.relative_gain or 0.0) <= BEST_RELATIVE_GAIN for v in with_parts)
    kept = add_window({}, 3, with_parts, 8)
    assert [kept[f"hk{uid}"][3].named_gain is not None for uid in (1, 4)] == [True, False]


def test_a_whole_payload_of_no_worth_measures_no_parts() -> None:
    """Where all others send parts, one stranger's whole payload would make all gains alike."""
    gains = {1: 0.02, 2: 0.01, 3: 0.015, 4: 1e-6}
    measured = measured_of(gains, dict.fromkeys(gains, 5.0))
    # Its gain next to nothing, and without noise.
    held = measured.owners_S == HELD_OUT
    measured.after_KQ[4][:NUM_HELD] = measured.before_SQ[held] - 1e-6
    proven = Past(evidence={hotkey: KNOWN.evidence[hotkey] for hotkey in ("hk1", "hk2", "hk3")})
    judged = judge([*(_part(uid, 0.25) for uid in (1, 2, 3)), blank(4)], measured, proven, RULES)
    relative = {verdict.uid: verdict.relative_gain or 0.0 for verdict in judged}
    assert not judged[3].named
    assert relative[1] > 1.3 * relative[2] > 0.3, relative
    assert relative[1] < 3.0
    assert relative[4] < 0.01


def test_a_run_that_begins_with_parts_and_a_worthless_whole_is_not_its_own() -> None:
    """Nobody is proven: the whole payload would be named, and its gain remembered as the scale."""
    gains = {1: 0.02, 2: 0.01, 3: 0.015, 4: 1e-6}
    measured = measured_of(gains, dict.fromkeys(gains, 5.0))
    held = measured.owners_S == HELD_OUT
    measured.after_KQ[4][:NUM_HELD] = measured.before_SQ[held] - 1e-6
    blanks = [*(_part(uid, 0.25) for uid in (1, 2, 3)), blank(4)]
    judged = judge(blanks, measured, Past(), RULES)
    assert [v.named for v in judged] == [True, True, True, False]
    kept = add_window({}, 3, judged, 8)
    assert [kept[f"hk{uid}"][3].named_gain is not None for uid in gains] == [True] * 3 + [False]


def test_a_run_of_parts_alone_has_a_scale_of_its_own() -> None:
    gains = {1: 0.01, 2: 0.011, 3: 0.009}
    blanks = [_part(uid, 0.25) for uid in gains]
    judged = judge(blanks, measured_of(gains, dict.fromkeys(gains, 5.0)), KNOWN, RULES)
    assert {v.status for v in judged} == {NAMED}
    assert all(v.relative_gain == pytest.approx(1.0, rel=0.3) for v in judged)
    kept = add_window({}, 3, judged, 8)
    assert all(
        kept[f"hk{uid}"][3].named_gain == pytest.approx(4 * gain, rel=0.3)
        for uid, gain in gains.items()
    )


PAY = WeightRules(
    history_windows=16, most_windows=32, min_windows=3, confidence_z=0.0, min_relative_gain=0.1,
    max_share=1.0,
)  # fmt: skip


def _account(windows: range, share: float = 1.0) -> Mapping[int, Entry]:
    histories: Histories = {}
    for window in windows:
        named = replace(
            blank(1), window=window, status=NAMED, gain=0.1, relative_gain=1.0, pages_consumed=240,
            model_share=share,
        )  # fmt: skip
        histories = add_window(histories, window, [named], 32)
    return histories["hk1"]


def test_pay_follows_the_share_of_the_model_and_the_pace() -> None:
    histories = {
        1: _account(range(8, 40)),
        2: _account(range(8, 40), share=0.25),
        3: _account(range(9, 40, 10)),  # a tenth of the windows: three of the last 32
        4: _account(range(9, 40, 4)),
    }
    found = chain_weights(histories, {1, 2, 3, 4}, 39, PAY, None)
    assert found[2] / found[1] == pytest.approx(0.25)
    assert found[3] / found[1] == pytest.approx(0.1, rel=0.5)
    assert found[4] / found[1] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("unopened", "paid"),
    [(Entry(relative_gain=None, pages=0), 0.25), (Entry(relative_gain=1.0, pages=0), 0.125)],
    ids=["not drawn", "undelivered"],
)
def test_a_payload_that_nobody_opened_is_no_share_of_the_model(
    unopened: Entry, paid: float
) -> None:
    """Else a miner of quarters would be paid more for windows outside the sample. What was not
    delivered is not paid.
    """
    opened = _account(range(8, 40), share=0.25)
    half = {w: unopened if w % 2 else entry for w, entry in opened.items()}
    wholes = {1: _account(range(8, 40)), 2: _account(range(8, 40))}
    found = chain_weights({**wholes, 3: half}, {1, 2, 3}, 39, PAY, None)
    assert found[3] / found[1] == pytest.approx(paid)


def test_who_is_gone_is_paid_no_longer_than_before() -> None:
    histories = {1: _account(range(8, 40)), 2: _account(range(8, 23))}
    assert 2 in chain_weights(histories, {1, 2}, 37, PAY, None)
    assert 2 not in chain_weights(histories, {1, 2}, 38, PAY, None)
