"""The window that a payload under way is for: of its page list, or of a later one.

At a window's deadline a miner sends what it has trained. A payload is for a later window, as far as
the run's `max_staleness` goes, where the miner has asked for several windows (`--neuron.windows`),
where a machine is so slow that it has too few pages for a payload, and where its last step ended
too late.
"""

import logging
from collections.abc import Mapping
from typing import Any

from template.base.deadline import COMMIT_MARGIN_BLOCKS, Deadline
from template.chain.ballots import read_records
from template.context import NodeContext
from template.protocol.run import Run

log = logging.getLogger(__name__)


def last_window_under(run: Run, window: int) -> int:
    """The last window under the spec of `window`: no payload crosses a succession."""
    spec = run.at(window)
    later = [each.first_window - 1 for each in run if each.first_window > spec.first_window]
    return min([*later, spec.schedule.num_windows - 1])


class Target:
    """Moves to a later window when the time for the present one is over."""

    def __init__(
        self, run: Run, deadline: Deadline, base: int, first: int, windows: int = 1
    ) -> None:
        """`base`: the window of the page list. `first`: the first window that has no own payload
        yet. `windows`: so many may one payload take.
        """
        self._run, self._base, self._deadline = run, base, deadline
        self.window = max(base, first)
        self._wanted = max(self.window, base + windows - 1)
        self._begun_block, self._steps_begun, self._step_blocks = 0, 0, 0.0

    @property
    def _last(self) -> int:
        """The last window that the payload may be for; a succession may be adopted meanwhile."""
        stalest = self._base + self._run.at(self._base).outer.max_staleness
        return min(stalest, last_window_under(self._run, self._base))

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
        """Whether training must stop; moves to the next window where the payload may wait for it.

        A step is not begun where it would end too late for the payload's window.
        """
        while self._is_late():
            has_few = self._steps_begun <= 1
            if self.window >= self._last or (self.window >= self._wanted and not has_few):
                return True
            self.window += 1
        return False

    def _is_late(self) -> bool:
        left = self._deadline.blocks_left(self.window)
        return left <= 0 or left + COMMIT_MARGIN_BLOCKS - 1 < self._step_blocks

    def settle(self) -> None:
        """Training has ended: move on if nothing can be committed in this window any more."""
        while (
            self._deadline.blocks_left(self.window) <= 1 - COMMIT_MARGIN_BLOCKS
            and self.window < self._last
        ):
            self.window += 1


class Turns:
    """Which page list is trained next, and for which window a payload may be."""

    def __init__(
        self,
        context: NodeContext,
        deadline: Deadline,
        saved: Mapping[str, Any],
    ) -> None:
        """`saved`: an earlier process's `values`."""
        self._run, self._deadline = context.run, deadline
        self._windows = context.inner.windows
        self.last_list = int(saved.get("last_window", -1))
        """The window of the last page list trained; -1 before the first."""
        self.last_sent = int(saved.get("last_sent", self.last_list))
        """The window of the last payload; a slow machine's is later than its page list's."""
        self._skip_claimed(context)

    def _skip_claimed(self, context: NodeContext) -> None:
        """Leave out page lists that a process before may have claimed after its last save.

        A state folder lost, or restored from a copy, does not know of that payload. Validators
        refuse a page list claimed twice, and no list is newer than the payload made of it.
        """
        records = read_records(context.chain, context.chain.head(), self._run.run_id)
        record = records.get(context.hotkey)
        said = -1 if record is None or record.payload is None else record.payload.window
        if said <= self.last_sent:
            return
        self.last_list, self.last_sent = max(self.last_list, said), said
        log.warning(
            "--neuron.state_dir: this hotkey has committed a payload of window %d, of which the "
            "state folder knows nothing: training begins with window %d, so that no page list is "
            "claimed twice",
            said,
            said + 1,
        )

    def next_list(self, *, is_slow: bool) -> int:
        """The first window whose page list may be trained next.

        A slow machine takes the list after the last one. One that once was late leaves a list out
        instead, or all of its later payloads would be a window late too.
        """
        return 1 + (self.last_list if is_slow else max(self.last_list, self.last_sent))

    def target_of(self, base: int) -> Target:
        """The target of a payload from the page list of `base`."""
        return Target(self._run, self._deadline, base, self.last_sent + 1, self._windows)

    def values(self) -> dict[str, int]:
        """Plain JSON values for the local checkpoint."""
        return {"last_window": self.last_list, "last_sent": self.last_sent}
