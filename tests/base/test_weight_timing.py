"""When a validator sets weights: at the edges of the rate limit and of the chain's cut-off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from template.base.weight_timing import LOOKS_IN_CUTOFF, Choice, choose, look_every_blocks
from template.chain import WeightTimes

PUBLIC = WeightTimes(rate_limit_blocks=100, cutoff_blocks=5000, reveal_epochs=1)
WINDOW = 100
SET_AT = 10_000


def choice_after(age: int, *, is_new: bool = False, times: WeightTimes = PUBLIC) -> Choice:
    every = look_every_blocks(times, WINDOW)
    block = SET_AT + age
    return choose(times, block=block, last_update=SET_AT, is_new=is_new, every_blocks=every)


@pytest.mark.parametrize(
    ("age", "expected"),
    [(0, Choice.WAIT), (99, Choice.WAIT), (100, Choice.NEW), (400, Choice.NEW)],
)
def test_new_weights_wait_for_the_rate_limit_and_not_a_block_longer(age, expected) -> None:
    assert choice_after(age, is_new=True) is expected


@pytest.mark.parametrize(
    ("age", "expected"),
    [(99, Choice.NOTHING), (4799, Choice.NOTHING), (4800, Choice.AGAIN), (6000, Choice.AGAIN)],
)
def test_old_weights_are_set_again_two_looks_before_they_age_out(age, expected) -> None:
    assert choice_after(age) is expected


def test_new_weights_come_before_the_same_ones_again() -> None:
    assert choice_after(4900, is_new=True) is Choice.NEW


def test_a_rate_limit_beyond_the_cut_off_is_waited_for() -> None:
    slow = WeightTimes(rate_limit_blocks=6000, cutoff_blocks=5000, reveal_epochs=0)
    ages = (4799, 4800, 5999, 6000)
    expected = [Choice.NOTHING, Choice.WAIT, Choice.WAIT, Choice.AGAIN]
    assert [choice_after(age, times=slow) for age in ages] == expected


@pytest.mark.parametrize(("window", "expected"), [(1, 1), (100, 100), (1250, 1250), (7200, 1250)])
def test_long_windows_are_looked_into(window: int, expected: int) -> None:
    assert look_every_blocks(PUBLIC, window) == expected


@given(
    st.integers(LOOKS_IN_CUTOFF, 20_000), st.integers(1, 30_000), st.integers(0, 3), st.integers(0)
)
def test_a_row_never_ages_out_though_one_look_fails(
    cutoff: int, window: int, reveal: int, phase: int
) -> None:
    """The first try at a set of the same weights is refused; no rate limit."""
    times = WeightTimes(rate_limit_blocks=0, cutoff_blocks=cutoff, reveal_epochs=reveal)
    every = look_every_blocks(times, window)
    refused, block = False, SET_AT + phase % every
    while True:
        choice = choose(times, block=block, last_update=SET_AT, is_new=False, every_blocks=every)
        if choice is Choice.AGAIN and refused:
            break
        refused = choice is Choice.AGAIN
        block += every
    assert block < SET_AT + cutoff
    assert block >= SET_AT + cutoff - 2 * every, "no sooner than needed"


def test_the_lag_of_pay_is_whole_epochs() -> None:
    assert PUBLIC.lag_blocks(360) == 360
    two = WeightTimes(rate_limit_blocks=0, cutoff_blocks=5000, reveal_epochs=2)
    assert two.lag_blocks(360) == 720
    clear = WeightTimes(rate_limit_blocks=0, cutoff_blocks=5000, reveal_epochs=0)
    assert clear.lag_blocks(360) == 0
