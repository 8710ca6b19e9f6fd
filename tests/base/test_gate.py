"""Training, and those who need it to stand still: one of them at a time."""

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest

from template.base.gate import Gate
from tests.support.waiting import HANG_S, wait_until


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_without_training_everybody_may_begin() -> None:
    gate = Gate()
    with gate.still(), gate.still():
        pass
    gate.pass_by(lambda: pytest.fail("nobody asks for room"))


def _stand(gate: Gate, seen: Event, go_on: Event) -> None:
    with gate.still():
        seen.set()
        assert go_on.wait(HANG_S)


def test_training_rests_at_a_step_and_makes_room_first(pool) -> None:
    gate, seen, go_on, made = Gate(), Event(), Event(), []
    with gate.busy():
        asking: Future[None] = pool.submit(_stand, gate, seen, go_on)
        wait_until(lambda: gate._num_asking == 1)
        assert not seen.is_set(), "training has not come to a step"
        go_on.set()
        gate.pass_by(lambda: made.append(seen.is_set()))
        assert seen.is_set()
        asking.result(HANG_S)
        gate.pass_by(lambda: pytest.fail("nobody asks for room"))
    assert made == [False], "room is made once, and before anybody stands"


def test_training_does_not_begin_while_somebody_needs_it_still(pool) -> None:
    gate, seen, go_on, begun = Gate(), Event(), Event(), Event()

    def train() -> None:
        with gate.busy():
            begun.set()

    standing = pool.submit(_stand, gate, seen, go_on)
    assert seen.wait(HANG_S)
    training = pool.submit(train)
    assert not begun.wait(0.05)
    go_on.set()
    standing.result(HANG_S)
    training.result(HANG_S)
    assert begun.is_set()


@pytest.mark.parametrize("fails", [False, True])
def test_whoever_waits_for_training_gets_on_with_its_end(pool, fails: bool) -> None:
    gate, seen, go_on = Gate(), Event(), Event()
    go_on.set()
    standing: list[Future[None]] = []

    def train() -> None:
        with gate.busy():
            standing.append(pool.submit(_stand, gate, seen, go_on))
            wait_until(lambda: gate._num_asking == 1)
            if fails:
                raise ValueError
            with gate.apart():
                assert seen.wait(HANG_S), "training that only waits is no hindrance"

    if fails:
        with pytest.raises(ValueError):  # noqa: PT011  our own
            train()
    else:
        train()
    standing[0].result(HANG_S)
    assert seen.is_set()
    with gate.busy():
        pass
