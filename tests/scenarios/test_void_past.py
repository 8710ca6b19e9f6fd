"""A void window whose steps before cannot be taken again: an earlier payload is gone, too."""

import pytest

from simulation.swarm import accepted, build_world, digests, run, to_the_end
from simulation.world import hotkey_of
from template.base.miner import Miner
from template.base.validator import Validator

LOST = 2
STAKES_TAO = {"owner": 0, "val-a": 400, "val-b": 400, "val-c": 400, "m0": 0, "m1": 0}


class Careless(Validator):
    """Names what it has seen, and keeps nothing of one window."""

    def _hold_named(self, window, uids, scored):
        return uids if window == LOST else super()._hold_named(window, uids, scored)


@pytest.mark.slow
def test_a_void_window_stops_no_node_that_lacks_an_earlier_payload(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=12, checkpoint__every_windows=5)
    prefix = f"{world.spec.run_id.hex()}/payload/"

    def thief(world, context):
        """m0's payload of LOST before anybody has it, and all of the window before after."""
        schedule, m0 = context.schedule, world.buckets[hotkey_of("m0")]
        context.waiter.until_head(schedule.vote_block(LOST) - 1)
        for key in m0.list(f"{prefix}{LOST:08d}/"):
            m0.delete(key)
        context.waiter.until_head(schedule.vote_block(LOST) + 6)
        for bucket in world.buckets.values():
            for key in bucket.list(f"{prefix}{LOST - 1:08d}/"):
                bucket.delete(key)

    drives = {name: to_the_end(Careless) for name in ("val-a", "val-b", "val-c")}
    drives |= {"m0": to_the_end(Miner), "m1": to_the_end(Miner), "owner": thief}
    nodes = run(world, drives, tmp_path)
    nodes.pop("owner")
    assert len(digests(nodes)) == 1
    assert all(accepted(nodes[name])[LOST] == set() for name in ("val-a", "val-b", "val-c"))
