"""Repeating a step: what is tried again, for how long, and what is not."""

import logging

import pytest

from template.base.supervisor import MAX_PAUSE_S, supervise
from template.errors import ChainError, ConfigError, ConsensusError


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


def test_it_stops_when_the_step_says_so() -> None:
    script = Script(True, True, False, True)
    supervise(script, sleep=pytest.fail)
    assert script.calls == 3


@pytest.mark.parametrize("error", [ConfigError("flag"), ConsensusError("root")])
def test_what_no_repetition_mends_ends_it_at_once(error: Exception) -> None:
    script = Script(True, error, True)
    with pytest.raises(type(error)):
        supervise(script, sleep=pytest.fail)
    assert script.calls == 2


@pytest.mark.parametrize("error", [ChainError("gone"), ValueError("ours"), AssertionError()])
def test_other_errors_end_it_after_so_many_in_a_row(error: Exception, caplog) -> None:
    script, pauses = Script(*[error] * 4), []
    with pytest.raises(type(error)), caplog.at_level(logging.ERROR):
        supervise(script, max_failures=3, sleep=pauses.append)
    assert script.calls == 3
    assert pauses == [0.5, 1.0]
    assert [r.getMessage() for r in caplog.records] == [
        f"window failed, {n} in a row" for n in (1, 2, 3)
    ]
    assert all(r.exc_info for r in caplog.records)


def test_a_success_forgives_the_failures_before(caplog) -> None:
    error = ChainError("gone")
    script, pauses = Script(error, error, True, error, error, False), []
    supervise(script, max_failures=3, sleep=pauses.append)
    assert script.calls == 6
    assert pauses == [0.5, 1.0, 0.5, 1.0]


def test_pauses_grow_to_their_bound() -> None:
    pauses: list[float] = []
    with pytest.raises(ChainError):
        supervise(Script(*[ChainError("gone")] * 20), max_failures=20, sleep=pauses.append)
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE_S


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(3)])
def test_being_told_to_stop_is_no_failure(stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        supervise(Script(stop, True), sleep=pytest.fail)
