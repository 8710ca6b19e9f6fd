"""The voice of waits: what a node waits for, until which block, and about what time that is.

Every wait of a node speaks here, and nowhere else. A short wait is silent; a long one is told
rarely and more rarely: after `FIRST_LINE_S`, a minute later, and then at gaps that double up to
`MAX_GAP_S`. A wait that is interrupted and begun anew goes on where it was.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from template.chain.health import format_duration

FIRST_LINE_S: Final = 10.0
"""A wait is told after this time; most waits are over before."""
SECOND_GAP_S: Final = 60.0
MAX_GAP_S: Final = 900.0
MAX_REMEMBERED: Final = 8
"""Waits that may be interleaved."""
SHORT_S, DAY_S = 120.0, 86400.0

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Awaited:
    """What a node waits for, in words that follow "waiting for".

    `by_block`: the block with which the wait ends, or ends at the latest.
    """

    what: str
    by_block: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where the chain is: the block reached, and seconds per block (None: not observed yet)."""

    block: int
    block_s: float | None


@dataclass(kw_only=True, slots=True)
class _Told:
    since_s: float
    next_s: float
    gap_s: float = SECOND_GAP_S


class Voice:
    """Tells of waits. `now_s` measures how long they last, `utc_s` names the time of their ends."""

    def __init__(self, tell: Tell, now_s: Callable[[], float], utc_s: Callable[[], float]) -> None:
        self._tell, self._now_s, self._utc_s = tell, now_s, utc_s
        self._waits: OrderedDict[Awaited, _Told] = OrderedDict()

    def note(self, awaited: Awaited, position: Callable[[], Position], progress: str = "") -> None:
        """Say that the wait goes on; a line where one is due. `position` is read for a line."""
        now_s = self._now_s()
        told = self._waits.pop(awaited, None)
        if told is None:
            told = _Told(since_s=now_s, next_s=now_s + FIRST_LINE_S)
        self._waits[awaited] = told
        while len(self._waits) > MAX_REMEMBERED:
            self._waits.popitem(last=False)
        if now_s < told.next_s:
            return
        told.next_s, told.gap_s = now_s + told.gap_s, min(2 * told.gap_s, MAX_GAP_S)
        self._tell(self._line(awaited, position, now_s - told.since_s, progress))

    def _line(
        self, awaited: Awaited, position: Callable[[], Position], waited_s: float, progress: str
    ) -> str:
        so_far = f"{format_duration(waited_s)} so far" + (f", {progress}" if progress else "")
        if awaited.by_block is None:
            return f"waiting for {awaited.what} ({so_far})"
        until = self.describe(awaited.by_block, position())
        return f"waiting for {awaited.what}: until {until} ({so_far})"

    def describe(self, block: int, position: Position) -> str:
        """A block, how far away, and about what time once the chain's pace is known."""
        num_blocks = block - position.block
        if num_blocks <= 0:
            return f"block {block}, any moment now"
        ahead = f"block {block}, {num_blocks} block{'s' if num_blocks > 1 else ''} from now"
        if position.block_s is None:
            return ahead
        left_s = num_blocks * position.block_s
        return f"{ahead}, in about {format_duration(left_s)} ({self._time_after(left_s)})"

    def _time_after(self, left_s: float) -> str:
        """The time of day `left_s` from now, with the date where it is far away."""
        form = "%H:%M:%S UTC" if left_s < SHORT_S else "%H:%M UTC"
        form = f"%Y-%m-%d {form}" if left_s >= DAY_S / 2 else form
        return time.strftime(form, time.gmtime(self._utc_s() + left_s))
