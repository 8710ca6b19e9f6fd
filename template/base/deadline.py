"""When an inner loop must end, so that its payload is encoded, saved and committed in time."""

from collections.abc import Iterable

from template.context import NodeContext

COMMIT_MARGIN_BLOCKS = 4
"""Blocks between a payload that is saved and the end of its window, for the commitment. Too small
loses windows, too large loses training time. What encoding and saving take is measured, and comes
on top: 10 B parameters take minutes."""

NUM_RECENT = 8
"""Windows that say how much this machine can do."""


class Deadline:
    """Measures what comes between the end of training and the saved payload, in blocks."""

    def __init__(self, context: NodeContext, recent_blocks: Iterable[int]) -> None:
        self._context = context
        self.recent_blocks = list(recent_blocks)
        """Blocks from the end of training to the saved payload, in the last windows."""
        self._ended: tuple[int, int] | None = None
        """(window, the head when its inner loop ended); None once its payload is saved."""

    def note_end(self, window: int) -> None:
        """The inner loop of `window` ends now."""
        self._ended = window, self._context.waiter.recent_head()

    def note_saved(self, window: int) -> None:
        """The payload is on the disk: the longest of the last windows ends later loops earlier."""
        if self._ended is None or window != self._ended[0]:
            return
        blocks = self._context.waiter.recent_head() - self._ended[1]
        self._ended = None
        self.recent_blocks = [*self.recent_blocks, blocks][-NUM_RECENT:]

    def forget_longest(self) -> None:
        """A window without a payload measures nothing: one that stood still would count for ever
        on a machine that needs more than half a window.
        """
        if self.recent_blocks:
            self.recent_blocks.remove(max(self.recent_blocks))

    def blocks_left(self, window: int) -> int:
        """Blocks until training must stop."""
        schedule = self._context.schedule
        # One window on a machine that stood still must not end all training.
        finish = min(max(self.recent_blocks, default=0), schedule.blocks_of(window) // 2)
        last_block = schedule.commit_block(window) - COMMIT_MARGIN_BLOCKS - finish
        return last_block - self._context.waiter.recent_head()
