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
        self._asked, self.width = asked, asked or last
        self.follow(spec)

    def follow(self, spec: RunSpec) -> None:
        """Plan by this spec from now on."""
        self._most, self._inner_steps = spec.training.max_width, spec.training.inner_steps
        self.window_blocks = spec.schedule.blocks_per_window
        self.width = min(self._asked or self.width, self._most)

    def note_loop(self, blocks: int, steps: int) -> bool:
        """An inner loop of this width took so many blocks for its steps; whether it was whole.

        One that was ended widens nothing. A machine that has become slow ends no loop by itself,
        and would keep to wide steps for ever.
        """
        is_whole = steps == self._inner_steps
        if steps > 0 and not self._asked:
            fitting = int(
                self.window_blocks * self.width * steps / (SPARE * blocks * self._inner_steps)
            )
            growth = MOST_GROWTH if is_whole else 1
            self.width = max(1, min(fitting, growth * self.width, self._most))
        return is_whole
