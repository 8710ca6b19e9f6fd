"""A validator that was away or is too slow: what it says, skips, and does not say of others."""

import logging

import pytest

from simulation.swarm import (
    FOUR,
    STAKES_TAO,
    accepted,
    build_world,
    digests,
    honest,
    metrics,
    run,
    uid_of,
)
from template.base.supervisor import supervise
from template.base.validator import Validator

NUM_WINDOWS = 9
LATE_WINDOW = 4
AWAY_WINDOWS = 3


@pytest.mark.slow
def test_a_validator_that_comes_late_calls_nobody_unpaid(tmp_path) -> None:
    """Its first weights come when it has scored as many windows as pay asks for."""
    world = build_world(
        {**STAKES_TAO, "val-c": 500},
        schedule__num_windows=NUM_WINDOWS,
        checkpoint__every_windows=2,
        weights__min_windows=3,
    )

    def late(world, context) -> object:
        context.waiter.until_head(context.schedule.first_block(LATE_WINDOW) + 4)
        node = Validator(context)
        supervise(node.step, max_failures=1)
        return node

    nodes = run(world, {**honest(*FOUR), "val-c": late}, tmp_path)
    burn = "weight/0"
    paid = metrics(nodes["val-c"]).series(f"weight/{uid_of(world, 'm0')}")
    # It comes while the payloads of the window before are being scored, and scores them, too.
    scored = len([w for w in range(NUM_WINDOWS) if w >= LATE_WINDOW - 1])
    assert 1 <= len(paid) <= scored - 2
    assert min(paid.values()) > 0.0
    assert max(metrics(nodes["val-c"]).series(burn).values(), default=0.0) < 1.0
    # The others were there from the start: nobody could be paid yet, so all was burned.
    assert metrics(nodes["val-a"]).series(burn)[0] == 1.0


@pytest.mark.slow
def test_a_validator_that_falls_behind_says_so_and_catches_up_without_the_curve(
    tmp_path, caplog
) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=NUM_WINDOWS)

    def away(world, context) -> object:
        node = Validator(context)
        for _ in range(2):
            assert node.step()
        pause_blocks = AWAY_WINDOWS * world.spec.schedule.blocks_per_window
        context.waiter.until_head(world.time.block + pause_blocks)
        supervise(node.step, max_failures=1)
        return node

    with caplog.at_level(logging.WARNING, logger="template.base.validator"):
        nodes = run(world, {**honest(*FOUR), "val-b": away}, tmp_path)
    assert len(digests(nodes)) == 1
    assert accepted(nodes["val-b"]) == accepted(nodes["val-a"])
    texts = [text for text in caplog.messages if "behind" in text or "too late" in text]
    assert len(texts) == 1
    assert "OMP_NUM_THREADS" in texts[0]
    assert sum("caught up" in text for text in caplog.messages) == 1
    curve, whole = (metrics(nodes[name]).series("held_out_loss") for name in ("val-b", "val-a"))
    skipped = set(whole) - set(curve)
    assert 1 <= len(skipped) <= AWAY_WINDOWS
    assert set(curve) < set(whole)
    assert max(curve) == max(whole)
