"""What a node can go back to: whole states on disk, and the steps taken since the oldest of them.

Anchors are kept at checkpoints. A flipped bit, or a window found void, is mended by taking the
steps from an anchor on again; so there is always one from before the windows that may become void.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from template.errors import ConfigError, ObjectError, disk_trouble
from template.protocol.lineage import LineageStep, encode_lineage, newly_void, parse_lineage
from template.protocol.quorum import VOID_WINDOWS
from template.protocol.spec import RunSpec
from template.training.checkpoint import LocalCheckpoint, load_local, save_local
from template.training.outer import OuterState

log = logging.getLogger(__name__)

MIN_ANCHORS = 2
"""The newest may have been made after whatever went wrong."""


def kept_anchors(windows: Sequence[int], current: int) -> set[int]:
    """Which anchors a node at theta_current still needs: the last ones, and all back to the first
    from before the windows that may become void.
    """
    ordered = sorted(windows, reverse=True)
    old = [w for w in ordered if w < current - VOID_WINDOWS]
    return {*ordered[:MIN_ANCHORS], *(w for w in ordered if not old or w >= old[0])}


class Past:
    """Anchors and steps of a node that stands at `state`; what leads elsewhere is dropped."""

    def __init__(self, folder: Path, spec: RunSpec, state: OuterState) -> None:
        self._folder, self._spec = folder, spec
        self.steps: list[LineageStep] = self._read(state)
        if not self._leads_to(state):
            self.steps = []
            self._drop(lambda _window: True)
            self.anchor(state)

    def remember(self, step: LineageStep, after: OuterState) -> None:
        """A step was taken; at a checkpoint the state after it becomes an anchor."""
        self.steps.append(step)
        path = self._journal
        try:
            with path.open("ab") as file:
                file.write(encode_lineage([step]))
        except OSError as error:
            raise disk_trouble(path, error) from error
        if after.window % self._spec.checkpoint.every_windows == 0:
            self.anchor(after)

    def anchor(self, state: OuterState) -> None:
        """Keep a state, and no more than is needed of those before it."""
        save_local(self._place(state.window), LocalCheckpoint(state=state), self._spec.run_id)
        keep = kept_anchors(self._windows(), state.window)
        self._drop(lambda window: window not in keep)
        self._write([step for step in self.steps if step.window >= min(keep) - 1])

    def anchors(self) -> Iterator[OuterState]:
        """The states kept, newest first. One that cannot be read is passed over."""
        for window in sorted(self._windows(), reverse=True):
            try:
                kept = load_local(self._place(window), self._spec)
            except ConfigError as error:
                log.warning("the state kept of theta_%d is of no use: %s", window, error)
                continue
            if kept is not None:
                yield kept.state

    def steps_from(self, state: OuterState) -> list[LineageStep]:
        """Those that lead on from a state."""
        return [step for step in self.steps if step.window >= state.window - 1]

    def newly_void(self) -> int | None:
        """The window that the last step has found void."""
        return newly_void(self.steps)

    def restart(self, start: OuterState, taken: Sequence[LineageStep]) -> None:
        """The steps `taken` lead on from the anchor `start` now; anchors made after it are of what
        went wrong.
        """
        before = [step for step in self.steps if step.window < start.window - 1]
        self._drop(lambda window: window > start.window)
        self._write([*before, *taken])

    def replace_by(self, other: "Past") -> None:
        """Take over what another past keeps; that is of no more use then."""
        self._drop(lambda _window: True)
        try:
            for window in other._windows():
                other._place(window).replace(self._place(window))
        except OSError as error:
            raise disk_trouble(self._folder, error) from error
        self._write(other.steps)

    @property
    def _journal(self) -> Path:
        return self._folder / "lineage.jsonl"

    def _place(self, window: int) -> Path:
        return self._folder / f"anchor-{window:08d}.safetensors"

    def _windows(self) -> list[int]:
        names = (path.name for path in self._folder.glob("anchor-*.safetensors"))
        found = (re.fullmatch(r"anchor-(\d{8,})\.safetensors", name) for name in names)
        return [int(match[1]) for match in found if match]

    def _drop(self, useless: Callable[[int], bool]) -> None:
        for window in self._windows():
            if useless(window):
                self._place(window).unlink(missing_ok=True)

    def _read(self, state: OuterState) -> list[LineageStep]:
        """The journal up to `state`. A kill may have left a step more, or a part of one."""
        if not self._journal.exists():
            return []
        lines = self._journal.read_bytes().splitlines(keepends=True)
        whole = b"".join(line for line in lines if line.endswith(b"\n"))
        try:
            steps = parse_lineage(whole)
        except ObjectError as error:
            log.warning("%s is of no use: %s", self._journal, error)
            return []
        steps = [step for step in steps if step.window < state.window - 1]
        self._write(steps)
        return steps

    def _leads_to(self, state: OuterState) -> bool:
        """Whether some anchor and the steps from it end at `state`."""
        windows = self._windows()
        if not self.steps:
            return windows == [state.window]
        last = self.steps[-1]
        oldest = min(windows, default=0)
        return (
            self.steps[0].window <= oldest - 1 <= last.window + 1
            and last.window == state.window - 2
            and last.next_root == state.root
        )

    def _write(self, steps: Sequence[LineageStep]) -> None:
        """The journal, whole or not at all."""
        self.steps = list(steps)
        partial = self._journal.with_suffix(".partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(encode_lineage(steps))
            partial.replace(self._journal)
        except OSError as error:
            raise disk_trouble(self._journal, error) from error
