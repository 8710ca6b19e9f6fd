"""Gains: the paired reference, what is not finite, and relative gains that harm cannot move."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.gain import WORST_RELATIVE_GAIN as WORST
from evaluation.gain import Gain, gain_scale, paired_gain, relative_gains


def test_paired_gain_against_the_textbook() -> None:
    generator = np.random.default_rng(1)
    before = generator.normal(3, 1, 200)
    after = before - generator.normal(0.01, 0.02, 200)
    gain = paired_gain(before, after)
    differences = (before - after).tolist()
    assert gain.mean == pytest.approx(statistics.fmean(differences), rel=1e-12)
    assert gain.standard_error == pytest.approx(statistics.stdev(differences) / 200**0.5, rel=1e-9)
    assert gain.num_sequences == 200
    assert gain.lower_bound(2.0) == gain.mean - 2 * gain.standard_error
    assert gain.mean > 0
    assert paired_gain(after, before).mean == -gain.mean


def test_pairing_removes_the_variance_between_sequences() -> None:
    before = np.array([1.0, 5.0, 2.5, 9.0])
    gain = paired_gain(before, before - 0.25)
    assert gain == Gain(mean=0.25, standard_error=0.0, num_sequences=4)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_the_worst_gain(poison: float) -> None:
    after = np.array([1.0, poison, 1.0])
    gain = paired_gain(np.full(3, 2.0), after)
    assert gain.mean == -math.inf
    assert gain.lower_bound(2.0) == -math.inf
    assert gain.num_sequences == 3


@pytest.mark.parametrize(
    ("before", "after"),
    [((1,), (1,)), ((0,), (0,)), ((3,), (4,)), ((2, 2), (2, 2))],
)
def test_anything_but_two_equal_vectors_is_refused(
    before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="two equal vectors"):
        paired_gain(np.zeros(before), np.zeros(after))


@pytest.mark.parametrize(
    ("gains", "scale"),
    [
        ([], 0.0),
        ([0.0, 0.0], 0.0),
        ([3.0], 3.0),
        ([3.0, 4.0], math.sqrt(12.5)),
        ([3.0, 4.0, -1000.0, 0.0], math.sqrt(12.5)),
        ([3.0, math.nan, -math.inf, math.inf], 3.0),
        ([-3.0, -4.0], 0.0),
        ([-math.inf], 0.0),
    ],
)
def test_gain_scale(gains: list[float], scale: float) -> None:
    assert gain_scale(gains) == pytest.approx(scale)


def test_relative_gains_are_gains_over_the_scale() -> None:
    relative = relative_gains({1: 3.0, 2: 4.0, 3: -1.0})
    scale = math.sqrt(12.5)
    assert relative == pytest.approx({1: 3 / scale, 2: 4 / scale, 3: -1 / scale})


@pytest.mark.parametrize("factor", [1e-6, 0.01, 1e6])
def test_relative_gains_do_not_depend_on_the_unit(factor: float) -> None:
    gains = {1: 3.0, 2: 4.0, 3: -1.0, 4: None}
    scaled = {uid: None if g is None else g * factor for uid, g in gains.items()}
    assert relative_gains(scaled) == pytest.approx(relative_gains(gains))


def test_withholding_is_the_worst_place() -> None:
    relative = relative_gains({1: 1.0, 2: None, 3: -0.5, 4: -50.0, 5: -math.inf})
    assert relative == {1: 1.0, 2: WORST, 3: -0.5, 4: WORST, 5: WORST}


@pytest.mark.parametrize(
    ("gains", "relative"),
    [
        ({}, {}),
        ({1: None}, {1: -1.0}),
        ({1: None, 2: None}, {1: -1.0, 2: -1.0}),
        ({1: -math.inf, 2: None}, {1: 0.0, 2: -1.0}),
        ({1: -3.0, 2: -0.1, 3: None}, {1: 0.0, 2: 0.0, 3: -1.0}),
        ({1: 0.0, 2: 0.0, 3: None}, {1: 0.0, 2: 0.0, 3: -1.0}),
    ],
)
def test_windows_without_any_gain(
    gains: dict[int, float | None], relative: dict[int, float]
) -> None:
    assert relative_gains(gains) == relative


gains_of_any_kind = st.dictionaries(
    st.integers(0, 255), st.none() | st.floats(-1e30, 1e30) | st.just(-math.inf), max_size=12
)


@settings(deadline=None)
@given(gains_of_any_kind)
def test_any_gains_keep_their_order_and_withholding_never_beats_delivering(
    gains: dict[int, float | None],
) -> None:
    relative = relative_gains(gains)
    assert relative.keys() == gains.keys()
    delivered = {uid: gain for uid, gain in gains.items() if gain is not None}
    by_gain = sorted(delivered, key=lambda uid: delivered[uid])
    ordered = [relative[uid] for uid in by_gain]
    assert ordered == sorted(ordered)
    assert all(math.isfinite(value) and value >= WORST for value in relative.values())
    assert all(relative[uid] == WORST for uid in gains.keys() - delivered.keys())


@pytest.mark.parametrize("harm", [-1.0, -30.0, -1e9, -math.inf, None])
def test_a_harmful_payload_shifts_nobody_elses_relative_gain(harm: float | None) -> None:
    """Were harm part of the scale, -30 would make honest gains too small to be named."""
    honest: dict[int, float | None] = {1: 0.9, 2: 1.0, 3: 1.1, 4: None}
    with_harm = relative_gains(honest | {9: harm})
    assert {uid: with_harm[uid] for uid in honest} == relative_gains(honest)
