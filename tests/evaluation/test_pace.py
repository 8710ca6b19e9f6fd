"""The opinion of alpha against a naive count, and at its boundaries."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import pace
from evaluation.judge import Measured
from evaluation.pace import PaceSample, add_pace, pace_of, pace_sample
from evaluation.work import HELD_OUT
from tests.support.judged import quartered

numbers = st.floats(-1.0, 1.0)
samples = st.builds(
    PaceSample,
    exponent=st.integers(-1, 1),
    mean=numbers,
    standard_error=st.floats(0.0, 1.0),
) | st.builds(PaceSample, exponent=st.integers(-1, 1))


def measured(half_way: list[float] | None, at_theta: list[float]) -> Measured:
    """Two claimed pages stand between the held-out pages and behind them."""
    owners = [HELD_OUT, 7, *[HELD_OUT] * (len(at_theta) - 1), 7]
    before = [at_theta[0], 100.0, *at_theta[1:], 100.0]
    return Measured(
        owners_S=np.array(owners),
        before_SQ=quartered(np.array(before)),
        after_KQ={},
        half_way_H=None if half_way is None else np.array(half_way),
    )


def test_a_sample_is_the_paired_difference_on_held_out_pages() -> None:
    half_way, at_theta = [3.0, 2.5, 2.0], [2.9, 2.6, 1.8]
    difference = [0.1, -0.1, 0.2]
    sample = pace_sample(5, measured(half_way, at_theta))
    assert sample.exponent == 5
    assert sample.mean == pytest.approx(statistics.mean(difference))
    assert sample.standard_error == pytest.approx(statistics.stdev(difference) / math.sqrt(3))


@pytest.mark.parametrize("half_way", [None, [math.inf, 2.0], [math.nan, 2.0]])
def test_without_finite_losses_half_way_there_is_no_sample(half_way) -> None:
    assert pace_sample(5, measured(half_way, [2.0, 2.0])) == PaceSample(exponent=5)


def test_a_model_that_is_lost_gives_no_sample() -> None:
    assert pace_sample(0, measured([2.0, 2.0], [2.0, math.inf])) == PaceSample(exponent=0)


@given(st.dictionaries(st.integers(0, 40), samples, max_size=8))
def test_the_opinion_is_that_of_the_windows_since_the_last_change(paces) -> None:
    if not paces or paces[max(paces)].mean is None:
        assert pace_of(paces) == 0
        return
    total, squares = [], []
    for window in sorted(paces, reverse=True):
        if paces[window].exponent != paces[max(paces)].exponent:
            break
        if paces[window].mean is not None:
            total.append(paces[window].mean)
            squares.append(paces[window].standard_error ** 2)
    mean, bound = math.fsum(total), pace.PACE_Z * math.sqrt(math.fsum(squares))
    expected = 0 if mean == 0 or abs(mean) < bound else int(math.copysign(1, mean))
    assert pace_of(paces) == expected


@pytest.mark.parametrize(
    ("mean", "error", "expected"),
    [
        (0.2, 0.1, 1),
        (-0.2, 0.1, -1),
        (math.nextafter(0.2, 0), 0.1, 0),
        (math.nextafter(-0.2, 0), 0.1, 0),
        (1e-9, 0.0, 1),
        (0.0, 0.0, 0),
    ],
)
def test_two_standard_errors_are_enough_and_less_is_not(mean, error, expected) -> None:
    assert pace_of({3: PaceSample(exponent=0, mean=mean, standard_error=error)}) == expected


def test_weak_evidence_adds_up_and_a_change_of_alpha_starts_anew() -> None:
    weak = PaceSample(exponent=0, mean=0.1, standard_error=0.1)
    paces: dict[int, PaceSample] = {}
    opinions = []
    for window in range(4):
        paces = add_pace(paces, window, weak, 32)
        opinions.append(pace_of(paces))
    assert opinions == [0, 0, 0, 1]
    paces = add_pace(paces, 4, PaceSample(exponent=1), 32)
    assert pace_of(paces) == 0
    paces = add_pace(paces, 5, PaceSample(exponent=0, mean=0.1, standard_error=0.1), 32)
    assert pace_of(paces) == 0, "the same alpha as before, and another time"


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 8))
def test_no_more_than_the_last_windows_are_remembered(gaps, length) -> None:
    paces: dict[int, PaceSample] = {}
    window = 0
    for gap in gaps:
        window += 1 + gap
        paces = add_pace(paces, window, PaceSample(exponent=0), length)
        assert all(window - length < each <= window for each in paces)
        assert window in paces


def test_a_window_without_a_measurement_has_no_opinion() -> None:
    """Evidence once voted for does not vote again, nor after the last window of votes."""
    strong = PaceSample(exponent=0, mean=0.2, standard_error=0.1)
    assert pace_of({3: strong}) == 1
    assert pace_of({3: strong, 4: PaceSample(exponent=0)}) == 0
    assert pace_of({3: strong, 4: PaceSample(exponent=0), 5: strong}) == 1


def test_no_windows_are_no_opinion() -> None:
    assert pace_of({}) == 0
