"""How wide the steps of this machine are: a fast one takes several times the pages of a step.

A machine that ends its inner loop long before the window does takes wider steps in the next one, up
to the run's bound: more speed so becomes more pages, on one hotkey.
"""

from typing import Final

from template.protocol.spec import RunSpec

SPARE: Final = 1.1
"""A loop is planned for so much less than a window: a machine is not equally fast in all windows.
"""
MOST_GROWTH: Final = 2
"""A loop of a few blocks is measured coarsely: the next is at most so many times as wide."""


class Stride:
    """The width of the next payload. `asked`: the operator's; 0: as wide as the machine can."""

    def __init__(self, spec: RunSpec, asked: int, last: int = 1) -> None:
        self._most, self._asked = spec.training.max_width, asked
        self.window_blocks = spec.schedule.blocks_per_window
        self.width = min(asked or last, self._most)

    def note_loop(self, blocks: int) -> None:
        """A whole inner loop of this width took so many blocks."""
        if self._asked:
            return
        fitting = int(self.window_blocks * self.width / (SPARE * blocks))
        self.width = max(1, min(fitting, MOST_GROWTH * self.width, self._most))
