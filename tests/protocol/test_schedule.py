"""Blocks and windows: every deadline at the first and last block, and their order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template.protocol.schedule import Schedule

SCHEDULE = Schedule(start_block=1000, blocks_per_window=28, upload_blocks=6, vote_margin_blocks=5)


@pytest.mark.parametrize(
    ("block", "window"),
    [
        (1000, 0),
        (1027, 0),
        (1028, 1),
        (1055, 1),
        (1056, 2),
        (999, -1),
        (972, -1),
        (971, -2),
        (0, -36),
    ],
)
def test_window_of_a_block(block: int, window: int) -> None:
    assert SCHEDULE.window_of(block) == window


@pytest.mark.parametrize(
    ("deadline", "block"),
    [
        ("assignment_block", 1056 - 5),
        ("first_block", 1056),
        ("commit_block", 1083),
        ("stake_block", 1084),
        ("held_out_block", 1084 + 6),
        ("vote_block", 1112 - 5),
        ("apply_block", 1112),
    ],
)
def test_deadlines_of_window_2(deadline: str, block: int) -> None:
    assert getattr(SCHEDULE, deadline)(2) == block


schedules = st.builds(
    lambda start, upload, scoring, margin, slack: Schedule(
        start_block=start + margin,
        blocks_per_window=upload + scoring + margin + slack,
        upload_blocks=upload,
        vote_margin_blocks=margin,
    ),
    st.integers(0, 10**7),
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(0, 50),
)


@settings(deadline=None)
@given(schedules, st.integers(0, 10**6))
def test_windows_tile_the_chain_and_deadlines_are_in_order(schedule: Schedule, window: int) -> None:
    first, last = schedule.first_block(window), schedule.commit_block(window)
    assert schedule.window_of(first) == schedule.window_of(last) == window
    assert schedule.window_of(first - 1) == window - 1
    assert schedule.window_of(last + 1) == window + 1
    assert schedule.first_block(window + 1) == last + 1 == schedule.stake_block(window)
    assert 0 <= schedule.assignment_block(window) < first
    ordered = [
        schedule.commit_block(window),
        schedule.stake_block(window),
        schedule.held_out_block(window),
        schedule.vote_block(window),
        schedule.apply_block(window),
    ]
    assert ordered == sorted(set(ordered))
    assert schedule.window_of(schedule.vote_block(window)) == window + 1
    assert schedule.apply_block(window) == schedule.first_block(window + 2)
