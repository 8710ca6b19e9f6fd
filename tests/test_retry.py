"""`template.retry`: retried errors, delays and the deadline."""

from collections.abc import Callable

import pytest

from template.retry import RetryClock, retry


class Timeline:
    """A clock that moves only when somebody sleeps or works; remembers every sleep."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self.slept_s: list[float] = []

    def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        self.time_s += duration_s

    def clock(self) -> RetryClock:
        return RetryClock(now_s=lambda: self.time_s, sleep_s=self.sleep)


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[int]]:
    """A function that raises `times` times, then returns "done"; the list grows per call."""
    calls: list[int] = []

    def fn() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error
        return "done"

    return fn, calls


def test_success_needs_no_wait():
    timeline = Timeline()
    fn, calls = failing(0, OSError())
    assert retry(fn, on=(OSError,), deadline_s=9.0, clock=timeline.clock()) == "done"
    assert (len(calls), timeline.slept_s) == (1, [])


def test_delay_doubles_up_to_the_maximum():
    timeline = Timeline()
    fn, calls = failing(5, OSError())
    result = retry(
        fn,
        on=(OSError,),
        deadline_s=60.0,
        first_delay_s=1.0,
        clock=timeline.clock(),
    )
    assert result == "done"
    assert timeline.slept_s == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert len(calls) == 6


def test_last_try_starts_at_the_deadline_and_its_error_leaves_unchanged():
    timeline = Timeline()
    error = OSError("down")
    fn, calls = failing(99, error)
    with pytest.raises(OSError, match="down") as caught:
        retry(fn, on=(OSError,), deadline_s=2.0, first_delay_s=1.5, clock=timeline.clock())
    assert caught.value is error
    assert timeline.slept_s == [1.5, 0.5]
    assert len(calls) == 3


def test_time_spent_inside_the_function_counts():
    timeline = Timeline()

    def slow_failure() -> None:
        timeline.time_s += 10.0
        raise OSError("slow")

    with pytest.raises(OSError, match="slow"):
        retry(slow_failure, on=(OSError,), deadline_s=10.0, clock=timeline.clock())
    assert timeline.slept_s == []


def test_zero_deadline_is_one_try():
    timeline = Timeline()
    fn, calls = failing(1, OSError("down"))
    with pytest.raises(OSError, match="down"):
        retry(fn, on=(OSError,), deadline_s=0.0, clock=timeline.clock())
    assert (len(calls), timeline.slept_s) == (1, [])


def test_unnamed_exception_leaves_at_once_and_a_subclass_is_retried():
    timeline = Timeline()
    fn, calls = failing(1, KeyError("other"))
    with pytest.raises(KeyError):
        retry(fn, on=(OSError,), deadline_s=9.0, clock=timeline.clock())
    assert len(calls) == 1
    fn, calls = failing(1, ConnectionResetError())
    assert retry(fn, on=(OSError,), deadline_s=9.0, clock=timeline.clock()) == "done"
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("deadline_s", "first_delay_s", "max_tries"),
    [(-1.0, 0.2, 5), (1.0, 0.0, 5), (1.0, 6.0, 5), (float("nan"), 0.2, 5), (1.0, 0.2, 0)],
)
def test_senseless_bounds_are_refused(deadline_s: float, first_delay_s: float, max_tries: int):
    with pytest.raises(ValueError, match="retry needs"):
        retry(
            lambda: None,
            on=(OSError,),
            deadline_s=deadline_s,
            first_delay_s=first_delay_s,
            max_tries=max_tries,
        )


@pytest.mark.parametrize("max_tries", [1, 2, 5])
def test_tries_are_bounded_whatever_the_deadline(max_tries: int):
    timeline = Timeline()
    fn, calls = failing(99, OSError("down"))
    with pytest.raises(OSError, match="down"):
        retry(fn, on=(OSError,), deadline_s=1e9, max_tries=max_tries, clock=timeline.clock())
    assert len(calls) == max_tries
    assert len(timeline.slept_s) == max_tries - 1


def test_system_clock_really_waits():
    fn, calls = failing(1, OSError())
    assert retry(fn, on=(OSError,), deadline_s=1.0, first_delay_s=0.001) == "done"
    assert len(calls) == 2
