"""From losses to verdicts: every status for its reason, and one payload never shifts another."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from evaluation.evidence import Evidence, Past
from evaluation.gain import paired_gain
from evaluation.history import Entry, add_window, mark_undelivered, past_of
from evaluation.judge import Measured, judge, sample_of
from evaluation.rating import ratings_of
from evaluation.verdict import MISSING, NOT_DRAWN, NOT_SCORED, UNAVAILABLE, Verdict
from evaluation.work import HELD_OUT, QUARTERS, WorkState
from tests.support.judged import KNOWN, NUM_HELD, PROVEN, RULES, blank, measured_of


def _past(**states: WorkState) -> Past:
    """Hotkeys that have proven useful, some with this state of the work test."""
    known = {hotkey: Evidence(work=state, gain=PROVEN) for hotkey, state in states.items()}
    return Past(evidence={**KNOWN.evidence, **known})


def test_gains_are_those_of_the_held_out_sequences_alone() -> None:
    measured = measured_of({1: 0.05, 2: 0.03}, {1: 50.0})
    one, two = judge([blank(2), blank(1)], measured, KNOWN, RULES)
    assert (one.uid, two.uid) == (1, 2)
    held = measured.owners_S == HELD_OUT
    before_HQ, after_HQ = measured.before_SQ[held], measured.after_KQ[1][:NUM_HELD]
    expected = paired_gain(before_HQ.mean(axis=1), after_HQ.mean(axis=1))
    assert (one.gain, one.gain_standard_error) == (expected.mean, expected.standard_error)
    assert one.gain == pytest.approx(0.05, abs=0.005)
    assert one.relative_gain is not None
    assert two.relative_gain is not None
    assert one.gain is not None
    assert two.gain is not None
    assert one.relative_gain / two.relative_gain == pytest.approx(one.gain / two.gain)
    assert one.work_effect is not None
    assert two.work_effect is not None
    assert one.work_effect > 3 > abs(two.work_effect)
    assert (one.status, two.status) == ("named", "named")


def test_what_was_not_measured_keeps_its_reason() -> None:
    blanks = [blank(1), blank(2, "scale"), blank(3, UNAVAILABLE), blank(4), blank(5)]
    measured = measured_of({1: 0.05, 4: -0.05}, {})
    found = {v.uid: v for v in judge(blanks, measured, KNOWN, RULES)}
    assert [found[uid].status for uid in range(1, 6)] == [
        "named", "scale", UNAVAILABLE, "no_gain", NOT_SCORED,
    ]  # fmt: skip
    assert found[2].relative_gain == -1.0
    assert found[3].relative_gain is None
    assert found[5].relative_gain is None
    assert found[2].gain is None
    assert sample_of(found[2]) is None


def test_a_loss_that_is_not_finite_harms_its_sender_alone() -> None:
    calm = judge([blank(1)], measured_of({1: 0.05}, {}), KNOWN, RULES)
    measured = measured_of({1: 0.05}, {})
    broken = {**measured.after_KQ, 2: np.full((NUM_HELD, QUARTERS), math.nan)}
    measured = Measured(owners_S=measured.owners_S, before_SQ=measured.before_SQ, after_KQ=broken)
    one, two = judge([blank(1), blank(2)], measured, KNOWN, RULES)
    assert one == calm[0]
    assert (two.status, two.gain, two.relative_gain) == ("no_gain", -math.inf, -1.0)


def test_who_was_found_out_is_not_named_whatever_it_gains() -> None:
    measured = measured_of({1: 0.05, 2: 0.05}, {1: 1.0, 2: -1.0})
    out = WorkState(log_ratio=-RULES.work.bound)
    one, two = judge([blank(1), blank(2)], measured, _past(hk2=out), RULES)
    assert (one.status, two.status) == ("named", "no_work")
    assert two.relative_gain is not None
    assert two.relative_gain > 0.5
    nearly = WorkState(log_ratio=-0.5 * RULES.work.bound)
    measured = measured_of({1: 0.05, 2: 0.05}, {2: 0.5})
    assert judge([blank(2)], measured, _past(hk2=nearly), RULES)[0].status == "named"


def test_nobody_there_is_nobody_judged() -> None:
    measured = measured_of({}, {})
    assert judge([], measured, KNOWN, RULES) == ()
    (alone,) = judge([blank(7)], measured, KNOWN, RULES)
    assert alone == blank(7)


def test_histories_are_a_function_of_the_last_windows() -> None:
    """Whoever starts with the logs of the last windows comes to what an old validator holds."""
    logs = [
        judge(
            [blank(1, window=w), blank(2, window=w)],
            measured_of({1: 0.05, 2: 0.04}, {1: 1.0}, seed=w),
            KNOWN, RULES,
        )
        for w in range(10)
    ]  # fmt: skip
    old: Mapping[str, Mapping[int, Entry]] = {}
    for window, verdicts in enumerate(logs):
        old = add_window(old, window, verdicts, 4)
    new: Mapping[str, Mapping[int, Entry]] = {}
    for window, verdicts in enumerate(logs[-4:], 6):
        new = add_window(new, window, verdicts, 4)
    assert old == new
    assert sorted(old["hk1"]) == [6, 7, 8, 9]
    entry = old["hk1"][9]
    assert entry == Entry(
        relative_gain=logs[9][0].relative_gain,
        pages=0,
        work=sample_of(logs[9][0]),
        gain_log_ratio=logs[9][0].gain_log_ratio,
        named_gain=logs[9][0].gain,
        half_gap=logs[9][0].half_gap,
    )
    past = past_of(old, RULES)
    assert past.of("hk1").work.log_ratio > past.of("hk2").work.log_ratio
    by_hand = WorkState()
    for verdicts in logs[-4:]:
        sample = sample_of(verdicts[0])
        assert sample is not None
        by_hand = by_hand.after(sample, RULES.work)
    assert past.of("hk1").work == by_hand


def test_who_was_not_drawn_has_no_figure_and_is_remembered_as_such() -> None:
    measured = measured_of({1: 0.05, 2: 0.03}, {1: 1.0})
    blanks = [blank(1), blank(2), blank(3, NOT_DRAWN), blank(4, UNAVAILABLE)]
    verdicts = judge(blanks, measured, KNOWN, RULES)
    without = judge(blanks[:2], measured, KNOWN, RULES)
    assert verdicts[:2] == without
    assert verdicts[2] == blanks[2]
    histories = add_window({}, 3, verdicts, 4)
    assert histories["hk3"] == {3: Entry(relative_gain=None, pages=0)}
    assert "hk4" not in histories
    assert past_of(histories, RULES).of("hk3") == Evidence()
    assert ratings_of(histories, 0) == ratings_of(add_window({}, 3, without, 4), 0)


def test_a_hotkey_that_is_gone_is_forgotten() -> None:
    histories = {"gone": {1: Entry(relative_gain=1.0, pages=8)}}
    after = add_window(histories, 5, [blank(1, "digest", window=5)], 4)
    assert "gone" not in after
    kept = add_window(histories, 4, [blank(1, "digest", window=4)], 4)
    assert "gone" in kept


def test_what_half_of_the_stake_could_not_get_counts_as_the_worst() -> None:
    """A hotkey with a history loses no other entry; a hotkey without one gets the worst gain."""
    entry, worst = Entry(relative_gain=1.0, pages=8), Entry(relative_gain=-1.0, pages=0)
    histories = {"one": {3: entry, 4: entry}}
    assert mark_undelivered(histories, 4, ["one", "two"]) == {
        "one": {3: entry, 4: worst},
        "two": {4: worst},
    }
    assert mark_undelivered(histories, 4, []) == histories
    assert histories == {"one": {3: entry, 4: entry}}


@pytest.mark.parametrize("status", MISSING)
def test_what_could_not_be_had_is_nobodys_fault_yet(status: str) -> None:
    verdicts = judge([blank(1), blank(2, status)], measured_of({1: 0.05}, {}), KNOWN, RULES)
    assert verdicts[1].missing
    assert verdicts[1].relative_gain is None
    assert "hk2" not in add_window({}, 0, verdicts, 8)


def _alike(uid: int, *others: int, pages: int = 240) -> Verdict:
    return replace(blank(uid), alike=others, pages_consumed=pages)


def test_of_payloads_alike_the_one_with_work_on_its_own_pages_is_named() -> None:
    """The others are refused with their figures, and shift no gain."""
    measured = measured_of({1: 0.05, 2: 0.05, 3: 0.05, 4: 0.03}, {3: 5.0})
    blanks = [_alike(1, 2, 3), _alike(2, 1, 3), _alike(3, 1, 2), blank(4)]
    found = {v.uid: v for v in judge(blanks, measured, KNOWN, RULES)}
    statuses = {uid: verdict.status for uid, verdict in found.items()}
    assert statuses == {1: "not_author", 2: "not_author", 3: "named", 4: "named"}
    assert found[1].relative_gain == found[2].relative_gain == -1.0
    assert found[1].gain is not None
    assert found[1].work_effect is not None
    two = judge([blank(3), blank(4)], _without(measured, 1, 2), KNOWN, RULES)
    assert [v.relative_gain for v in two] == [found[3].relative_gain, found[4].relative_gain]


def _without(measured: Measured, *uids: int) -> Measured:
    kept = {uid: after for uid, after in measured.after_KQ.items() if uid not in uids}
    return replace(measured, after_KQ=kept)


def test_a_long_record_lends_no_authority_to_a_copy() -> None:
    measured = measured_of({1: 0.05, 2: 0.05}, {2: 5.0})
    veteran = WorkState(log_ratio=RULES.work.bound, holds=True)
    one, two = judge([_alike(1, 2), _alike(2, 1)], measured, _past(hk1=veteran), RULES)
    assert (one.status, two.status) == ("not_author", "named")


@pytest.mark.parametrize(
    ("gain", "state", "status"),
    [
        (0.05, WorkState(log_ratio=-2 * RULES.work.bound), "no_work"),
        (-0.05, WorkState(), "no_gain"),
    ],
)
def test_who_is_refused_for_other_reasons_shadows_nobody(gain, state, status) -> None:
    """Though it shows the greater effect on its own pages."""
    measured = measured_of({1: gain, 2: 0.05}, {1: 0.5, 2: 0.1})
    one, two = judge([_alike(1, 2), _alike(2, 1)], measured, _past(hk1=state), RULES)
    assert (one.status, two.status) == (status, "named")


def test_a_great_effect_on_few_pages_is_less_work_than_a_fair_one_on_all() -> None:
    """A thief that adds a few steps on the pages it claims."""
    measured = measured_of({1: 0.05, 2: 0.05}, {1: 5.0, 2: 2.0})
    one, two = judge([_alike(1, 2, pages=16), _alike(2, 1)], measured, KNOWN, RULES)
    assert one.work_effect is not None
    assert two.work_effect is not None
    assert one.work_effect > two.work_effect
    assert (one.status, two.status) == ("not_author", "named")
    three, four = judge([_alike(1, 2), _alike(2, 1)], measured, KNOWN, RULES)
    assert (three.status, four.status) == ("named", "not_author"), "the same claims"


def test_a_small_effect_on_all_pages_is_no_more_work_than_a_fair_one_on_a_few() -> None:
    """A copy of a slow miner's payload that claims all of its own pages, without work there."""
    measured = measured_of({1: 0.05, 2: 0.05}, {1: 0.6, 2: 2.0})
    one, two = judge([_alike(1, 2), _alike(2, 1, pages=56)], measured, KNOWN, RULES)
    assert one.work_effect is not None
    assert two.work_effect is not None
    assert 240 * one.work_effect > 56 * two.work_effect > 56 * one.work_effect > 0
    assert (one.status, two.status) == ("not_author", "named")


def test_who_loses_by_chance_loses_no_pay() -> None:
    """The loser shows work of its own: its gain and its evidence count as if it had been named.

    Without an entry, whoever beats an author in every window leaves the author unpaid and its work
    test undecided.
    """
    measured = measured_of({1: 0.05, 2: 0.05}, {1: 4.0, 2: 2.0})
    one, two = judge([_alike(1, 2), _alike(2, 1)], measured, KNOWN, RULES)
    assert (one.status, two.status) == ("named", "not_author")
    assert (one.relative_gain, two.relative_gain) == pytest.approx((1.0, 1.0), abs=0.1)
    kept = add_window({}, 3, (one, two), 8)
    assert kept["hk2"][3].work == sample_of(two)


def test_without_evidence_the_lowest_uid_counts() -> None:
    measured = measured_of({5: 0.05, 9: 0.05}, {})
    held = measured.owners_S == HELD_OUT
    bare = Measured(
        owners_S=measured.owners_S[held],
        before_SQ=measured.before_SQ[held],
        after_KQ={uid: after[:NUM_HELD] for uid, after in measured.after_KQ.items()},
    )
    five, nine = judge([_alike(9, 5), _alike(5, 9)], bare, KNOWN, RULES)
    assert (five.status, nine.status) == ("named", "not_author")
    assert nine.relative_gain is None, "nothing speaks against it"


def test_a_chain_of_payloads_alike_keeps_its_ends() -> None:
    """2 is alike to 1 and to 3, which have nothing in common."""
    measured = measured_of({1: 0.05, 2: 0.05, 3: 0.05}, {1: 5.0, 2: 2.0, 3: 1.0})
    blanks = [_alike(1, 2), _alike(2, 1, 3), _alike(3, 2)]
    statuses = [v.status for v in judge(blanks, measured, KNOWN, RULES)]
    assert statuses == ["named", "not_author", "named"]
