"""The inner learning rate over a whole run."""

import dataclasses
import itertools

import pytest

from template.training.rates import inner_lr, warm_start_lr


@pytest.fixture
def long_spec(spec):
    training = dataclasses.replace(
        spec.training, warmup_windows=2.0, inner_steps=10, decay_share=1.0
    )
    schedule = dataclasses.replace(spec.schedule, num_windows=20)
    return dataclasses.replace(spec, training=training, schedule=schedule)


def _with(spec, *, num_windows: int = 20, **training):
    return dataclasses.replace(
        spec,
        training=dataclasses.replace(spec.training, **training),
        schedule=dataclasses.replace(spec.schedule, num_windows=num_windows),
    )


def _curve(spec) -> list[float]:
    steps = range(spec.training.inner_steps)
    return [inner_lr(spec, w, s) for w in range(spec.schedule.num_windows) for s in steps]


def test_it_rises_through_warm_up_and_falls_ever_after(long_spec) -> None:
    curve, warmup_steps = _curve(long_spec), 20
    assert curve[0] == pytest.approx(long_spec.training.inner_lr / 21)
    assert all(a < b for a, b in itertools.pairwise(curve[: warmup_steps + 1]))
    assert curve[warmup_steps] == long_spec.training.inner_lr == max(curve)
    assert all(a > b for a, b in itertools.pairwise(curve[warmup_steps:]))


def test_three_phases(long_spec) -> None:
    """Rises over two windows, stays for ten, falls over the last eight."""
    spec = _with(long_spec, decay_share=0.4)
    curve, peak = _curve(spec), spec.training.inner_lr
    assert all(a < b for a, b in itertools.pairwise(curve[:21]))
    assert curve[20:121] == [peak] * 101
    assert all(a > b for a, b in itertools.pairwise(curve[120:]))
    assert inner_lr(spec, 16, 0) == pytest.approx(peak * (0.1 + 0.9 * 0.5)), "half of the way"


@pytest.mark.parametrize("num_windows", [20, 21, 200, 500])
def test_before_the_decay_nothing_depends_on_the_length_of_the_run(long_spec, num_windows) -> None:
    short = _with(long_spec, decay_share=0.4)
    assert _curve(_with(short, num_windows=num_windows))[:120] == _curve(short)[:120]


def test_without_a_decay_the_rate_never_falls(long_spec) -> None:
    spec = _with(long_spec, decay_share=0.0)
    assert _curve(spec)[20:] == [spec.training.inner_lr] * 180
    assert inner_lr(spec, 10**6, 0) == spec.training.inner_lr


@pytest.mark.parametrize("decay_share", [0.4, 1.0])
def test_it_has_no_jumps(long_spec, decay_share: float) -> None:
    long_spec = _with(long_spec, decay_share=decay_share)
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
