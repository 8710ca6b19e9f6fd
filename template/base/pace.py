"""A validator's pace: how much of a window's scoring period has passed, in blocks of the chain."""

import logging
import math

from template.context import NodeContext

log = logging.getLogger(__name__)

VOTE_MARGIN_BLOCKS = 2
"""Blocks between the end of scoring and the vote block: the vote must get into a block."""


class ScoringPace:
    """Measures the time left for a window, and reports a validator behind the chain."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._keeps_up = True

    def has_passed(self, window: int, fraction: float) -> bool:
        """Whether this fraction of the blocks between upload deadline and vote is over."""
        return self._context.waiter.recent_head() >= self.block_of(window, fraction)

    def block_of(self, window: int, fraction: float) -> int:
        """The first block with this fraction over."""
        start = self._context.schedule.held_out_block(window)
        return math.ceil(start + fraction * self.num_blocks(window))

    def num_blocks(self, window: int) -> int:
        """Blocks between upload deadline and vote."""
        schedule = self._context.schedule
        end = schedule.vote_block(window) - VOTE_MARGIN_BLOCKS
        return end - schedule.held_out_block(window)

    def is_too_late(self, window: int) -> bool:
        """Whether the window can no longer be scored and voted on."""
        return self.has_passed(window, 1.0)

    def has_time_to_measure(self, next_window: int) -> bool:
        """Whether a point of the loss curve costs no vote; the run's last point always counts."""
        is_last = next_window >= self._context.run.num_windows
        return is_last or not self.is_too_late(next_window)

    def report(self, window: int, last_voted: int) -> None:
        """Log when this node falls behind the chain, and when the node has caught up."""
        keeps_up = window <= last_voted or not self.is_too_late(window)
        if self._keeps_up and not keeps_up:
            log.warning(
                "window %d: too late to score it and vote; catching up, without loss curve. If "
                "this comes again, the machine is too slow for the run spec's windows, or shared: "
                "several neurons on one machine need OMP_NUM_THREADS=1 or so each",
                window,
            )
        elif keeps_up and not self._keeps_up:
            log.warning("window %d: caught up with the chain", window)
        self._keeps_up = keeps_up
