"""Validators that come late to a run in which nobody has voted: the run begins with them."""

import pytest

from simulation.swarm import FOUR, RAO, STAKES_TAO, accepted, build_world, digests, honest, run
from template.bucket.retention import oldest_start
from template.protocol.run import Run
from template.sync.follower import KEPT_BLOCKS

LATE, WINDOWS = 11, 18


def _late_world(**overrides: object):
    world = build_world(
        STAKES_TAO,
        schedule__num_windows=WINDOWS,
        checkpoint__every_windows=2,
        **overrides,
    )
    run = Run(world.spec)
    assert oldest_start((), LATE, run) > 2, "payloads would have been deleted"
    world.time.block = run.schedule.first_block(LATE) + 2
    return world


@pytest.mark.parametrize("kept_blocks", [10**9, KEPT_BLOCKS + 2], ids=["archive", "pruned"])
def test_a_run_that_nobody_has_voted_in_begins_late(kept_blocks: int, tmp_path) -> None:
    world = _late_world()
    world.ledger.kept_blocks = kept_blocks
    nodes = run(world, honest(*FOUR), tmp_path)
    assert len(digests(nodes)) == 1
    found = accepted(nodes["val-a"])
    assert not any(found[w] for w in found if w < LATE)
    assert len(found[WINDOWS - 1]) == 2


@pytest.mark.parametrize("kept_blocks", [10**9, KEPT_BLOCKS + 2], ids=["archive", "pruned"])
def test_the_second_validator_comes_windows_after_the_first(kept_blocks: int, tmp_path) -> None:
    """The first one's votes have no authority, since the reference stake is both validators'."""
    world = _late_world(outer__min_reference_rao=1800 * RAO)
    world.ledger.kept_blocks = kept_blocks

    def late(drive):
        def begin(world, context):
            context.waiter.until_head(Run(world.spec).schedule.first_block(LATE + 2))
            return drive(world, context)

        return begin

    drives = {n: late(d) if n != "val-a" else d for n, d in honest(*FOUR).items()}
    nodes = run(world, drives, tmp_path)
    assert len(digests(nodes)) == 1
    found = accepted(nodes["val-b"])
    assert len(found[WINDOWS - 1]) == 2
