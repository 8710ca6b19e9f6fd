"""Repeating a step: what is tried again, for how long, and what is not."""

import logging

import pytest

from template.base.supervisor import MAX_PAUSE_S, Crashed, supervise
from template.errors import (
    ChainError,
    ConfigError,
    PayloadError,
    StateError,
    Unavailable,
)


class Script:
    """A step that raises or returns what it was given, one entry a call."""

    def __init__(self, *entries: object) -> None:
        self.entries = list(entries)
        self.calls = 0

    def __call__(self) -> bool:
        entry = self.entries[self.calls]
        self.calls += 1
        if isinstance(entry, BaseException):
            raise entry
        return bool(entry)


def _no_sleep(seconds: float) -> None:
    pytest.fail(f"slept for {seconds} s")


def test_it_stops_when_the_step_says_so() -> None:
    script = Script(True, True, False, True)
    supervise(script, sleep=_no_sleep)
    assert script.calls == 3


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("flag"),
        StateError("disk"),
        ChainError("silent for too long", is_final=True),
    ],
)
def test_what_no_repetition_mends_ends_it_at_once(error: Exception) -> None:
    script = Script(True, error, True)
    with pytest.raises(type(error)):
        supervise(script, sleep=_no_sleep)
    assert script.calls == 2


@pytest.mark.parametrize("error", [ValueError("ours"), AssertionError()])
def test_defects_are_logged_whole_and_end_it_after_so_many_in_a_row(
    error: Exception, caplog
) -> None:
    script = Script(*[error] * 4)
    pauses: list[float] = []
    with pytest.raises(Crashed, match=type(error).__name__), caplog.at_level(logging.ERROR):
        supervise(script, max_failures=3, sleep=pauses.append)
    assert script.calls == 3
    assert pauses == [0.5, 1.0]
    assert [r.getMessage() for r in caplog.records] == [
        f"window failed, {n} in a row" for n in (1, 2, 3)
    ]
    assert all(r.exc_info for r in caplog.records)


class Time:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def now_s(self) -> float:
        return sum(self.pauses)


def test_what_may_pass_is_told_once_and_tried_until_its_time_is_up(caplog) -> None:
    time, script = Time(), Script(*[Unavailable("the bucket is away")] * 100)
    with pytest.raises(Unavailable), caplog.at_level(logging.WARNING):
        supervise(
            script, max_failures=3, give_up_s=60.0, sleep=time.pauses.append, now_s=time.now_s
        )
    assert 60.0 <= time.now_s() <= 60.0 + MAX_PAUSE_S
    assert script.calls == len(time.pauses) + 1 > 3
    first, last = [r.getMessage() for r in caplog.records]
    assert first == "the bucket is away; retrying for up to 1 minutes"
    assert last == "gave up after 1 minutes of errors"
    assert not any(r.exc_info for r in caplog.records)


def test_another_cause_is_told_and_so_is_the_end_of_the_trouble(caplog) -> None:
    errors = [Unavailable("bucket"), Unavailable("bucket"), ChainError("refused"), True, False]
    time = Time()
    with caplog.at_level(logging.WARNING):
        supervise(Script(*errors), sleep=time.pauses.append, now_s=time.now_s)
    said = [r.getMessage() for r in caplog.records]
    assert [text.split()[0].strip(";") for text in said] == ["bucket", "refused", "recovered"]


@pytest.mark.parametrize("error", [ChainError("gone"), ValueError("ours")])
def test_a_success_forgives_the_failures_before(error: Exception) -> None:
    script = Script(error, error, True, error, error, False)
    pauses: list[float] = []
    supervise(script, max_failures=3, sleep=pauses.append)
    assert script.calls == 6
    assert pauses == [0.5, 1.0, 0.5, 1.0]


@pytest.mark.parametrize("error", [PayloadError("magic"), ValueError("ours")])
def test_pauses_grow_to_their_bound(error: Exception) -> None:
    time = Time()
    with pytest.raises((PayloadError, Crashed)):
        supervise(
            Script(*[error] * 20),
            max_failures=20,
            give_up_s=150.0,
            sleep=time.pauses.append,
            now_s=time.now_s,
        )
    assert time.pauses == sorted(time.pauses)
    assert time.pauses[-1] == MAX_PAUSE_S


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(3)])
def test_being_told_to_stop_is_no_failure(stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        supervise(Script(stop, True), sleep=_no_sleep)
