"""The work test: who trained on its pages shows it, copiers do not, and errors are as stated."""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.work import (
    CUT,
    HELD_OUT,
    MOST_SHOWN,
    QUARTERS,
    WINSOR,
    WorkRules,
    WorkSample,
    WorkState,
    shown_to,
    work_sample,
)

RULES = WorkRules(effect=0.4, error=0.01)
NUM_HELD, NUM_OWN = 64, 8


def _held(num_own: int = NUM_OWN, num_held: int = NUM_HELD) -> np.ndarray:
    return np.arange(num_held + num_own) < num_held


def _gains(rng, held: np.ndarray, effect: float) -> np.ndarray:
    """Of quarters: noise, any mean, and on own sequences more; a whole sequence has a deviation of
    two, and `effect` deviations more.
    """
    noise = math.sqrt(QUARTERS) * rng.normal(size=(held.size, QUARTERS))
    return 2.0 * (noise + effect * ~held[:, None]) + rng.normal()


def _found(gains: np.ndarray, held: np.ndarray) -> WorkSample:
    sample = work_sample(gains, held)
    assert sample is not None
    return sample


def test_a_payload_is_shown_the_held_out_and_its_own_sequences() -> None:
    owners = np.array([HELD_OUT, 3, HELD_OUT, 5, 3])
    assert shown_to(owners, 3).tolist() == [True, True, True, False, True]
    assert shown_to(owners, 9).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("effect", [-0.5, 0.0, 0.5, 1.0, 2.0])
def test_the_effect_is_found_whatever_the_length_of_the_payload(effect: float) -> None:
    rng, held = np.random.default_rng(0), _held(4000, 4000)
    gains = _gains(rng, held, effect)
    found = _found(gains, held)
    assert found.effect == pytest.approx(effect, abs=0.08)
    noise = np.random.default_rng(1).normal(size=100_000)
    cut, unit = np.clip(noise + effect, -CUT, CUT), np.clip(noise, -CUT, CUT).std()
    assert found.page_effect == pytest.approx(cut.mean() / unit, abs=0.08)
    assert found.page_square == pytest.approx((cut**2).mean() / unit**2, rel=0.08)
    assert found.variance == pytest.approx(1 / 4000 + 1 / 4000, rel=0.003)
    longer = _found(1000.0 * gains, held)
    assert longer.effect == pytest.approx(found.effect), "magnitude buys no effect"


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_silences_no_test(poison: float) -> None:
    """On a held-out sequence the gain test refuses the payload; on an own one it is no work."""
    held = _held()
    gains = _gains(np.random.default_rng(2), held, 0.5)
    spoiled = gains.copy()
    spoiled[0, 2] = poison
    assert work_sample(spoiled, held) is None
    spoiled = gains.copy()
    spoiled[-1, 2] = poison
    found, before = _found(spoiled, held), _found(gains, held)
    assert found.effect < before.effect
    spoiled[NUM_HELD:] = poison
    assert _found(spoiled, held).effect == -WINSOR


def test_who_claims_nothing_has_no_sample_and_a_payload_without_change_no_effect() -> None:
    held = _held(0)
    assert work_sample(np.ones((held.size, QUARTERS)), held) is None
    flat = _found(np.ones((NUM_HELD + NUM_OWN, QUARTERS)), _held())
    assert (flat.effect, flat.page_effect, flat.page_square) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="held-out"):
        work_sample(np.ones((9, QUARTERS)), np.arange(9) < 1)
    two = np.arange(9) < 2
    assert _found(np.arange(36.0).reshape(9, QUARTERS), two).variance > 0


@pytest.mark.parametrize("num_held", [8, 24])
def test_the_variance_is_what_figures_of_no_work_have(num_held: int) -> None:
    """Few held-out sequences, from which mean and deviation are both estimated: without the error
    of the deviation the variance would be stated too small.
    """
    rng, held = np.random.default_rng(9), _held(32, num_held)
    samples = [_found(_gains(rng, held, 0.0), held) for _ in range(3000)]
    scores = [sample.effect / math.sqrt(sample.variance) for sample in samples]
    assert np.std(scores) == pytest.approx(1.0, abs=0.06)
    assert abs(np.mean(scores)) < 0.06


def test_the_sample_is_that_of_the_textbook() -> None:
    held = _held(6, 20)
    gains = _gains(np.random.default_rng(10), held, 1.0)
    found = _found(gains, held)
    pages = gains.mean(axis=1)
    shown = (pages[20:] - pages[:20].mean()) / pages[:20].std(ddof=1)
    assert found.effect == pytest.approx(np.clip(shown, -WINSOR, WINSOR).mean())
    own, *quarters = (_cut_by_hand(row) for row in (pages, *gains.T))
    assert found.page_effect == pytest.approx(own.mean())
    assert found.page_square == pytest.approx((own**2).mean())
    assert found.quarter_profile == pytest.approx([row.mean() for row in quarters])
    assert found.variance == pytest.approx((1 / 6 + 1 / 20) * 19 / 17)


def _cut_by_hand(row: np.ndarray) -> np.ndarray:
    """Cut effects of the sequences after the first 20, which are held out."""
    cut = np.clip((row - row[:20].mean()) / row[:20].std(ddof=1), -CUT, CUT)
    return cut[20:] / math.sqrt((cut[:20] ** 2).mean())


def test_one_wild_sequence_counts_for_no_more_than_four_deviations() -> None:
    held = _held(8)
    gains = _gains(np.random.default_rng(4), held, 0.0)
    before = _found(gains, held).effect
    gains[-1, 0] = 1e9
    after = _found(gains, held)
    assert after.effect <= before + 8.0 / 8
    assert after.page_square <= MOST_SHOWN**2
    gains[0] = 1e9  # the deviation of the held-out ones hangs on a single sequence
    found = _found(gains, held)
    assert abs(found.page_effect) <= MOST_SHOWN
    assert found.page_square <= MOST_SHOWN**2


def _sample(effect: float, variance: float = 1 / NUM_OWN + 1 / NUM_HELD) -> WorkSample:
    return WorkSample(
        effect=effect,
        variance=variance,
        page_effect=effect,
        page_square=1 + effect * effect,
    )


def test_the_ratio_is_that_of_two_normal_densities() -> None:
    def density(x: float, mean: float, variance: float) -> float:
        return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    for x in (-0.7, 0.0, 0.2, 1.4):
        expected = math.log(density(x, 0.4, 0.14) / density(x, 0.0, 0.14))
        assert _sample(x, 0.14).log_likelihood_ratio(0.4) == pytest.approx(expected)


def _state(effects: Iterable[float]) -> WorkState:
    state = WorkState()
    for effect in effects:
        state = state.after(_sample(effect), RULES)
    return state


def test_the_gate_opens_at_the_bound_and_closes_when_the_evidence_is_gone() -> None:
    one = _sample(0.2 + RULES.bound * 0.1 / 0.4, 0.1)  # worth the bound to the last digits
    assert one.log_likelihood_ratio(0.4) == pytest.approx(RULES.bound)
    assert not WorkState().holds
    opened = WorkState().after(_sample(5.0), RULES)
    assert opened == WorkState(log_ratio=RULES.bound, holds=True)
    against = _sample(-0.2, 0.1)
    worth = against.log_likelihood_ratio(0.4)
    state, steps = opened, 0
    while state.holds:
        state, steps = state.after(against, RULES), steps + 1
    assert steps == math.ceil(RULES.bound / -worth)
    assert not state.after(_sample(0.3), RULES).holds, "it takes the bound again"
    found_out = _state([-5.0] * 3)
    assert found_out == WorkState(log_ratio=-RULES.bound, holds=False)


@pytest.mark.parametrize(("width", "effect"), [(1, 0.4), (4, 0.2), (16, 0.1)])
def test_less_is_expected_of_wider_payloads_by_the_root(width: int, effect: float) -> None:
    assert RULES.effect_at(width) == pytest.approx(effect)
    sample = replace(_sample(0.3), width=width)
    found = WorkState().after(sample, RULES).log_ratio
    assert found == pytest.approx(sample.log_likelihood_ratio(effect))


def test_an_honest_wide_miner_keeps_the_gate_and_one_without_work_loses_it() -> None:
    """Width 4: an effect of 0.8 at width 1 is 0.28 there; 96 own pages and 64 held out."""
    rng, deviation = np.random.default_rng(0), math.sqrt((1 / 96 + 1 / 64) * 63 / 61)
    closed, opened_after, lost_after = [], [], []
    for _ in range(200):
        holds, state = [], WorkState()
        for x in rng.normal(0.28, deviation, size=64):
            state = _after_wide(state, float(x), deviation)
            holds.append(state.holds)
        opened_after.append(holds.index(True))
        closed.append(1 - np.mean(holds[opened_after[-1] :]))
        state, windows = WorkState(log_ratio=RULES.bound, holds=True), 0
        while state.holds:
            state = _after_wide(state, float(rng.normal(0.0, deviation)), deviation)
            windows += 1
        lost_after.append(windows)
    assert np.mean(closed) < 0.02
    assert np.median(opened_after) <= 5
    assert 3 <= np.median(lost_after) <= 9


def _after_wide(state: WorkState, effect: float, deviation: float) -> WorkState:
    return state.after(replace(_sample(effect, deviation**2), width=4), RULES)


def test_error_rates_are_as_stated() -> None:
    """2,000 careers of 20 evaluations each: at the effect that the rules assume, and at none."""
    rng = np.random.default_rng(5)
    assert _accepted(rng, 0.0) <= 0.01
    assert _accepted(rng, 0.6) >= 0.99
    assert _accepted(rng, -0.2) <= 0.002


def _accepted(rng: np.random.Generator, effect: float) -> float:
    """Share of 2,000 careers of 20 evaluations that ever open the gate."""
    variance = 1 / NUM_OWN + 1 / NUM_HELD
    ever = 0
    for row in rng.normal(effect, math.sqrt(variance), size=(2000, 20)):
        state = WorkState()
        for x in row:
            state = state.after(_sample(float(x), variance), RULES)
            if state.holds:
                ever += 1
                break
    return ever / 2000


@settings(max_examples=60)
@given(st.lists(st.floats(-10, 10), max_size=40))
def test_the_state_stays_within_its_bounds(effects: list[float]) -> None:
    state = _state(effects)
    assert -RULES.bound <= state.log_ratio <= RULES.bound
    if state.log_ratio <= 0:
        assert not state.holds
