"""The map between blocks and windows, and every deadline.

A window is a stretch of blocks of its era, [start + i*B, start + (i+1)*B) for its i-th window. All
functions are pure: block numbers alone decide when a node acts, never a clock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Era:
    """Windows of one length, from `first_window` with block `start_block` on. All else in blocks.

    `blocks_per_window` (B): length of a window. `upload_blocks` (K): from a window's start, until
    validators may expect the payloads of the window before. `vote_margin_blocks` (M): before a
    window's end, when the votes on the window before are counted.
    """

    first_window: int
    start_block: int
    blocks_per_window: int
    upload_blocks: int
    vote_margin_blocks: int

    def first_block(self, window: int) -> int:
        return self.start_block + (window - self.first_window) * self.blocks_per_window

    def window_of(self, block: int) -> int:
        return self.first_window + (block - self.start_block) // self.blocks_per_window


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Block arithmetic of one run: the first era's lengths in blocks, and the eras after.

    `start_block`: first block of window 0. The others as in `Era`. A change of any length changes
    the accepted sets of all nodes. The payloads of window w are uploaded, scored and voted on in
    window w+1, so the era of window w+1 has the lengths of these phases.
    """

    start_block: int
    blocks_per_window: int
    upload_blocks: int
    vote_margin_blocks: int
    later: tuple[Era, ...] = ()

    def with_era(
        self, window: int, *, blocks_per_window: int, upload_blocks: int, vote_margin_blocks: int
    ) -> "Schedule":
        """The schedule with other lengths from `window` on. ValueError before a later era."""
        if window <= (self.later[-1].first_window if self.later else 0):
            raise ValueError(f"window {window} is not after the start of the last era")
        era = Era(
            first_window=window,
            start_block=self.first_block(window),
            blocks_per_window=blocks_per_window,
            upload_blocks=upload_blocks,
            vote_margin_blocks=vote_margin_blocks,
        )
        return replace(self, later=(*self.later, era))

    def era(self, window: int) -> Era:
        """The era of a window; of windows before the run the first."""
        return _last(self._eras(), lambda era: era.first_window <= window)

    def _eras(self) -> tuple[Era, ...]:
        first = Era(
            first_window=0,
            start_block=self.start_block,
            blocks_per_window=self.blocks_per_window,
            upload_blocks=self.upload_blocks,
            vote_margin_blocks=self.vote_margin_blocks,
        )
        return (first, *self.later)

    def window_of(self, block: int) -> int:
        """The window that holds `block`; negative before the run starts."""
        return _last(self._eras(), lambda era: era.start_block <= block).window_of(block)

    def first_block(self, window: int) -> int:
        return self.era(window).first_block(window)

    def blocks_of(self, window: int) -> int:
        """Length of a window."""
        return self.era(window).blocks_per_window

    def assignment_block(self, window: int) -> int:
        """The block whose hash draws the assigned pages of `window`."""
        return self.first_block(window) - self.era(window - 1).vote_margin_blocks

    def commit_block(self, window: int) -> int:
        """The last block for a payload digest of `window` to stand on chain."""
        return self.first_block(window + 1) - 1

    def stake_block(self, window: int) -> int:
        """The block whose uids, permits and stakes count for `window`."""
        return self.first_block(window + 1)

    def held_out_block(self, window: int) -> int:
        """The block whose hash draws the held-out pages of `window`, after all commitments."""
        return self.first_block(window + 1) + self.era(window + 1).upload_blocks

    def vote_block(self, window: int) -> int:
        """The block at which the standing votes on `window` are counted."""
        return self.first_block(window + 2) - self.era(window + 1).vote_margin_blocks

    def last_counted(self, block: int) -> int:
        """The newest window with its vote block at or before `block`; negative without one."""
        window = self.window_of(block) - 1
        return window if self.vote_block(window) <= block else window - 1

    def apply_block(self, window: int) -> int:
        """The first block at which the parameters contain the update of `window`."""
        return self.first_block(window + 2)


def _last(eras: Sequence[Era], has_begun: Callable[[Era], bool]) -> Era:
    """The last era that has begun, or the first."""
    return next((era for era in reversed(eras) if has_begun(era)), eras[0])
