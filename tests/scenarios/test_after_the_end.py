"""After the last window: late votes, restarts, and readers of a run that is over."""

import pytest

from simulation.swarm import TINY, build_world, digests, honest, run, to_the_end
from simulation.world import hotkey_of
from template.base.supervisor import supervise
from template.base.validator import Validator
from template.peers.client import Peers
from template.sync.follower import KEPT_BLOCKS
from template.sync.lineage import find_voted_root, read_lineage_to
from tests.support.votes import asleep_in, with_votes

NUM_WINDOWS = 3
STAKES_TAO = {"owner": 0, "val-a": 600, "val-b": 400, "m0": 0, "m1": 0}


def ended_world():
    return build_world(STAKES_TAO, **{**TINY, "schedule__num_windows": NUM_WINDOWS})


def test_the_last_step_is_proven_though_the_first_vote_after_the_end_is_missed(tmp_path) -> None:
    """The majority misses the first vote after the end, so the run ends one window later."""
    world = ended_world()
    drives = honest("val-a", "val-b", "m0", "m1")
    drives["val-a"] = to_the_end(
        lambda context: Validator(with_votes(context, sent=asleep_in(NUM_WINDOWS)))
    )
    nodes = run(world, drives, tmp_path)
    assert len(digests(nodes, "val-a", "val-b")) == 1
    reader = world.context(hotkey_of("m0"), tmp_path / "reader")
    world.time.block += 2 * world.spec.schedule.blocks_per_window
    vote = find_voted_root(reader)
    assert vote is not None
    assert vote.window == NUM_WINDOWS + 1
    peers = Peers(reader)
    peers.refresh()
    steps = read_lineage_to(reader, peers, vote)
    assert [step.window for step in steps] == list(range(NUM_WINDOWS))


@pytest.mark.parametrize("kept_blocks", [10**9, KEPT_BLOCKS])
@pytest.mark.parametrize("blocks_after", [pytest.param(150, marks=pytest.mark.slow), 1000])
def test_a_validator_that_starts_again_long_after_the_end_ends(
    kept_blocks, blocks_after, tmp_path
) -> None:
    """Its chain endpoint has forgotten the last votes, and no lineage leads further."""
    world = ended_world()
    nodes = run(world, honest("val-a", "val-b", "m0", "m1"), tmp_path)
    before = nodes["val-a"].follower.state
    world.time.block += blocks_after
    world.ledger.kept_blocks = kept_blocks
    world.time.enter()
    node = Validator(world.context(hotkey_of("val-a"), tmp_path / "val-a"))
    supervise(node.step, max_failures=1, give_up_s=0)
    assert node.follower.state.window >= before.window
