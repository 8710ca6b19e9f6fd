"""Waiting for blocks: no earlier, not much later, and without hammering the node."""

from typing import cast

import pytest

from template.chain import Chain
from template.chain.waiter import HEAD_AGE_S, MAX_POLL_S, MIN_POLL_S, Waiter

FINALITY_LAG = 2


class ClockworkChain:
    """A block every `block_s`; a sleep is what moves the time."""

    def __init__(self, block_s: float) -> None:
        self.block_s = block_s
        self.now = 0.0
        self.sleeps: list[float] = []
        self.asked = 0

    def head(self) -> int:
        self.asked += 1
        return int(self.now / self.block_s)

    def finalized(self) -> int:
        return max(0, int(self.now / self.block_s) - FINALITY_LAG)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    def waiter(self) -> Waiter:
        return Waiter(cast(Chain, self), sleep=self.sleep, now_s=lambda: self.now)


@pytest.mark.parametrize("block_s", [0.25, 12.0])
def test_it_returns_with_the_block_and_soon_after(block_s: float) -> None:
    chain = ClockworkChain(block_s)
    chain.waiter().until_head(40)
    assert 40 * block_s <= chain.now <= 40 * block_s + max(block_s / 2, MIN_POLL_S)
    assert all(MIN_POLL_S <= s <= MAX_POLL_S for s in chain.sleeps)
    assert len(chain.sleeps) < 40 * block_s / MAX_POLL_S + 250


def test_a_final_block_comes_its_lag_later() -> None:
    head, final = ClockworkChain(1.0), ClockworkChain(1.0)
    head.waiter().until_head(10)
    final.waiter().until_finalized(10)
    assert final.now - head.now == pytest.approx(FINALITY_LAG, abs=1.0)
    assert final.finalized() == 10


def test_a_block_that_is_there_costs_no_sleep() -> None:
    chain = ClockworkChain(1.0)
    chain.now = 50.0
    chain.waiter().until_head(50)
    chain.waiter().until_finalized(48)
    assert chain.sleeps == []


def test_the_recent_head_is_asked_for_no_more_than_needed() -> None:
    chain = ClockworkChain(1.0)
    waiter = chain.waiter()
    heads = []
    for _ in range(100):
        heads.append(waiter.recent_head())
        chain.now += HEAD_AGE_S / 10
    assert chain.asked <= 11
    assert heads[0] == 0
    assert heads == sorted(heads)
    assert heads[-1] == chain.head() == 2


@pytest.mark.parametrize(("block_s", "pause_s"), [(0.25, 0.25), (12.0, MAX_POLL_S), (1e-3, 0.05)])
def test_a_pause_is_about_a_block(block_s: float, pause_s: float) -> None:
    chain = ClockworkChain(block_s)
    waiter = chain.waiter()
    waiter.until_head(30)
    waiter.pause()
    assert chain.sleeps[-1] == pytest.approx(pause_s, rel=0.3)


def test_before_it_has_seen_two_blocks_it_polls_fast() -> None:
    chain = ClockworkChain(12.0)
    chain.waiter().pause()
    assert chain.sleeps == [MIN_POLL_S]
