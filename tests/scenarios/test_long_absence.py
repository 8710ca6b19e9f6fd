"""A node away for longer than buckets keep payloads, at a chain endpoint that forgets nothing."""

import pytest

from simulation.swarm import TINY, build_world, digests, honest, run
from template.base.supervisor import supervise
from template.base.validator import Validator

NUM_WINDOWS = 18
LEAVES, RETURNS = 3, 14
STAKES_TAO = {"owner": 0, "val-a": 800, "val-b": 200, "m0": 0, "m1": 0}


class WaitsForEver(BaseException):
    """A node that has waited for whole windows."""


def absent(world, context):
    """val-b: stands still from LEAVES to RETURNS, and then may need a few windows."""
    node = Validator(context)
    supervise(lambda: node.step() and node.follower.next_window < LEAVES, max_failures=1)
    context.waiter.until_head(context.schedule.first_block(RETURNS))
    pause, end = context.waiter.pause, context.schedule.first_block(NUM_WINDOWS)

    def counted_pause():
        if context.chain.head() >= end and node.follower.next_window == LEAVES:
            raise WaitsForEver
        pause()

    context.waiter.pause = counted_pause
    supervise(node.step, max_failures=1, give_up_s=0)
    return node


@pytest.mark.slow
def test_payloads_that_every_bucket_has_deleted_are_waited_for_by_nobody(tmp_path) -> None:
    world = build_world(
        STAKES_TAO,
        **{**TINY, "schedule__num_windows": NUM_WINDOWS, "checkpoint__every_windows": 2},
    )
    nodes = run(world, honest("val-a", "m0", "m1") | {"val-b": absent}, tmp_path)
    assert len(digests(nodes, "val-a", "val-b")) == 1
