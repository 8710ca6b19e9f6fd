"""Lanes: turns repeat side by side, a passing fault is no end, and an error reaches the node."""

from functools import partial
from threading import Event, Thread

import pytest

from simulation.swarm import build_world
from simulation.world import hotkey_of
from template.base import lanes as module
from template.base.lanes import Lanes
from template.base.supervisor import MAX_FAILURES, Crashed, supervise
from template.errors import ConfigError, Unavailable
from tests.support.waiting import HANG_S, wait_until


@pytest.fixture
def waiter(tmp_path):
    return build_world({"owner": 0, "m0": 0}).context(hotkey_of("m0"), tmp_path).waiter


def test_a_lane_that_stands_still_holds_no_other_up(waiter) -> None:
    hold, taken = Event(), []

    def stand() -> bool:
        return hold.wait(HANG_S)

    def go() -> bool:
        taken.append(1)
        return True

    lanes = Lanes({"stand": stand, "go": go}, waiter)
    lanes.start()
    wait_until(lambda: len(taken) > 100)
    lanes.check()
    assert not lanes.end(0.05), "a turn under way is not cut short"
    hold.set()
    assert lanes.end(HANG_S)
    num_taken = len(taken)
    assert lanes.are_over
    assert len(taken) == num_taken


def test_what_passes_is_tried_again_and_what_does_not_ends_the_node(waiter) -> None:
    script = [Unavailable("away"), True, ValueError("odd"), ConfigError("--a: wrong")]

    def turn() -> bool:
        entry = script.pop(0)
        if isinstance(entry, Exception):
            raise entry
        return bool(entry)

    lanes = Lanes({"turn": turn}, waiter)
    lanes.check()
    lanes.start()
    wait_until(lambda: bool(lanes._errors))
    assert script == []
    for _ in range(2):
        with pytest.raises(ConfigError, match="--a: wrong"):
            lanes.check()


def test_a_lane_without_work_waits_for_a_block(waiter) -> None:
    heads: list[int] = []

    def idle() -> bool:
        heads.append(waiter.recent_head())
        return len(heads) > 3

    lanes = Lanes({"idle": idle}, waiter)
    lanes.start()
    wait_until(lambda: len(heads) > 3)
    assert heads[:4] == list(range(heads[0], heads[0] + 4))
    assert lanes.end(HANG_S)


def test_lanes_that_never_began_end_at_once(waiter) -> None:
    assert Lanes({"turn": lambda: True}, waiter).end(HANG_S)


def test_what_a_lane_has_tried_for_long_enough_is_not_tried_again_by_the_node(waiter) -> None:
    """Else the node stood still for as long again, without the lane."""
    taken: list[int] = []

    def turn() -> bool:
        taken.append(1)
        raise ValueError("odd")

    lanes = Lanes({"turn": turn}, waiter)
    lanes.start()
    wait_until(lambda: bool(lanes._errors))
    assert len(taken) == MAX_FAILURES

    def step() -> bool:
        lanes.check()
        return True

    with pytest.raises(Crashed, match="odd"):
        supervise(step, sleep=lambda _seconds: pytest.fail("the node tries again"))


def test_a_machine_that_refuses_a_thread_is_asked_again(waiter, monkeypatch) -> None:
    """Otherwise the node would go on for ever without the lane."""
    refusals = [False, True, False]

    class Scarce(Thread):
        def start(self) -> None:
            if refusals and refusals.pop(0):
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(module, "Thread", Scarce)
    taken: set[str] = set()

    def take(name: str) -> bool:
        taken.add(name)
        return True

    lanes = Lanes({name: partial(take, name) for name in "ab"}, waiter)
    with pytest.raises(RuntimeError):
        lanes.start()
    lanes.start()
    wait_until(lambda: taken == {"a", "b"})
    assert lanes.end(HANG_S)
