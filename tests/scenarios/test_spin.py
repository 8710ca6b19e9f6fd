"""A miner that has nothing to do in a window waits for the next one."""

from simulation.swarm import TINY, build_world
from simulation.world import hotkey_of
from template.base.miner import Miner
from tests.support.schedules import STAKES_TAO


def test_a_miner_waits_where_the_head_is_the_last_block_and_final(tmp_path) -> None:
    world = build_world(STAKES_TAO, **{**TINY, "schedule__finality_lag_blocks": 0})
    miner = Miner(world.context(hotkey_of("m0"), tmp_path))
    world.time.enter()
    world.time.block = world.spec.schedule.schedule().first_block(0)
    assert miner.step()
    block = world.time.block
    assert miner.step()
    assert world.time.block > block
