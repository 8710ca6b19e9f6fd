"""The inner learning rate over a whole run."""

import dataclasses
import itertools

import pytest

from template.training.rates import inner_lr, warm_start_lr


@pytest.fixture
def long_spec(spec):
    training = dataclasses.replace(spec.training, warmup_windows=2.0, inner_steps=10)
    schedule = dataclasses.replace(spec.schedule, num_windows=20)
    return dataclasses.replace(spec, training=training, schedule=schedule)


def _curve(spec) -> list[float]:
    steps = range(spec.training.inner_steps)
    return [inner_lr(spec, w, s) for w in range(spec.schedule.num_windows) for s in steps]


def test_it_rises_through_warm_up_and_falls_ever_after(long_spec) -> None:
    curve, warmup_steps = _curve(long_spec), 20
    assert curve[0] == pytest.approx(long_spec.training.inner_lr / 21)
    assert all(a < b for a, b in itertools.pairwise(curve[: warmup_steps + 1]))
    assert curve[warmup_steps] == long_spec.training.inner_lr == max(curve)
    assert all(a > b for a, b in itertools.pairwise(curve[warmup_steps:]))


def test_it_has_no_jumps(long_spec) -> None:
    training = long_spec.training
    curve = _curve(long_spec)
    largest = max(abs(a - b) for a, b in itertools.pairwise(curve))
    assert largest <= 1.01 * training.inner_lr / 21


def test_the_end_of_the_run_has_the_final_share(long_spec) -> None:
    training, last = long_spec.training, long_spec.schedule.num_windows
    final = training.final_lr_share * training.inner_lr
    assert inner_lr(long_spec, last, 0) == pytest.approx(final)
    assert inner_lr(long_spec, 10 * last, 3) == pytest.approx(final)


def test_windows_and_steps_are_one_axis(long_spec) -> None:
    assert inner_lr(long_spec, 3, 10) == inner_lr(long_spec, 4, 0)
    backwards = [inner_lr(long_spec, w, 0) for w in reversed(range(20))]
    assert backwards[::-1] == [inner_lr(long_spec, w, 0) for w in range(20)]


def test_no_warm_up_starts_at_the_full_rate(long_spec) -> None:
    training = dataclasses.replace(long_spec.training, warmup_windows=0.0)
    spec = dataclasses.replace(long_spec, training=training)
    assert inner_lr(spec, 0, 0) == training.inner_lr


def test_a_run_that_ends_with_its_warm_up_does_not_divide_by_zero(long_spec) -> None:
    schedule = dataclasses.replace(long_spec.schedule, num_windows=2)
    spec = dataclasses.replace(long_spec, schedule=schedule)
    assert inner_lr(spec, 2, 0) == spec.training.inner_lr
    assert inner_lr(spec, 3, 0) == pytest.approx(0.1 * spec.training.inner_lr)


def test_a_warm_start_rises_like_the_run_and_then_stays_at_its_highest_rate(long_spec) -> None:
    curve = [warm_start_lr(long_spec, step) for step in range(60)]
    assert curve[:20] == pytest.approx([inner_lr(long_spec, s // 10, s % 10) for s in range(20)])
    assert curve[20:] == [long_spec.training.inner_lr] * 40
