"""Which endpoint is in use: turns, the first answer after a change, and standing numbers."""

import pytest

from template.chain.endpoints import Endpoints, Standstill

A, B, C = "ws://a:1/hunter1", "wss://u:hunter2@b:2", "finney"


@pytest.fixture
def endpoints() -> Endpoints:
    return Endpoints((A, B, C))


def test_nothing_named_is_an_error() -> None:
    with pytest.raises(ValueError, match="no chain endpoint"):
        Endpoints(())


def test_one_failure_is_a_broken_socket_and_two_are_the_endpoints(
    endpoints: Endpoints, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        endpoints.note_failure(A, "cut", is_silent=False)
        assert not endpoints.note_answer(A)
    assert (endpoints.current, endpoints.others) == (A, (B, C))
    for _ in range(2):
        endpoints.note_failure(A, "refused", is_silent=False)
    assert (endpoints.current, endpoints.others) == (B, (C, A))
    endpoints.note_failure(B, "no answer within 30 s", is_silent=True)
    assert endpoints.current == C
    assert caplog.messages == [], "nobody has answered yet"
    assert endpoints.note_answer(C)
    assert caplog.messages == [
        "the chain endpoint finney is used from now on instead of ws://a:1 (it does not answer: "
        "refused)"
    ]
    assert not endpoints.note_answer(C)


def test_late_news_of_an_endpoint_left_changes_nothing(endpoints: Endpoints) -> None:
    endpoints.take(B, "why not")
    for _ in range(5):
        endpoints.note_failure(A, "late", is_silent=True)
    assert not endpoints.note_answer(A)
    assert endpoints.current == B


def test_once_around_to_the_same_endpoint_is_no_change(
    endpoints: Endpoints, caplog: pytest.LogCaptureFixture
) -> None:
    for endpoint in (A, B, C):
        endpoints.note_failure(endpoint, "refused", is_silent=True)
    assert endpoints.current == A
    assert not endpoints.note_answer(A)
    assert caplog.messages == []


def test_an_only_endpoint_stays(caplog: pytest.LogCaptureFixture) -> None:
    only = Endpoints((A, A))
    for _ in range(9):
        only.note_failure(A, "refused", is_silent=True)
    assert (only.current, only.others) == (A, ())
    assert not only.refuse(A)
    assert caplog.messages == []


def test_another_chain_has_no_turn(endpoints: Endpoints, caplog: pytest.LogCaptureFixture) -> None:
    assert endpoints.is_same_chain("0x1")
    assert not endpoints.is_same_chain("0x2")
    assert endpoints.refuse(B)
    assert endpoints.refuse(B)
    assert endpoints.others == (C,)
    assert endpoints.refuse(A)
    assert endpoints.current == C
    assert not endpoints.others
    assert not endpoints.refuse(C)
    assert len(caplog.messages) == 2
    assert "wss://b:2 serves another chain" in caplog.messages[0]
    assert "hunter" not in caplog.text


def test_a_number_that_stands_is_told_once_in_its_patience() -> None:
    now = [0.0]
    still = Standstill(now_s=lambda: now[0])
    told = []
    for second in range(100):
        now[0] = float(second)
        if still.is_due(min(second, 40), lambda: 20.0):
            told.append(second)
    assert told == [60, 80]
    assert still.describe() == "59 s"
    still.start()
    assert not still.is_due(3, lambda: 20.0), "another endpoint may be behind"
    now[0] += 19.0
    assert not still.is_due(3, lambda: 20.0)
    now[0] += 1.0
    assert still.is_due(3, lambda: 20.0)
