"""Weights that would age out, or that the chain refuses in the last window, in a swarm."""

import logging
from collections.abc import Mapping
from itertools import groupby, pairwise

import pytest

from simulation.swarm import TINY, honest, neurons_of, open_world, run, small_run, to_the_end
from simulation.world import FakeChain, World, hotkey_of
from template.base.validator import Validator
from template.chain import WeightTimes
from template.errors import ChainError
from tests.support.localnet.weighing import Rising, row_of

NAMES = {"owner": 0, "val-a": 600, "val-b": 400, "m0": 0, "m1": 0}
VALIDATORS = ("val-a", "val-b")
CUTOFF = 24


class Limited(FakeChain):
    """Refuses a row within the rate limit, as a real chain."""

    def set_weights(self, weights: Mapping[int, float]) -> None:
        blocks = self._ledger.weight_blocks.get(self._hotkey, [])
        limit = self._ledger.weight_times.rate_limit_blocks
        if blocks and self.head() + 1 - blocks[-1] < limit:
            raise ChainError("last set a moment ago", code="rate_limited")
        super().set_weights(weights)


class LimitedWorld(World):
    def chain(self, hotkey: str) -> FakeChain:
        return Limited(self.ledger, hotkey)


def a_world(times: WeightTimes, **overrides: object) -> World:
    plan = {**TINY, "weights__min_windows": 2, **overrides}
    world = open_world(LimitedWorld, neurons_of(NAMES), small_run(NAMES, **plan))
    world.ledger.weight_times = times
    return world


def times_of(*, cutoff: int, rate_limit: int = 0) -> WeightTimes:
    return WeightTimes(rate_limit_blocks=rate_limit, cutoff_blocks=cutoff, reveal_epochs=1)


def played(world: World, tmp_path) -> World:
    drives = honest("m0", "m1")
    for name in VALIDATORS:
        drives[name] = to_the_end(lambda context: Validator(context, policy=Rising()))
    run(world, drives, tmp_path)
    return world


def rows(world: World, name: str) -> list[tuple[int, dict[int, float]]]:
    """(block, row) in the order of setting."""
    hotkey = hotkey_of(name)
    ledger = world.ledger
    return list(zip(ledger.weight_blocks[hotkey], ledger.weights[hotkey], strict=True))


def windows_of(world: World, name: str) -> list[int]:
    """The windows of the rows, in the order of setting; a row set again counts once."""
    found = []
    for _, row in rows(world, name):
        shares = {uid: weight / sum(row.values()) for uid, weight in row.items()}
        (window,) = [w for w in range(10) if row_of(w) == shares]
        found.append(window)
    return [window for window, _ in groupby(found)]


@pytest.mark.parametrize("windows_blocks", [16, 40])
def test_a_row_is_set_again_before_it_ages_out_and_is_the_same(windows_blocks, tmp_path) -> None:
    """A pay period longer than the cut-off, of several windows or of one long window."""
    long = {
        "schedule__blocks_per_window": windows_blocks,
        "schedule__tempo_blocks": 40,
        "schedule__num_windows": 6,
    }
    plain = played(a_world(times_of(cutoff=5000), **long), tmp_path / "plain")
    world = played(a_world(times_of(cutoff=CUTOFF), **long), tmp_path / "short")
    for name in VALIDATORS:
        assert windows_of(world, name) == windows_of(plain, name), "the same rows, more often"
        assert len(rows(world, name)) > len(rows(plain, name))
        blocks = [block for block, _ in rows(world, name)]
        assert max(b - a for a, b in pairwise(blocks)) <= CUTOFF
        blocks = [block for block, _ in rows(plain, name)]
        assert max(b - a for a, b in pairwise(blocks)) > CUTOFF


def test_the_last_windows_weights_wait_for_the_rate_limit_and_come_after_the_end(
    tmp_path, caplog
) -> None:
    """The last window pays one window after the pay period before it."""
    short = {"schedule__tempo_blocks": 32, "schedule__num_windows": 5}
    plain = played(a_world(times_of(cutoff=5000), **short), tmp_path / "plain")
    with caplog.at_level(logging.INFO):
        world = played(a_world(times_of(cutoff=5000, rate_limit=24), **short), tmp_path / "slow")
    end = world.spec.schedule.schedule().first_block(5)
    for name in VALIDATORS:
        assert windows_of(world, name) == windows_of(plain, name) == [1, 3, 4]
        last, _ = rows(plain, name)[-1]
        late, _ = rows(world, name)[-1]
        assert end < last < late
    assert "weights wait: the chain takes a row from block" in caplog.text
    assert "refused the weights" not in caplog.text
