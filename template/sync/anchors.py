"""The node's past on disk: anchors (whole states) and the journal of the steps since the oldest.

Anchors are made at checkpoints. To repair a flipped bit or a void window, the node takes the steps
from an anchor again, so the oldest anchor always dates from before every window still voidable.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from template.errors import ConfigError, ObjectError, disk_trouble, unreadable
from template.files import append_whole
from template.protocol.lineage import LineageStep, encode_lineage, parse_lineage
from template.protocol.quorum import VOID_WINDOWS
from template.protocol.run import Run
from template.sync.recovery import Recovered
from template.training.checkpoint import LocalCheckpoint, load_local, remove_local, save_local
from template.training.outer import OuterState
from template.training.spread import Spreader

log = logging.getLogger(__name__)

MIN_ANCHORS = 2
"""Anchors to keep at least. The newest may have been made after the fault to repair."""

Steps = tuple[LineageStep, ...]


def anchors_to_keep(windows: Sequence[int], current: int) -> set[int]:
    """The anchors still needed by a node at theta_current.

    The newest `MIN_ANCHORS`, and all anchors back to the first from before every voidable window.
    """
    ordered = sorted(windows, reverse=True)
    old = [w for w in ordered if w < current - VOID_WINDOWS]
    return {*ordered[:MIN_ANCHORS], *(w for w in ordered if not old or w >= old[0])}


class AnchorStore:
    """Anchors and journal in a folder. StateError where the disk refuses a write or a read."""

    def __init__(self, folder: Path, run: Run, spreader: Spreader | None = None) -> None:
        self._folder, self._run, self._spreader = folder, run, spreader

    def open(self, state: OuterState) -> Steps:
        """The recorded steps up to `state`; a record with another end is dropped.

        A kill may have left an extra step in the journal, or a part of a step.
        """
        self._drop_orphans()
        steps = self._read_journal(state)
        if self._leads_to(state, steps):
            self._write_journal(steps)
            return steps
        self._drop_anchors(lambda _window: True)
        return self.save_anchor(state, ())

    def record_step(self, steps: Steps, after: OuterState) -> Steps:
        """Append the last of `steps` to the journal; at a checkpoint `after` becomes an anchor.

        Returns the steps still needed.
        """
        try:
            append_whole(self._journal, encode_lineage(steps[-1:]))
        except OSError as error:
            raise disk_trouble(self._journal, error) from error
        if not self._run.is_checkpoint(after.window):
            return steps
        return self.save_anchor(after, steps)

    def save_anchor(self, state: OuterState, steps: Steps) -> Steps:
        """Keep `state`, and drop the anchors and steps no longer needed."""
        anchor = LocalCheckpoint(state=state)
        save_local(self.path_of(state.window), anchor, self._run.run_id)
        keep = anchors_to_keep(self._anchor_windows(), state.window)
        self._drop_anchors(lambda window: window not in keep)
        # The step on window w leads from theta_{w+1}: the oldest anchor needs window - 1 on.
        kept = tuple(step for step in steps if step.window >= min(keep) - 1)
        self._write_journal(kept)
        return kept

    def load_anchors(self) -> Iterator[OuterState]:
        """The anchors, newest first. An unreadable anchor is logged and passed over."""
        for window in sorted(self._anchor_windows(), reverse=True):
            try:
                kept = load_local(self.path_of(window), self._run.first, self._spreader)
            except ConfigError as error:
                log.warning("anchor of theta_%d is unreadable and ignored: %s", window, error)
                continue
            if kept is not None:
                yield kept.state

    def restart_from(self, recovered: Recovered, steps: Steps) -> Steps:
        """Record the retaken steps from an anchor on; returns all steps kept.

        Anchors made after the start contain the fault and are dropped.
        """
        before = (step for step in steps if step.window < recovered.start_window - 1)
        self._drop_anchors(lambda window: window > recovered.start_window)
        kept = (*before, *recovered.steps)
        self._write_journal(kept)
        return kept

    def restart_at(self, start: OuterState, steps: Steps) -> Steps:
        """Replace everything by an anchor of `start` and the steps after; returns the steps."""
        self._drop_anchors(lambda _window: True)
        self.save_anchor(start, ())
        self._write_journal(steps)
        return steps

    @property
    def _journal(self) -> Path:
        return self._folder / "lineage.jsonl"

    def path_of(self, window: int) -> Path:
        """Where the anchor of theta_window is, if it is here."""
        return self._folder / f"anchor-{window:08d}.safetensors"

    def _anchor_windows(self) -> list[int]:
        names = (path.name for path in self._folder.glob("anchor-*.safetensors"))
        found = (re.fullmatch(r"anchor-(\d{8,})\.safetensors", name) for name in names)
        return [int(match[1]) for match in found if match]

    def _drop_anchors(self, is_useless: Callable[[int], bool]) -> None:
        for window in self._anchor_windows():
            if not is_useless(window):
                continue
            path = self.path_of(window)
            try:
                remove_local(path)
            except OSError as error:
                raise disk_trouble(path, error) from error

    def _drop_orphans(self) -> None:
        """Remove pieces of an anchor that a kill kept from being named."""
        for folder in self._folder.glob("anchor-*"):
            path = folder.with_suffix(".safetensors")
            if not folder.is_dir() or path.exists():
                continue
            try:
                remove_local(path)
            except OSError as error:
                raise disk_trouble(folder, error) from error

    def _read_journal(self, state: OuterState) -> Steps:
        """The whole lines of the journal, up to the last step before `state`."""
        try:
            lines = self._journal.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise unreadable(self._journal, error) from error
        whole = b"".join(line for line in lines if line.endswith(b"\n"))
        try:
            steps = parse_lineage(whole)
        except ObjectError as error:
            log.warning("journal %s is unreadable and ignored: %s", self._journal, error)
            return ()
        return tuple(step for step in steps if step.window < state.window - 1)

    def _leads_to(self, state: OuterState, steps: Steps) -> bool:
        """Whether the oldest anchor and the steps after the anchor end at `state`."""
        windows = self._anchor_windows()
        if not steps:
            return windows == [state.window]
        last = steps[-1]
        oldest = min(windows, default=0)
        return (
            steps[0].window <= oldest - 1 <= last.window + 1
            and last.window == state.window - 2
            and last.next_root == state.root
        )

    def _write_journal(self, steps: Sequence[LineageStep]) -> None:
        partial = self._journal.with_suffix(".partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Written aside and renamed: a kill leaves the journal before, never half of one.
            partial.write_bytes(encode_lineage(steps))
            partial.replace(self._journal)
        except OSError as error:
            raise disk_trouble(self._journal, error) from error
