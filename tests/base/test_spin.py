"""A miner that has nothing to do in a window waits for the next one."""

import pytest

from template.base.miner import Miner
from tests.base.schedules import STAKES_TAO
from tests.fakes import hotkey_of
from tests.swarm import TINY, build_world


@pytest.mark.xfail(
    strict=True,
    reason="Miner.step returns at once, again and again, while the head is the last block of the "
    "window and is finalised: with no finality lag, or after a reorganisation down to there",
)
def test_a_miner_waits_where_the_head_is_the_last_block_and_final(tmp_path) -> None:
    world = build_world(STAKES_TAO, **{**TINY, "schedule__finality_lag_blocks": 0})
    miner = Miner(world.context(hotkey_of("m0"), tmp_path))
    world.time.enter()
    world.time.block = world.spec.schedule.schedule().first_block(0)
    assert miner.step()
    block = world.time.block
    assert miner.step()
    assert world.time.block > block
