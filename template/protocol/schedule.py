"""The map between blocks and windows, and every deadline, in one place.

Window w is blocks [start + w*B, start + (w+1)*B). All functions are pure: what a node
does when is decided by block numbers alone, never by a clock.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Block arithmetic of one run. All lengths are in blocks.

    `start_block`: first block of window 0. `blocks_per_window` (B): length of a window.
    `upload_blocks` (K): after a window's end, until validators may expect the payloads.
    `vote_margin_blocks` (M): before the end of the next window, when votes are counted.
    Changing any of them changes what every node accepts.
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
        """Its hash draws the pages of `window`: unknown before, the same for ever after."""
        return self.first_block(window) - self.vote_margin_blocks

    def commit_block(self, window: int) -> int:
        """The last block at which a payload digest of `window` may stand on chain."""
        return self.first_block(window + 1) - 1

    def stake_block(self, window: int) -> int:
        """Uids, permits and stakes that count for `window` are those of this block."""
        return self.first_block(window + 1)

    def held_out_block(self, window: int) -> int:
        """Its hash draws the held-out pages that score `window`: the payloads are fixed by then."""
        return self.first_block(window + 1) + self.upload_blocks

    def vote_block(self, window: int) -> int:
        """Votes on `window` count as they stand at this block."""
        return self.first_block(window + 2) - self.vote_margin_blocks

    def apply_block(self, window: int) -> int:
        """From this block on, the parameters contain the update of `window`."""
        return self.first_block(window + 2)
