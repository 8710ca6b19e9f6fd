"""The work test: who trained on its pages shows it, copiers do not, and errors are as stated."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.work import (
    HELD_OUT,
    MIN_OTHERS,
    WorkRules,
    WorkSample,
    WorkState,
    _median_of_others,
    work_samples,
)

RULES = WorkRules(effect=0.4, error=0.01)
NUM_HELD, NUM_OWN = 64, 8


def _owners(num_miners: int, num_own: int = NUM_OWN, num_held: int = NUM_HELD) -> np.ndarray:
    return np.concatenate([np.full(num_held, HELD_OUT), np.repeat(np.arange(num_miners), num_own)])


def _gains(rng, owners: np.ndarray, effects: dict[int, float]) -> np.ndarray:
    """Rows differ in mean, columns in mean; noise of one; `effects` on the own sequences."""
    num = len(effects)
    gains = rng.normal(size=(num, owners.size)) + 3.0 + rng.uniform(0, 2, size=(num, 1))
    gains += 5.0 * rng.normal(size=owners.size)
    for row, (uid, effect) in enumerate(effects.items()):
        gains[row, owners == uid] += effect
    return gains


def test_the_effect_is_found_whatever_rows_and_columns_are() -> None:
    rng, owners = np.random.default_rng(0), _owners(5, 2000, 2000)
    effects = {0: 0.0, 1: 0.5, 2: 1.0, 3: -0.5, 4: 2.0}
    found = work_samples(_gains(rng, owners, effects), np.arange(5), owners)
    # The lower median of four others adds a third or so to the variance of what is left.
    scale = 1 / math.sqrt(1 + 0.36)
    for uid, effect in effects.items():
        assert found[uid].effect == pytest.approx(scale * effect, abs=0.12), uid
    assert found[1].variance == pytest.approx(1 / 2000 + 1 / 2000, rel=0.003)


def test_a_loud_neighbour_does_not_hide_honest_work() -> None:
    """A payload of a thousand times the gains, that also trained on another's pages: it takes
    no more than half of the effect of its victim, and nothing of the others'.
    """
    rng, owners = np.random.default_rng(1), _owners(5, 2000, 2000)
    gains = _gains(rng, owners, dict.fromkeys(range(5), 0.8))
    quiet = work_samples(gains, np.arange(5), owners)
    gains[4] *= 1000.0
    gains[4, owners == 0] += 5000.0
    loud = work_samples(gains, np.arange(5), owners)
    assert quiet[0].effect > loud[0].effect > 0.5 * quiet[0].effect
    for uid in range(1, 4):
        assert loud[uid].effect == pytest.approx(quiet[uid].effect, abs=0.1)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_shift_nobody(poison: float) -> None:
    rng, owners = np.random.default_rng(2), _owners(4)
    gains = _gains(rng, owners, dict.fromkeys(range(4), 0.5))
    three = work_samples(gains[:3], np.arange(3), owners)
    gains[3, 70] = poison
    found = work_samples(gains, np.arange(4), owners)
    assert found == three
    assert set(found) == {0, 1, 2}


def test_who_claims_nothing_has_no_sample_and_a_lone_payload_has_one() -> None:
    rng = np.random.default_rng(3)
    owners = _owners(1, 400)
    gains = rng.normal(size=(1, owners.size)) + 1.0
    gains[0, owners == 0] += 0.7
    (sample,) = work_samples(gains, np.array([0]), owners).values()
    assert sample.effect == pytest.approx(0.7, abs=0.3)
    assert work_samples(gains, np.array([5]), owners) == {}
    flat = work_samples(np.ones((1, owners.size)), np.array([0]), owners)
    assert flat[0].effect == 0.0, "a payload that changes nothing shows no work"
    with pytest.raises(ValueError, match="held-out"):
        work_samples(gains, np.array([0]), np.zeros(owners.size, dtype=np.int64))


@pytest.mark.parametrize("num_held", [8, 24])
def test_the_variance_is_what_figures_of_no_work_have(num_held: int) -> None:
    """Few held-out sequences, from which mean, slope and deviation are all estimated: without the
    error of slope and deviation the variance would be stated a third or an eleventh too small.
    """
    rng, num_own = np.random.default_rng(9), 32
    owners = _owners(1, num_own, num_held)
    scores = []
    for _ in range(2000):
        gains = _gains(rng, owners, dict.fromkeys(range(5), 0.0))
        gains[0] -= 5.0 * rng.uniform(size=1) * gains[1]
        (sample,) = work_samples(gains, np.arange(5), owners).values()
        scores.append(sample.effect / math.sqrt(sample.variance))
    assert np.std(scores) == pytest.approx(1.0, abs=0.05)
    assert -0.12 < np.mean(scores) < 0.05, "of so few, a skewed column takes a little too much"


def test_the_variance_is_that_of_the_textbook() -> None:
    """Of a prediction by regression on one column: numpy's own least squares, and the leverage."""
    rng, owners = np.random.default_rng(10), _owners(1, 6, 20)
    gains = _gains(rng, owners, dict.fromkeys(range(4), 0.0))
    (sample,) = work_samples(gains, np.arange(4), owners).values()
    column = np.median(gains[1:] - gains[1:, :20].mean(axis=1, keepdims=True), axis=0)
    design = np.stack([np.ones(20), column[:20]], axis=1)
    (level, slope), (square,), _, _ = np.linalg.lstsq(design, gains[0, :20])
    deviation = math.sqrt(square / 18)
    left = gains[0, 20:] - level - slope * column[20:]
    assert sample.effect == pytest.approx(np.clip(left / deviation, -4, 4).mean())
    x = np.array([1.0, column[20:].mean()])
    leverage = float(x @ np.linalg.inv(design.T @ design) @ x)
    assert sample.variance == pytest.approx((1 / 6 + leverage) * 18 / 16)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25])
def test_a_short_payload_shows_its_work_as_well_as_a_long_one(scale: float) -> None:
    """It gains less of everything: the column must not be taken off in full."""
    rng, owners = np.random.default_rng(6), _owners(6, 2000, 2000)
    column = 2.0 * rng.normal(size=owners.size)
    gains = 3.0 + column + rng.normal(size=(6, owners.size))
    gains[5] = scale * (3.0 + column + rng.normal(size=owners.size) + 0.8 * (owners == 5))
    found = work_samples(gains, np.arange(6), owners)
    assert found[5].effect == pytest.approx(0.75, abs=0.1)
    assert abs(found[0].effect) < 0.1


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.booleans())
def test_the_column_is_the_lower_median_of_the_others(num: int, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num, 20))
    rows = np.round(rows) if ties else rows
    for row in range(num):
        others = np.sort(np.delete(rows, row, axis=0), axis=0)
        expected = others[(num - 2) // 2] if num > MIN_OTHERS else np.zeros(20)
        assert (_median_of_others(np.sort(rows, axis=0), rows[row]) == expected).all()
    expected = np.sort(rows, axis=0)[(num - 1) // 2] if num >= MIN_OTHERS else np.zeros(20)
    assert (_median_of_others(np.sort(rows, axis=0), None) == expected).all()


def test_with_one_rival_nobody_can_be_framed() -> None:
    """Two payloads: who trains on the other's pages takes nothing from it."""
    rng, owners = np.random.default_rng(7), _owners(2, 2000, 2000)
    gains = _gains(rng, owners, {0: 0.8, 1: 0.8})
    gains -= gains.mean(axis=0) * 0.9
    before = work_samples(gains, np.arange(2), owners)[0].effect
    gains[1, owners == 0] += 5.0
    assert work_samples(gains, np.arange(2), owners)[0].effect == before


def test_one_wild_sequence_counts_for_no_more_than_four_deviations() -> None:
    owners = _owners(1, 8)
    gains = np.random.default_rng(4).normal(size=(1, owners.size)) + 1.0
    before = work_samples(gains, np.array([0]), owners)[0].effect
    gains[0, -1] = 1e9
    assert work_samples(gains, np.array([0]), owners)[0].effect <= before + 8.0 / 8


def _sample(effect: float, variance: float = 1 / NUM_OWN + 1 / NUM_HELD) -> WorkSample:
    return WorkSample(effect=effect, variance=variance, square=1 + effect * effect)


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


def test_error_rates_are_as_stated() -> None:
    """2,000 careers of 20 evaluations each: at the effect that the rules assume, and at none."""
    rng = np.random.default_rng(5)
    deviation = math.sqrt(1 / NUM_OWN + 1 / NUM_HELD)

    def accepted(effect: float) -> float:
        draws = rng.normal(effect, deviation, size=(2000, 20))
        careers = ([_sample(float(x)) for x in row] for row in draws)
        ever = 0
        for career in careers:
            state = WorkState()
            for sample in career:
                state = state.after(sample, RULES)
                if state.holds:
                    ever += 1
                    break
        return ever / 2000

    assert accepted(0.0) <= 0.01
    assert accepted(0.6) >= 0.99
    assert accepted(-0.2) <= 0.002


@settings(max_examples=60)
@given(st.lists(st.floats(-10, 10), max_size=40))
def test_the_state_stays_within_its_bounds(effects: list[float]) -> None:
    state = _state(effects)
    assert -RULES.bound <= state.log_ratio <= RULES.bound
    if state.log_ratio <= 0:
        assert not state.holds


def test_copies_take_no_effect_off_the_pages_of_their_author() -> None:
    """Eight copies among twelve payloads: unless they are known, their median is the author's own
    row, and nothing of the effect is left.
    """
    rng, owners, everybody = np.random.default_rng(5), _owners(12, 400, 400), np.arange(12)
    gains = _gains(rng, owners, dict.fromkeys(range(12), 0.8))
    alone = work_samples(gains[:4], everybody[:4], owners)
    gains[4:] = gains[0] + 0.01 * rng.normal(size=(8, owners.size))
    group = {0, *range(4, 12)}
    alike = {uid: tuple(group - {uid}) for uid in group}
    fooled = work_samples(gains, everybody, owners)
    found = work_samples(gains, everybody, owners, alike)
    assert abs(fooled[0].effect) < 0.3
    assert found[0] == alone[0]
    assert found[0].effect > 0.5
    for copy in range(4, 12):
        assert abs(found[copy].effect) < 0.2, "no work on its own pages"
    assert found[1] == fooled[1], "a stranger to the group"


@pytest.mark.parametrize("seed", range(5))
def test_the_others_of_payloads_alike_are_those_of_the_rule_read_out(seed: int) -> None:
    """Against the samples of the window without the payloads alike; some are harmful."""
    rng, owners = np.random.default_rng(seed), _owners(9)
    gains = _gains(rng, owners, dict.fromkeys(range(9), 0.4))
    gains[rng.integers(9)] -= 20.0
    alike: dict[int, set[int]] = {uid: set() for uid in range(9)}
    for one, other in rng.integers(0, 9, (6, 2)).tolist():
        if one != other:
            alike[one].add(other)
            alike[other].add(one)
    found = work_samples(gains, np.arange(9), owners, alike)
    for uid in range(9):
        kept = [other for other in range(9) if other not in alike[uid]]
        alone = work_samples(gains[kept], np.array(kept), owners)
        assert found[uid] == alone[uid]
