"""A miner killed at an awkward moment and started again: nothing counts twice, nothing is lost."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from simulation.swarm import FOUR, STAKES_TAO, build_world, digests, honest, run
from simulation.world import World, hotkey_of
from template.base.miner import Miner
from template.base.pending import PendingPayload
from template.base.supervisor import supervise
from template.base.work import HonestWork
from template.context import NodeContext
from template.protocol.keys import payload_key
from template.protocol.lineage import LineageStep
from template.protocol.quorum import Decision
from template.sync.dataset import downloaded_parts
from tests.support.decisions import decided

M0 = hotkey_of("m0")


class KilledError(BaseException):
    """The process is gone."""


class Watched(HonestWork):
    """Remembers what returned to error feedback."""

    def take_back(self, payload: PendingPayload) -> None:
        self.returned = [*getattr(self, "returned", ()), payload.window]
        super().take_back(payload)


def _kill_between_step_and_settlement(miner: Miner) -> None:
    """In the first window in which the own payload is applied, with a save at that moment."""
    advance = miner.follower.advance

    def advance_and_die(meanwhile: Callable[[], None]) -> Decision:
        decision = advance(meanwhile)
        if any(member.hotkey == M0 for member in decision.members):
            miner.keeper.save()  # as the lane that saves may do at any time
            raise KilledError(decision.window)
        return decision

    setattr(miner.follower, "advance", advance_and_die)  # noqa: B010  a kill from outside


def test_what_was_applied_does_not_return_after_a_kill_before_its_settlement(tmp_path) -> None:
    world = build_world(STAKES_TAO)
    killed_in: list[int] = []

    def drive(world: World, context: NodeContext) -> Miner:
        miner = Miner(context, work=Watched)
        _kill_between_step_and_settlement(miner)
        with pytest.raises(KilledError) as killed:
            supervise(miner.step, max_failures=1)
        killed_in.append(killed.value.args[0])
        again = Miner(world.context(M0, context.state_dir), work=Watched)
        assert killed_in[0] in {payload.window for payload in again.pending}
        supervise(again.step, max_failures=1)
        return again

    nodes = run(world, {**honest("val-a", "val-b", "m1"), "m0": drive}, tmp_path)
    assert len(digests(nodes, *FOUR)) == 1
    assert killed_in[0] not in getattr(nodes["m0"].work, "returned", ())


def test_a_save_in_the_middle_of_a_download_leaves_the_download(tmp_path) -> None:
    """The main thread joins anew, for hours with a large model, and another lane saves."""
    world = build_world(STAKES_TAO)
    miner = Miner(world.context(M0, tmp_path))
    parts = downloaded_parts(tmp_path)
    miner.save()
    miner.settle(decided(0))
    parts.put(bytes(32), b"a part")
    miner.keeper.save()
    assert parts.digests() == [bytes(32)]
    miner.settle(replace(decided(1), is_jump=True))
    miner.settle(decided(2))
    assert parts.digests() == [], "what was made of it is saved"


def test_a_window_found_void_again_after_a_restart_returns_its_payload_once(tmp_path) -> None:
    """Error feedback is saved before theta: the restart comes to the void window a second time."""
    world = build_world(STAKES_TAO)
    miner = Miner(world.context(M0, tmp_path), work=Watched)
    world.time.block = world.spec.schedule.schedule().first_block(0)
    miner.make_payload(0)
    made = miner.pending.newest
    assert made is not None
    world.buckets[M0].put(payload_key(world.spec.run_id, 0, made.digest), made.frame)
    decision = decided(0, made.digest)
    void = LineageStep(
        window=0,
        root=bytes(32),
        members=decision.members,
        voting_stake_rao=1,
        checkpoint=b"",
        voted_root=b"",
    )
    miner.settle(decision)
    returned: list[int] = []
    for _ in range(2):
        miner.follower.taken_back.append(void)
        miner.settle(decided(1))
        returned += getattr(miner.work, "returned", ())
        miner = Miner(world.context(M0, tmp_path), work=Watched)
    assert returned == [0]
