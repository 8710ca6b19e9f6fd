"""The gate: either training runs, or one caller that needs training to stand still."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any, cast

import pytest

from simulation.swarm import build_world
from simulation.world import hotkey_of
from template.base.gate import Gate
from template.base.miner import Miner
from template.base.work import HonestWork
from template.data.pages import PageReader
from template.sync.dataset import Datasets
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


def test_a_wait_without_training_leaves_no_training_behind(pool) -> None:
    """As on a device of its own, whose training passes no gate."""
    gate = Gate()
    with gate.apart():
        pass
    with gate.still():
        pass


def test_a_wait_that_a_signal_ends_asks_for_nothing_any_more() -> None:
    gate = Gate()

    class Interrupted(BaseException):
        pass

    def interrupt(_condition: object) -> None:
        raise Interrupted

    with gate.busy():
        wait_for = gate._changed.wait_for
        setattr(gate._changed, "wait_for", interrupt)  # noqa: B010  as a signal would
        with pytest.raises(Interrupted), gate.still():
            pytest.fail("training is under way")
        setattr(gate._changed, "wait_for", wait_for)  # noqa: B010
        gate.pass_by(lambda: pytest.fail("nobody asks for room"))


class FarPages:
    """Pages that no cache has: a bucket is asked while `meanwhile` runs."""

    def __init__(self, inner: PageReader, meanwhile: Any) -> None:
        self._inner, self._meanwhile = inner, meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def is_at_hand(self, _ids: object) -> bool:
        return False

    def pages(self, ids: Any) -> Any:
        self._meanwhile()
        return self._inner.pages(ids)


def test_a_wait_for_pages_holds_up_nobody(pool, tmp_path) -> None:
    """A payload of the window before is saved, and theta is made, however long a bucket takes."""
    world = build_world({"owner": 0, "val-a": 1000, "m0": 0})
    miner = Miner(world.context(hotkey_of("m0"), tmp_path))
    world.time.block = world.spec.schedule.schedule().first_block(0)
    work, saved = cast(HonestWork, miner.work), []

    def save() -> None:
        pool.submit(miner.keeper.save_new).result(HANG_S)
        saved.append(1)

    far = FarPages(work.parts.datasets.at(0), save)
    work.parts = replace(work.parts, datasets=Datasets(lambda _: cast(PageReader, far), world.run))
    assert work.make_payload(0) is not None
    assert len(saved) == world.spec.training.inner_steps
