"""When a validator sets weights: a new row, the same row again, or nothing. Pure.

A row counts until the chain's cut-off after the hotkey's last update, and the chain refuses the
next row within its rate limit. With commit-reveal both count from the commit, not from the reveal,
and the chain reveals by itself: a validator has nothing to do then, so both kinds of subnet follow
the same rules here.
"""

from enum import Enum

from template.chain import WeightTimes

LOOKS_IN_CUTOFF = 4
"""Looks at the age of a row before the chain stops to count the row: the third from the end may be
refused, and the next is still in time."""


class Choice(Enum):
    """The step that a validator takes about its weights when it looks at their age."""

    NEW = "new"
    """Set the weights of a pay window for the first time."""
    AGAIN = "again"
    """Set the same weights again: without that they would age out before the look after next."""
    WAIT = "wait"
    """NEW or AGAIN, once the rate limit allows it."""
    NOTHING = "nothing"


def look_every_blocks(times: WeightTimes, blocks_per_window: int) -> int:
    """Longest distance of two looks: a window, or less where a window is long for the cut-off."""
    return max(1, min(blocks_per_window, times.cutoff_blocks // LOOKS_IN_CUTOFF))


def choose(
    times: WeightTimes, *, block: int, last_update: int, is_new: bool, every_blocks: int
) -> Choice:
    """The choice at the best block `block`; the next look comes `every_blocks` later.

    `last_update`: block of the hotkey's last weights or commit. `is_new`: a pay window's weights
    have not been set yet.
    """
    ages_out = block + 2 * every_blocks >= last_update + times.cutoff_blocks
    if not (is_new or ages_out):
        return Choice.NOTHING
    if block - last_update < times.rate_limit_blocks:
        return Choice.WAIT
    return Choice.NEW if is_new else Choice.AGAIN
