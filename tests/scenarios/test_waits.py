"""Neurons that wait: each wait of some length is told, and none of them often."""

import logging
import re

import pytest

from simulation.swarm import TINY, build_world
from simulation.world import hotkey_of
from template.base.miner import Miner
from template.base.validator import Validator
from template.peers.client import Peers
from template.protocol.record import Record, encode_record
from template.protocol.root import Member
from template.protocol.ss58 import public_key

STAKES_TAO = {"owner": 0, "val-a": 800, "val-b": 200, "m0": 0, "m1": 0}
LINES_PER_WAIT = 8
"""Of a wait of a few hundred blocks, at a block a second."""


def _waits(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("waiting for ")]


@pytest.mark.parametrize("kind", [Miner, Validator])
def test_the_wait_for_window_0_names_its_block(kind, tmp_path, caplog) -> None:
    world = build_world(STAKES_TAO, **{**TINY, "schedule__num_windows": 2})
    first = world.spec.schedule.start_block
    node = kind(world.context(hotkey_of("m0" if kind is Miner else "val-a"), tmp_path))
    caplog.set_level(logging.INFO)
    node.step()
    told = _waits(caplog)
    assert 1 <= len(told) <= LINES_PER_WAIT
    assert re.search(rf"block {first}\b", told[0]), told


def test_a_joiner_says_that_it_waits_for_votes_and_until_when(tmp_path, caplog) -> None:
    """Nobody votes: two windows, and then theta_0."""
    world = build_world(
        STAKES_TAO, **{**TINY, "schedule__num_windows": 9, "checkpoint__every_windows": 1}
    )
    world.time.block = world.spec.schedule.schedule().vote_block(7) + 3
    until = world.time.block + 2 * world.spec.schedule.blocks_per_window
    caplog.set_level(logging.INFO)
    miner = Miner(world.context(hotkey_of("m0"), tmp_path))
    assert miner.follower.state.window == 1
    told = _waits(caplog)
    assert 1 <= len(told) <= LINES_PER_WAIT
    assert "votes of more than half of the validators' stake" in told[0]
    assert f"until block {until}" in told[0]


def test_a_bucket_asked_again_and_again_is_told_once_a_window(tmp_path, caplog) -> None:
    """A wait for a payload asks several times a second."""
    world, miner = build_world(STAKES_TAO, **TINY), hotkey_of("m1")
    world.chain(miner).publish(encode_record(Record(access=world.access(miner))))
    world.time.block += 8
    peers = Peers(world.context(hotkey_of("m0"), tmp_path))
    peers.refresh()
    member = Member(
        uid=4, hotkey=miner, public_key=public_key(miner), coldkey=bytes(32), digest=bytes(32)
    )
    caplog.set_level(logging.INFO)
    for window in (3, 4):
        for _ in range(20):
            assert peers.fetch_named_payloads({member: (hotkey_of("val-a"),)}, window) == {}
    told = [line for line in caplog.messages if "no payload from" in line]
    assert len(told) == 2 * len({miner, "val-a"})
