"""The conduct of a miner, as the loop around it knows it: what a `Work` does, and is given.

`Miner` runs the loop of catching up, committing, uploading and settling; a `Work` makes the
payloads. `template.base.work` has the honest one.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from torch import Tensor

from template.base.desk import Desk
from template.base.gate import Gate
from template.base.pending import PendingPayload, PendingPayloads
from template.context import NodeContext
from template.peers.client import Peers
from template.protocol.quorum import Decision
from template.protocol.record import PayloadCommitment
from template.sync.dataset import Datasets
from template.sync.follower import Follower
from template.training.checkpoint import LocalCheckpoint

MOMENTS: Final = "moments"
"""The group of the local checkpoint with AdamW's state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MinerParts:
    """The parts of a miner shared with its `Work`.

    `desk`: held by whoever reads or changes payloads or error feedback. `gate`: training stands
    still for whoever asks there. `is_over`: whether training has to break off. `follows_beside`:
    whether the node follows the run while it trains.
    """

    context: NodeContext
    peers: Peers
    follower: Follower
    datasets: Datasets
    desk: Desk
    gate: Gate = field(default_factory=Gate)
    is_over: Callable[[], bool] = lambda: False
    follows_beside: bool = False

    @property
    def pending(self) -> PendingPayloads:
        """The own payloads without a decision."""
        return self.desk.pending


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A new payload, one of the pending ones already, and metrics about its making by name."""

    payload: PendingPayload
    metrics: Mapping[str, float | int | str]

    @property
    def metrics_of_payload(self) -> dict[str, float | int | str]:
        """The metrics, with the window that the payload is sent in."""
        return {**self.metrics, "payload_window": self.payload.window}


class Work(Protocol):
    """A miner's conduct.

    The thread that trains calls `can_begin`, `make_payload` and `prefetch`. Any thread calls
    `still`, `reveals` and `commitment`. The caller of the rest holds the desk, so none of the rest
    may wait for chain or bucket.
    """

    @property
    def next_window(self) -> int:
        """The first window whose page list may be trained next."""

    def can_begin(self, window: int) -> bool:
        """Whether there is something to train `window` from."""

    def make_payload(self, window: int) -> Made | None:
        """Train and encode; None if the window yields no payload.

        The new payload is added to the pending ones in one with the change of error feedback.
        """

    def still(self) -> AbstractContextManager[None]:
        """Within the block nothing changes what `groups` gives, and there is room for a theta."""

    def prefetch(self, window: int) -> None:
        """Begin to fetch the pages of `window`, once they can be known; may be called again."""

    def commits(self, payload: PendingPayload) -> bool:
        """Whether to commit the payload; otherwise the miner takes the payload back."""

    def commitment(self, payload: PendingPayload) -> PayloadCommitment:
        """The commitment to put on chain."""

    def reveals(self, payload: PendingPayload) -> bool:
        """Whether to upload the payload after its window."""

    def note_saved(self, payload: PendingPayload) -> None:
        """Hear that a new payload is on disk, and is committed next."""

    def note_decision(self, decision: Decision) -> None:
        """Hear of a decision, after the follower has moved by it."""

    def take_back(self, payload: PendingPayload) -> None:
        """Return a payload that is not accepted to error feedback."""

    def groups(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Tensors for the local checkpoint, by group and name."""

    def values(self) -> Mapping[str, Any]:
        """Plain JSON values for the local checkpoint."""

    def revisions(self) -> Mapping[str, object]:
        """Group -> a token, another object after every change of the group's tensors."""


WorkFactory = Callable[[MinerParts, LocalCheckpoint], Work]
"""Builds a miner's `Work` from the miner's parts and its last local checkpoint."""
