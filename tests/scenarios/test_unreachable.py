"""Unreachable is never absent: a node that cannot read the chain decides and applies nothing, and
a half of a split network that sees only its own validators never decides.
"""

from dataclasses import replace

import pytest

from simulation.swarm import TINY, build_world, digests, honest, run
from simulation.world import FakeChain, World, hotkey_of
from template.chain.ballots import read_ballot
from template.chain.waiter import Waiter
from template.errors import ChainError
from template.peers.client import Peers
from template.protocol.root import tensors_digest
from template.sync.bootstrap import Bootstrap
from template.sync.follower import Follower
from tests.support.schedules import ROSTER, STAKES_TAO

WINDOWS = 4


@pytest.fixture(scope="module")
def swarm(tmp_path_factory) -> tuple[World, dict[str, object]]:
    """A swarm that has ended: all of its run can be followed again from its ledger and buckets."""
    world = build_world(STAKES_TAO, **TINY, schedule__num_windows=WINDOWS)
    nodes = run(world, honest(*ROSTER), tmp_path_factory.mktemp("swarm"))
    assert len(digests(nodes)) == 1
    return world, nodes


class FailingChain(FakeChain):
    """Fails at one read of all, counted from 0; `reads`: how many there were."""

    def __init__(self, world: World, hotkey: str, fails_at: int | None) -> None:
        super().__init__(world.ledger, hotkey)
        self._fails_at, self.reads = fails_at, 0

    def _read(self) -> None:
        self.reads += 1
        if self.reads - 1 == self._fails_at:
            raise ChainError("no answer from the chain in time", code="timeout")

    def finalized(self) -> int:
        self._read()
        return super().finalized()

    def block_hash(self, block: int) -> bytes:
        self._read()
        return super().block_hash(block)

    def metagraph(self, block: int):
        self._read()
        return super().metagraph(block)

    def commitments(self, block: int):
        self._read()
        return super().commitments(block)


def _follower(world: World, chain: FakeChain, folder) -> Follower:
    """Of a node that stands at theta_0; its chain may fail from now on."""
    plain = world.context(hotkey_of("m0"), folder)
    state = Bootstrap(plain, Peers(plain)).published_or_first_state(0)
    waiter = Waiter(chain, sleep=world.time.sleep, now_s=world.time.now_s)
    context = replace(plain, chain=chain, waiter=waiter)
    return Follower(context, Peers(context), state)


def _stand(follower: Follower) -> tuple[int, bytes, bytes]:
    state = follower.state
    return state.window, state.root, tensors_digest(state.params)


def _history(follower: Follower) -> tuple[list[tuple[int, bytes, bytes]], int]:
    """Where a follower stands after each window, and how often it could not read the chain: then
    everything is as it was, and is tried again.
    """
    stands, failures = [_stand(follower)], 0
    while follower.next_window < WINDOWS:
        try:
            if follower.decided():
                follower.advance()
                stands.append(_stand(follower))
        except ChainError:
            failures += 1
            assert _stand(follower) == stands[-1]
    return stands, failures


def test_whichever_read_fails_nothing_is_applied_and_the_next_try_decides_alike(
    swarm, tmp_path
) -> None:
    world, nodes = swarm
    chain = FailingChain(world, hotkey_of("m0"), None)
    expected, _ = _history(_follower(world, chain, tmp_path / "whole"))
    assert {expected[-1]} == digests(nodes)
    assert chain.reads > 5 * WINDOWS
    for fails_at in range(chain.reads):
        failing = FailingChain(world, hotkey_of("m0"), fails_at)
        follower = _follower(world, failing, tmp_path / str(fails_at))
        assert _history(follower) == (expected, 1)


class CutChain(FakeChain):
    """Half of a split network: it sees its own votes alone, and nothing new is finalised."""

    def __init__(self, world: World, hotkey: str, seen: set[str], finalized: int) -> None:
        super().__init__(world.ledger, hotkey)
        self._seen, self._finalized = seen, finalized

    def finalized(self) -> int:
        return self._finalized

    def commitments(self, block: int):
        found = super().commitments(block)
        return found if block <= self._finalized else {h: found[h] for h in self._seen & set(found)}


@pytest.mark.parametrize(
    "half", [("val-a", "val-b", "m0"), ("val-c", "m1")], ids=["with most of the stake", "the rest"]
)
def test_a_half_that_sees_its_own_validators_alone_never_decides(swarm, half, tmp_path) -> None:
    """Either half could count the votes that it sees: it does not, block for block."""
    world, _ = swarm
    seen = {hotkey_of(name) for name in half}
    schedule, time = world.spec.schedule.schedule(), world.time
    end, split = time.block, schedule.vote_block(1) - 1
    chain = CutChain(world, hotkey_of("m0"), seen, split)
    follower = _follower(world, chain, tmp_path)
    follower.advance()
    before = _stand(follower)
    assert follower.next_window == 1
    cut, whole = (read_ballot(c, world.run, 1) for c in (chain, world.chain(hotkey_of("m0"))))
    assert 0 < cut.stake_rao < whole.stake_rao
    try:
        for time.block in range(split, end + 1):
            assert not follower.decided()
    finally:
        time.block = end
    assert _stand(follower) == before
