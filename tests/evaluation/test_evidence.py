"""The gain test: honest work is named at any age, worthless payloads are not; rates as stated."""

import math
import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.evidence import (
    SCALE_WINDOWS,
    SPREAD,
    Evidence,
    GainRules,
    GainState,
    Past,
    lower_medians,
)
from evaluation.history import Histories, add_window, past_of
from evaluation.judge import JudgeRules, judge
from evaluation.verdict import NOT_SCORED, Verdict
from evaluation.work import HELD_OUT, WorkRules, WorkSample, WorkState
from tests.support.judged import measured_from

GAIN = GainRules(gain=0.5, error=0.05)
WORK = WorkRules(effect=0.4, error=0.01)
RULES = JudgeRules(naming_z=2.0, min_relative_gain=0.1, work=WORK, gain=GAIN)
SCALE = 0.002
LATE_ERROR = 0.5 * SCALE
"""Standard error of a gain late in a run: an honest gain is two of them."""
NUM_HELD, NUM_OWN = 64, 16
WORKED = WorkSample(effect=1.5, variance=0.08, page_effect=1.4, page_square=2.6)
IDLE = WorkSample(effect=0.0, variance=0.08, page_effect=0.0, page_square=1.0)


def test_the_log_ratio_is_that_of_two_normal_densities() -> None:
    def density(x: float, mean: float, variance: float) -> float:
        return math.exp(-((x - mean) ** 2) / (2 * variance))

    for gain in (-0.001, 0.0, 0.0004, 0.002):
        x, variance = gain / SCALE, (LATE_ERROR / SCALE) ** 2 + SPREAD**2
        expected = math.log(density(x, 0.5, variance) / density(x, 0.0, variance))
        assert GAIN.log_ratio(gain, LATE_ERROR, SCALE) == pytest.approx(expected)


def test_a_window_counts_for_at_most_the_way_between_the_bounds() -> None:
    assert GAIN.log_ratio(1.0, 0.0, SCALE) == 2 * GAIN.bound
    for gain in (-1.0, -math.inf, math.nan):
        assert GAIN.log_ratio(gain, 0.0, SCALE) == -2 * GAIN.bound
    assert GAIN.log_ratio(1.0, 0.0, 0.0) == 0.0, "without a scale a gain says nothing"


def test_the_gate_opens_by_gain_and_work_together_and_closes_by_gain_alone() -> None:
    half = GAIN.bound / 2
    unproven = _after(Evidence(), None, half)
    assert unproven.gain == GainState(log_ratio=half, holds=False)
    assert _after(Evidence(), WORKED, half).gain.holds
    assert not _after(Evidence(work=WorkState(log_ratio=4.0)), None, 0.0).gain.holds, (
        "work without any evidence of gain is not enough"
    )
    assert _after(unproven, None, half).gain.holds, "the evidence of gain alone reaches the bound"
    proven = _after(Evidence(), None, 2 * GAIN.bound)
    assert proven.gain == GainState(log_ratio=GAIN.bound, holds=True)
    worse = _after(proven, WORKED, -GAIN.bound + 0.01)
    assert worse.gain.holds
    assert not _after(worse, WORKED, -0.01).gain.holds, "whatever the work"
    assert _after(proven, IDLE, None).gain == proven.gain, "a window without a gain says nothing"


def _after(evidence: Evidence, sample: WorkSample | None, log_ratio: float | None) -> Evidence:
    return evidence.after(sample, log_ratio, WORK, GAIN)


@given(st.lists(st.tuples(st.floats(-50, 50), st.booleans()), max_size=40))
def test_the_state_stays_within_its_bounds(windows: list[tuple[float, bool]]) -> None:
    evidence = Evidence()
    for log_ratio, works in windows:
        evidence = _after(evidence, WORKED if works else IDLE, log_ratio)
        assert -GAIN.bound <= evidence.gain.log_ratio <= GAIN.bound
        assert evidence.gain.log_ratio > 0 or not evidence.gain.holds


def _careers(mean: float, deviation: float, sample: WorkSample, count: int = 400) -> np.ndarray:
    """bool [careers, 200 windows]: the gate of hotkeys with relative gains of this normal law."""
    draws = np.random.default_rng(3).normal(mean, deviation, size=(count, 200))
    held = np.zeros(draws.shape, dtype=bool)
    for career, gains in enumerate(draws * SCALE):
        evidence = Evidence()
        for window, gain in enumerate(gains):
            log_ratio = GAIN.log_ratio(float(gain), LATE_ERROR, SCALE)
            evidence = _after(evidence, sample, log_ratio)
            held[career, window] = evidence.gain.holds
    return held


LATE_DEVIATION = math.hypot(LATE_ERROR / SCALE, SPREAD)
"""Of an honest miner's relative gains: measurement, and true spread between windows."""


def test_honest_work_is_named_at_the_end_of_a_long_run() -> None:
    """The test of one window that the gain test replaces refuses nearly half of the same gains."""
    held = _careers(1.0, LATE_DEVIATION, WORKED)
    assert held[:, 0].mean() > 0.85, "newcomers"
    assert held[:, 3:].mean() > 0.99
    one_window = np.random.default_rng(3).normal(1.0, LATE_DEVIATION, 10_000) - 2 * 0.5 > 0.1
    assert one_window.mean() < 0.5


def test_half_of_the_work_is_named_and_a_tenth_is_not() -> None:
    assert _careers(0.5, LATE_DEVIATION, WORKED)[:, 3:].mean() > 0.9
    assert _careers(0.05, LATE_DEVIATION, WORKED)[:, 20:].mean() < 0.1


def test_worthless_payloads_hold_the_gate_no_more_often_than_stated() -> None:
    """Gains of zero on average, without work: a career opens the gate at most once in twenty."""
    assert _careers(0.0, LATE_ERROR / SCALE, IDLE).any(axis=1).mean() <= GAIN.error
    assert not _careers(-1.0, LATE_DEVIATION, IDLE).any(), "noise of full length does harm"


@pytest.mark.parametrize(("gain", "windows"), [(0.0, 14), (-0.5, 5), (-1.0, 3)])
def test_a_proven_hotkey_that_stops_working_is_refused_soon(gain: float, windows: int) -> None:
    evidence = Evidence(
        work=WorkState(log_ratio=WORK.bound, holds=True),
        gain=GainState(log_ratio=GAIN.bound, holds=True),
    )
    count = 0
    while evidence.gain.holds:
        log_ratio = GAIN.log_ratio(gain * SCALE, LATE_ERROR, SCALE)
        evidence, count = _after(evidence, IDLE, log_ratio), count + 1
    assert count <= windows


@given(st.dictionaries(st.integers(0, 50), st.lists(st.floats(-1, 1), max_size=5), max_size=20))
def test_the_scale_is_the_median_of_the_last_medians(gains: dict[int, list[float]]) -> None:
    known = [w for w in sorted(gains) if gains[w]]
    lower = [sorted(gains[w])[(len(gains[w]) - 1) // 2] for w in known]
    medians = lower_medians(gains)
    assert list(medians) == lower
    proven = Evidence(gain=GainState(log_ratio=GAIN.bound, holds=True))
    past = Past(evidence={"a": proven, "b": proven}, medians=medians)
    before = lower[1 - SCALE_WINDOWS :]
    assert past.scale({"c": 9.0}) == max(0.0, statistics.median(before) if before else 0.0)
    now = past.scale({"a": 0.5, "b": 0.7, "c": 9.0, "d": math.nan})
    assert now == max(0.0, statistics.median([*before, 0.5]))


class Run:
    """A validator's memory over windows with made-up losses."""

    def __init__(self) -> None:
        self.histories: Histories = {}
        self.window = 0

    def play(
        self,
        gains: dict[int, float],
        works: Sequence[int] = (),
        spoiled: Mapping[int, float] = MappingProxyType({}),
        shaken: Mapping[int, float] = MappingProxyType({}),
    ) -> dict[int, Verdict]:
        """A window: by uid the true gain over `SCALE`; `works`: uids with work on their pages.

        `spoiled`: by uid the harm on the first held-out page alone, as a mean over `SCALE`.
        `shaken`: by uid the error over `SCALE` of gains and losses that cancel out.
        """
        rng = np.random.default_rng(self.window)
        owners_S = np.concatenate([np.full(NUM_HELD, HELD_OUT), np.repeat(sorted(gains), NUM_OWN)])
        noise = LATE_ERROR * math.sqrt(NUM_HELD)
        before_S = rng.normal(3, 0.5, size=owners_S.size)
        after_S = {
            uid: before_S - gain * SCALE - noise * rng.normal(size=owners_S.size)
            - noise * 1.5 * (owners_S == uid) * (uid in works)
            for uid, gain in gains.items()
        }  # fmt: skip
        for uid, harm in spoiled.items():
            after_S[uid][0] += harm * SCALE * NUM_HELD
        for uid, error in shaken.items():
            after_S[uid][:NUM_HELD:2] += error * SCALE * math.sqrt(NUM_HELD)
            after_S[uid][1:NUM_HELD:2] -= error * SCALE * math.sqrt(NUM_HELD)
        blanks = [
            Verdict(
                window=self.window, uid=uid, hotkey=f"hk{uid}", digest="", status=NOT_SCORED,
                pages_consumed=240,
            )
            for uid in gains
        ]  # fmt: skip
        measured = measured_from(owners_S, before_S, after_S)
        verdicts = judge(blanks, measured, past_of(self.histories, RULES), RULES)
        self.histories = add_window(self.histories, self.window, verdicts, 32)
        self.window += 1
        return {verdict.uid: verdict for verdict in verdicts}


def test_the_judge_names_late_honest_work_and_never_a_crowd_without_work() -> None:
    """Four miners at two standard errors, and eight hotkeys whose gains are luck alone."""
    run, named = Run(), dict.fromkeys(range(12), 0)
    for _ in range(100):
        found = run.play(dict.fromkeys(range(4), 1.0) | dict.fromkeys(range(4, 12), 0.0), range(4))
        for uid, verdict in found.items():
            named[uid] += verdict.named
    assert all(named[uid] >= 95 for uid in range(4)), named
    assert not any(named[uid] for uid in range(4, 12)), named


def test_one_bad_window_costs_a_proven_hotkey_that_window_alone() -> None:
    run = Run()
    for _ in range(6):
        assert run.play({1: 1.0, 2: 1.0}, (1, 2))[1].named
    assert run.play({1: -1.5, 2: 1.0}, (1, 2))[1].status == "no_gain"
    assert run.play({1: 1.0, 2: 1.0}, (1, 2))[1].named


def test_a_hotkey_that_turns_harmful_is_refused_in_its_first_window() -> None:
    run = Run()
    for _ in range(6):
        assert run.play({1: 1.0, 2: 1.0}, (1, 2))[1].named
    for _ in range(6):
        assert run.play({1: -2.0, 2: 1.0}, (2,))[1].status == "no_gain"


@pytest.mark.parametrize("harm", [2.0, 5.0, 30.0])
def test_harm_on_one_page_is_refused_however_large_its_error(harm: float) -> None:
    """The harm on a single page of 64 is as large as its own standard error."""
    run = Run()
    for _ in range(6):
        assert run.play(dict.fromkeys((1, 2, 3), 1.0), (1, 2, 3))[1].named
    for _ in range(6):
        found = run.play(dict.fromkeys((1, 2, 3), 1.0), (1, 2, 3), spoiled={1: harm + 1.0})
        assert found[1].status == "no_gain", found[1]
        assert found[2].named


@pytest.mark.parametrize("error", [2.0, 5.0])
def test_gains_and_losses_that_cancel_out_keep_no_gate_open(error: float) -> None:
    run = Run()
    for _ in range(6):
        run.play(dict.fromkeys((1, 2, 3), 1.0), (1, 2, 3))
    gains = {1: 0.0, 2: 1.0, 3: 1.0}
    named = [run.play(gains, (1, 2, 3), shaken={1: error})[1].named for _ in range(24)]
    assert sum(named) <= 14, "as many as without an effect on any page"


def test_the_limit_of_errors_is_the_lower_median_of_the_proven() -> None:
    proven = Evidence(gain=GainState(log_ratio=GAIN.bound, holds=True))
    past = Past(evidence={"a": proven, "b": proven, "c": proven, "d": Evidence()})
    assert past.error_limit({}) == past.error_limit({"d": 9.0, "e": 0.0}) == math.inf
    assert past.error_limit({"a": 3.0, "d": 0.0}) == 3.0
    assert past.error_limit({"a": 3.0, "b": 2.0, "d": 0.0}) == 2.0
    assert past.error_limit({"a": 3.0, "b": 2.0, "c": 9.0}) == 3.0


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e-150])
@pytest.mark.parametrize("gain", [-1e39, 0.0, 1e39])
def test_a_scale_next_to_nothing_overflows_nothing(gain: float, scale: float) -> None:
    """A forged log can hold these figures; an audit computes with them."""
    assert math.isfinite(GAIN.log_ratio(gain, 1e39, scale))


def test_where_nothing_gains_nothing_is_named() -> None:
    found = Run().play({1: -1.0, 2: -2.0}, (1, 2))
    assert {verdict.status for verdict in found.values()} == {"no_gain"}
    assert {verdict.gain_log_ratio for verdict in found.values()} == {0.0}


def test_a_gain_that_is_no_number_closes_the_gate_at_once() -> None:
    run = Run()
    for _ in range(6):
        run.play({1: 1.0, 2: 1.0}, (1, 2))
    past = past_of(run.histories, RULES)
    assert past.of("hk1").gain.holds
    owners_S = np.full(NUM_HELD, HELD_OUT)
    measured = measured_from(owners_S, np.full(NUM_HELD, 3.0), {1: np.full(NUM_HELD, math.nan)})
    blank = Verdict(window=6, uid=1, hotkey="hk1", digest="", status=NOT_SCORED)
    (found,) = judge([blank], measured, past, RULES)
    assert found.status == "no_gain"
    after = add_window(run.histories, 6, [found], 32)
    assert past_of(after, RULES).of("hk1").gain == GainState(log_ratio=-GAIN.bound, holds=False)


def test_a_crowd_that_is_never_named_moves_no_scale() -> None:
    alone, crowded = Run(), Run()
    for _ in range(12):
        alone.play({1: 1.0, 2: 1.0}, (1, 2))
        crowded.play({1: 1.0, 2: 1.0} | dict.fromkeys(range(3, 30), -0.5), (1, 2))
    one, other = (past_of(run.histories, RULES).scale({}) for run in (alone, crowded))
    assert other == pytest.approx(one, rel=0.5)
    assert one == pytest.approx(SCALE, rel=0.5)


def test_a_validator_without_memory_names_who_shows_work_and_lets_the_others_wait() -> None:
    """After a lost state: the scale is that of the window itself."""
    found = Run().play({1: 1.0, 2: 1.0, 3: 1.0}, (1, 2))
    assert [found[uid].named for uid in (1, 2, 3)] == [True, True, False]
    assert Past().of("nobody") == Evidence()
