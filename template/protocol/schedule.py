"""The map between blocks and windows, and every deadline.

Window w is blocks [start + w*B, start + (w+1)*B). All functions are pure: block numbers alone
decide when a node acts, never a clock.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Block arithmetic of one run. All lengths are in blocks.

    `start_block`: first block of window 0. `blocks_per_window` (B): length of a window.
    `upload_blocks` (K): after a window's end, until validators may expect the payloads.
    `vote_margin_blocks` (M): before the end of the next window, when votes are counted.
    A change of any length changes the accepted sets of all nodes.
    """

    start_block: int
    blocks_per_window: int
    upload_blocks: int
    vote_margin_blocks: int

    def window_of(self, block: int) -> int:
        """The window that holds `block`; negative before the run starts."""
        return (block - self.start_block) // self.blocks_per_window

    def first_block(self, window: int) -> int:
        return self.start_block + window * self.blocks_per_window

    def assignment_block(self, window: int) -> int:
        """The block whose hash draws the assigned pages of `window`."""
        return self.first_block(window) - self.vote_margin_blocks

    def commit_block(self, window: int) -> int:
        """The last block for a payload digest of `window` to stand on chain."""
        return self.first_block(window + 1) - 1

    def stake_block(self, window: int) -> int:
        """The block whose uids, permits and stakes count for `window`."""
        return self.first_block(window + 1)

    def held_out_block(self, window: int) -> int:
        """The block whose hash draws the held-out pages of `window`, after all commitments."""
        return self.first_block(window + 1) + self.upload_blocks

    def vote_block(self, window: int) -> int:
        """The block at which the standing votes on `window` are counted."""
        return self.first_block(window + 2) - self.vote_margin_blocks

    def last_counted(self, block: int) -> int:
        """The newest window with its vote block at or before `block`; negative without one."""
        return self.window_of(block + self.vote_margin_blocks) - 2

    def apply_block(self, window: int) -> int:
        """The first block at which the parameters contain the update of `window`."""
        return self.first_block(window + 2)
