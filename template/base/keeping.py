"""A miner's local checkpoint: what a commitment needs at once, and everything else after it."""

from collections.abc import Collection
from typing import Final

from template.base.conduct import MOMENTS, Work
from template.base.desk import Desk
from template.base.pending import PendingPayloads
from template.context import NodeContext
from template.sync.follower import Follower
from template.sync.own_checkpoint import OwnCheckpoints
from template.training.checkpoint import STATE, LocalCheckpoint

LATER: Final = (STATE, MOMENTS)
"""What a commitment does not wait for. A restart follows the run from an older theta, and trains on
with older moments; error feedback and payloads go with the commitment."""


class Keeper:
    """Saves what a restart needs. Training stands still where it shares the memory saved."""

    def __init__(self, context: NodeContext, desk: Desk, follower: Follower, work: Work) -> None:
        self._desk, self._follower, self._work = desk, follower, work
        self._own_checkpoints = OwnCheckpoints(context, drops_downloads=False)
        self._has_saved_theta = False
        """Whether a theta was saved since the node last joined a published one."""

    def save(self) -> None:
        """Everything."""
        with self._work.still(), self._desk:
            self._write()

    def save_new(self) -> None:
        """What the next commitment needs: error feedback and payloads."""
        with self._work.still(), self._desk:
            self._write(LATER)

    def save_rest(self) -> None:
        """Everything; large files without the desk, for nothing changes what is in them."""
        with self._work.still():
            with self._desk:
                checkpoint = self._checkpoint()
            self._own_checkpoints.prepare(checkpoint, LATER)
            with self._desk:
                # What has changed since then is for the next time: the desk is not held for long.
                is_newest = self._follower.state is checkpoint.state and not self._desk.unsaved()
                self._write(() if is_newest else LATER)

    def note_settled(self, *, has_joined: bool) -> None:
        """Delete what was downloaded, if it is saved. The thread that downloads calls this:
        another could delete what this one is about to read.
        """
        with self._desk:
            has_saved = self._has_saved_theta and not has_joined
            self._has_saved_theta = False
        if has_saved:
            self._own_checkpoints.drop_downloads()

    def _write(self, older: Collection[str] = ()) -> None:
        new, changes = self._desk.unsaved(), self._desk.changes
        self._own_checkpoints.save(self._checkpoint(), older)
        self._desk.note_saved(None if older else changes)
        self._has_saved_theta |= not older
        for payload in new:
            self._work.note_saved(payload)

    def _checkpoint(self) -> LocalCheckpoint:
        desk, work = self._desk, self._work
        return LocalCheckpoint(
            state=self._follower.state,
            groups={
                **work.groups(),
                "pending": desk.pending.to_tensors(),
                "withheld": PendingPayloads(desk.withheld.values()).to_tensors(),
            },
            values={
                **work.values(),
                **desk.values(),
                "last_accepted": sorted(self._follower.ledger.last_accepted),
            },
            revisions=work.revisions(),
        )
