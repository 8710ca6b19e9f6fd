"""Audits with a chain endpoint that has dropped the votes of the windows before."""

import pytest

from localnet.adversaries.withholding import Undelivered
from simulation.swarm import STAKES_TAO, TINY, build_world, honest, miner_with, run, to_the_end
from simulation.world import World, hotkey_of
from template.audit.auditor import Auditor
from template.audit.logs import audit_windows, logs_in_bucket
from template.sync.follower import KEPT_BLOCKS
from tests.support.archive import Archive
from tests.support.audited import reader

WINDOWS, AUDITED = 5, 3
VALIDATOR = hotkey_of("val-a")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """A run that has ended, long ago, with a miner whose payloads never came."""
    world = build_world(
        {**STAKES_TAO, "mute": 0},
        **{**TINY, "schedule__num_windows": WINDOWS, "checkpoint__every_windows": 2},
    )
    archives = {hotkey: Archive() for hotkey in world.buckets if hotkey != hotkey_of("owner")}
    world.buckets |= archives
    mute = {"mute": to_the_end(miner_with(Undelivered))}
    run(world, honest("val-a", "val-b", "m0", "m1") | mute, tmp_path_factory.mktemp("run"))
    for bucket in archives.values():
        bucket.is_closed = False
    world.time.block += KEPT_BLOCKS
    return world


@pytest.mark.parametrize("drops_votes", [False, True])
def test_the_lineage_does_not_tell_what_was_undelivered(world, tmp_path, drops_votes) -> None:
    """The audited window can be read, and the votes on the window before cannot."""
    vote_block = world.spec.schedule.schedule().vote_block(AUDITED - 1)
    all_blocks = world.time.block
    world.ledger.kept_blocks = all_blocks - vote_block - 1 if drops_votes else all_blocks
    context = reader(world, tmp_path)
    auditor = Auditor(context, VALIDATOR, AUDITED - 1)
    assert auditor.next_window < AUDITED
    source = logs_in_bucket(context, auditor.peers, VALIDATOR)
    (found,) = audit_windows(auditor, source, AUDITED, AUDITED)
    assert found.wrong == []
    is_told = any("undelivered payloads" in line for line in found.unknown)
    assert is_told == drops_votes
