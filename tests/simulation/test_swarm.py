"""A swarm of one process: errors of its threads reach the caller, and time needs every node."""

import pytest

from simulation.swarm import TINY, build_world, run
from simulation.world import VirtualTime, World, hotkey_of
from template.context import NodeContext
from template.errors import ChainError

NAMES = {"owner": 0, "m0": 0, "m1": 0}


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(NAMES, **TINY)


def test_an_error_in_one_thread_is_raised_with_its_node_and_stops_no_other(world, tmp_path) -> None:
    def fails(_world: World, context: NodeContext) -> None:
        context.waiter.until_head(6)
        raise ChainError("gone", code="rpc")

    waited = []

    def waits(_world: World, context: NodeContext) -> None:
        context.waiter.until_head(9)
        waited.append(context.chain.head())

    with pytest.raises(BaseExceptionGroup) as caught:
        run(world, {"m0": fails, "m1": waits}, tmp_path)
    (error,) = caught.value.exceptions
    assert isinstance(error, ChainError)
    assert error.__notes__ == ["in the thread of m0"]
    assert waited == [9]


def test_a_write_lands_in_the_next_block_and_past_reads_stay(world) -> None:
    chain, before = world.chain(hotkey_of("m0")), world.time.block
    chain.publish(b"record")
    assert hotkey_of("m0") not in chain.commitments(before)
    world.time.block += 1
    assert chain.commitments(before + 1)[hotkey_of("m0")] == b"record"
    assert hotkey_of("m0") not in chain.commitments(before)
    with pytest.raises(ChainError, match="does not exist yet"):
        chain.block_hash(before + 2)


def test_a_block_comes_when_every_running_node_waits() -> None:
    time = VirtualTime()
    time.enter()
    time.sleep(100.0)
    assert (time.block, time.now_s()) == (1, 1.0)


def test_a_caller_that_waits_alone_is_not_left_waiting() -> None:
    """A test without running nodes may wait, too: on a busy machine a fetch takes a moment."""
    time = VirtualTime()
    time.sleep(1.0)
    time.sleep(1.0)
    assert time.block == 2
    time.enter()
    time.leave()
    assert time.block == 2, "nobody waited"
