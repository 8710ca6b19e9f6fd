"""Waiting for blocks: no earlier, not much later, and without hammering the node."""

import pytest

from template.chain.waiter import (
    HEAD_AGE_BLOCKS,
    HEAD_AGE_S,
    MAX_POLL_S,
    MIN_POLL_S,
    RECENT_BLOCKS,
    STILL_LIMIT_S,
)
from template.errors import ChainError
from tests.support.clockwork import FINALITY_LAG, ChangingChain, ClockworkChain, StoppingChain


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


@pytest.mark.parametrize("block_s", [1.0, 12.0])
def test_head_and_finality_are_asked_for_by_the_pace_of_blocks(block_s: float) -> None:
    """However many threads ask, and however often."""
    chain = ClockworkChain(block_s)
    waiter = chain.waiter()
    waiter.until_head(3)
    chain.asked, behind, num_blocks = 0, [], 10
    for _ in range(int(num_blocks * block_s / 0.01)):
        reached = int(chain.now / block_s)
        behind += [reached - waiter.recent_head(), reached - FINALITY_LAG - waiter.recent_final()]
        chain.now += 0.01
    assert min(behind) == 0
    assert max(behind) == 1
    most = num_blocks / HEAD_AGE_BLOCKS + 1
    assert chain.asked <= most
    assert chain.asked_final <= most


def test_the_pace_is_that_of_the_last_blocks() -> None:
    """After a chain that hurried through a thousand blocks, or stood still for as many."""
    for missed_s, made in ((0.0, 1000), (1000.0, 0)):
        chain = ChangingChain(1.0)
        waiter = chain.waiter()
        waiter.until_head(100)
        chain.now, chain.ahead = chain.now + missed_s, made - int(missed_s)
        head = chain.head()
        waiter.until_head(head + 2 * RECENT_BLOCKS)
        waiter.pause()
        assert chain.sleeps[-1] == pytest.approx(1.0, rel=0.2), (missed_s, made)


@pytest.mark.parametrize(("block_s", "pause_s"), [(0.25, 0.25), (12.0, MAX_POLL_S), (1e-3, 0.05)])
def test_a_pause_is_about_a_block(block_s: float, pause_s: float) -> None:
    chain = ClockworkChain(block_s)
    waiter = chain.waiter()
    waiter.until_head(30)
    waiter.pause()
    assert chain.sleeps[-1] == pytest.approx(pause_s, rel=0.3)
    waiter.pause(most_s=0.2)
    assert chain.sleeps[-1] == pytest.approx(min(pause_s, 0.2), rel=0.3)


def test_before_it_has_seen_two_blocks_it_polls_fast() -> None:
    chain = ClockworkChain(12.0)
    chain.waiter().pause()
    assert chain.sleeps == [MIN_POLL_S]


@pytest.mark.parametrize("block_s", [0.25, 12.0])
@pytest.mark.parametrize("only_final", [False, True], ids=["blocks", "finality alone"])
def test_an_endpoint_that_stands_still_is_told_and_ends_the_wait(
    block_s: float, only_final: bool, caplog: pytest.LogCaptureFixture
) -> None:
    chain = StoppingChain(block_s)
    chain.only_final = only_final
    with pytest.raises(ChainError, match=r"stands still: (final )?block 30 since 30 min") as caught:
        chain.waiter().until_finalized(40)
    assert caught.value.is_final, "the process ends with status 1; another try cannot help"
    (told,) = caplog.messages
    assert "stands still" in told
    assert "--subtensor.network" in told
    stood_s = chain.now - 30 * block_s
    assert STILL_LIMIT_S <= stood_s < STILL_LIMIT_S + 60 + 5 * block_s


def test_an_endpoint_that_goes_on_again_says_so(caplog: pytest.LogCaptureFixture) -> None:
    chain = StoppingChain(1.0)
    chain.goes_on_at = 500.0
    chain.waiter().until_finalized(510)
    assert ["stands still" in line for line in caplog.messages] == [True, False]
    assert "after 8 min" in caplog.messages[1]


def test_a_long_pause_of_this_process_is_no_standstill(caplog: pytest.LogCaptureFixture) -> None:
    """Training takes minutes without a look at the chain."""
    chain = ClockworkChain(1.0)
    waiter = chain.waiter()
    for _ in range(3):
        waiter.recent_head()
        chain.now += 3000.0
        waiter.until_finalized(int(chain.now) - 100)
    assert caplog.messages == []


def test_before_the_first_read_a_block_has_no_distance() -> None:
    """A node that fails at once said "3769 blocks from now" of a window that had passed."""
    waiter = ClockworkChain(1.0).waiter()
    assert waiter.when(40) == "block 40"
    waiter.recent_head()
    assert "from now" in waiter.when(40)
