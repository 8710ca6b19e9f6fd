"""Log lines about an unreachable or slow endpoint: once, with the remedy, without secrets."""

import logging

import pytest

from template.chain.health import (
    REMINDER_S,
    EndpointHealth,
    Patience,
    format_duration,
    redact_endpoint,
)

TOKEN = "wss://user:hunter2@node.example:443/hunter3?key=hunter4"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def now_s(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock, caplog: pytest.LogCaptureFixture) -> EndpointHealth:
    caplog.set_level(logging.WARNING)
    patience = Patience(outage_s=1800, slow_read_s=5.0)
    return EndpointHealth(TOKEN, patience, now_s=clock.now_s)


def test_an_outage_is_two_lines(health: EndpointHealth, clock: Clock, caplog) -> None:
    for _ in range(50):
        health.note_failure("refused")
        clock.now += 5
    health.note_answer(0.1)
    health.note_answer(0.1)
    first, last = caplog.messages
    assert first.startswith("the chain endpoint wss://node.example:443 does not answer (refused)")
    assert "up to 30 min" in first
    assert "--subtensor.network" in first
    assert last == "the chain endpoint wss://node.example:443 answers again after 4 min"
    health.note_failure("refused")
    assert len(caplog.messages) == 3


def test_a_slow_endpoint_is_told_now_and_then(health, clock: Clock, caplog) -> None:
    for _ in range(10):
        health.note_answer(7.25)
        health.note_answer(0.2)
    (line,) = caplog.messages
    assert "is slow: 7.2 s for one read" in line
    assert "--subtensor.network" in line
    clock.now += REMINDER_S
    health.note_answer(4.9)
    assert len(caplog.messages) == 1
    health.note_answer(5.0)
    assert len(caplog.messages) == 2
    assert "hunter" not in caplog.text


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("finney", "finney"),
        (TOKEN, "wss://node.example:443"),
        ("ws://127.0.0.1:9944", "ws://127.0.0.1:9944"),
        ("ws://[::1]:9944/x", "ws://[::1]:9944"),
        ("wss://entry.example", "wss://entry.example"),
    ],
)
def test_an_endpoint_is_shown_without_what_may_be_a_token(endpoint: str, shown: str) -> None:
    assert redact_endpoint(endpoint) == shown


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (119, "119 s"), (1800, "30 min")])
def test_durations_are_for_readers(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
