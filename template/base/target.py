"""The window that a payload under way is for: of its page list, or of a later one.

A machine too slow for a window's inner loop trains on through the windows that follow, and sends
one whole payload in the first of them that has time for it, as far as the run's `max_staleness`
goes. Slow machines so bring the run more than with a part of the steps in every window
(docs/learning.md), and no machine ever stops training at a deadline.
"""

from collections.abc import Mapping
from typing import Any

from template.base.deadline import Deadline
from template.protocol.spec import RunSpec


class Target:
    """Moves to a later window when the time for the present one is over."""

    def __init__(self, spec: RunSpec, deadline: Deadline, base: int, first: int) -> None:
        """`base`: the window of the page list. `first`: the first window that has no own payload
        yet; `base` at least.
        """
        self._deadline = deadline
        self.window = max(base, first)
        self._last = min(base + spec.outer.max_staleness, spec.schedule.num_windows - 1)
        self._begun_block, self._steps_begun, self._step_blocks = 0, 0, 0.0

    @property
    def is_open(self) -> bool:
        """Whether there is such a window at all."""
        return self.window <= self._last

    def note_step(self, head: int) -> None:
        """An inner step is to begin at this block: steps take as long as those before."""
        if self._steps_begun == 0:
            self._begun_block = head
        else:
            self._step_blocks = (head - self._begun_block) / self._steps_begun
        self._steps_begun += 1

    def is_over(self) -> bool:
        """Whether training must stop; moves to the next window while one is left.

        In the last window a step is begun only if it can end there.
        """
        while self._deadline.blocks_left(self.window) <= 0:
            if self.window >= self._last:
                return True
            self.window += 1
        is_last = self.window >= self._last
        return is_last and self._deadline.blocks_left(self.window) <= self._step_blocks


class Turns:
    """Which page list is trained next, and for which window a payload may be."""

    def __init__(self, spec: RunSpec, deadline: Deadline, saved: Mapping[str, Any]) -> None:
        """`saved`: an earlier process's `values`."""
        self._spec, self._deadline = spec, deadline
        self.last_list = int(saved.get("last_window", -1))
        """The window of the last page list trained; -1 before the first."""
        self.last_sent = int(saved.get("last_sent", self.last_list))
        """The window of the last payload; a slow machine's is later than its page list's."""

    def next_list(self, *, is_slow: bool) -> int:
        """The first window whose page list may be trained next.

        A slow machine takes the list after the last one. One that once was late leaves a list out
        instead, or all of its later payloads would be a window late too.
        """
        return 1 + (self.last_list if is_slow else max(self.last_list, self.last_sent))

    def target_of(self, base: int) -> Target:
        """The target of a payload from the page list of `base`."""
        return Target(self._spec, self._deadline, base, self.last_sent + 1)

    def values(self) -> dict[str, int]:
        """Plain JSON values for the local checkpoint."""
        return {"last_window": self.last_list, "last_sent": self.last_sent}
