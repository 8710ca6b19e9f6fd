"""Common parts of dishonest miners: no error feedback, no training, and the rivals' payloads.

Each adversary is a `Work` for the real `Miner`: `HonestWork` with a public part replaced.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from localnet.adversaries.tensors import at_norms, frame_of, noise, noise_seed, zeros
from template.base.conduct import MinerParts
from template.base.pending import PendingPayload
from template.base.starts import Starts
from template.base.work import HonestWork
from template.chain.ballots import read_candidates
from template.errors import PayloadError
from template.protocol.admission import open_payload
from template.protocol.payload import Payload, PayloadHeader
from template.protocol.quorum import Decision
from template.training.checkpoint import LocalCheckpoint
from template.training.inner import InnerResult
from template.training.model import Params

log = logging.getLogger(__name__)


class DishonestWork(HonestWork):
    """From `first_window` on sends other tensors than training gave.

    Such payloads neither return to error feedback nor move the start of the next window.
    """

    first_window = 0

    def take_back(self, payload: PendingPayload) -> None:
        if payload.window < self.first_window:
            super().take_back(payload)

    def payloads_under_way(self, window: int) -> list[Payload]:
        before = super().payloads_under_way(window)
        return [payload for payload in before if payload.header.window < self.first_window]

    def honest_norms_frame(self, header: PayloadHeader, tensors: Mapping[str, Tensor]) -> bytes:
        """The frame of these directions, each tensor as long as in an honest payload."""
        form = self.form
        return frame_of(header, at_norms(header, tensors, self.clip_references(), form), form)

    def noise_frame(self, header: PayloadHeader) -> bytes:
        """Random values at the norms of honest payloads."""
        context = self.parts.context
        seed = noise_seed(context.hotkey, header.window)
        return self.honest_norms_frame(header, noise(self.form, seed))

    def claimed_result(self) -> InnerResult:
        """The result of a full inner loop that never ran: zeros, and all pages claimed."""
        return InnerResult(
            pseudo_gradient=zeros(self.form),
            pages_consumed=self.spec.training.pages_per_window,
            steps=self.spec.training.inner_steps,
            mean_loss=float("nan"),
        )


class Pretender(DishonestWork, ABC):
    """Trains nothing and claims all pages; sends the frame of `forge`, or else noise."""

    def train(self, base: int, starts: Starts) -> InnerResult:
        return self.claimed_result()

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        forged = self.forge(header)
        return self.noise_frame(header) if forged is None else forged

    @abstractmethod
    def forge(self, header: PayloadHeader) -> bytes | None:
        """The frame of a window; None without material."""


class UpdateWatcher(DishonestWork):
    """Remembers the last applied update, as subtracted from the parameters."""

    def __init__(self, parts: MinerParts, checkpoint: LocalCheckpoint) -> None:
        super().__init__(parts, checkpoint)
        self._then = parts.follower.state.params
        self.last_update: Params | None = None

    def note_decision(self, decision: Decision) -> None:
        now = self.parts.follower.state.params
        if decision.members:
            self.last_update = {name: self._then[name] - now[name] for name in now}
        self._then = now


def fetch_rivals_payloads(parts: MinerParts, window: int) -> list[Payload]:
    """Other miners' payloads of a window, the last accepted hotkeys first; [] before window 0.

    Waits for the upload period, and for slow buckets until training would have to stop.
    """
    context = parts.context
    if window < 0:
        return []
    context.waiter.until_finalized(
        context.schedule.held_out_block(window), f"the payloads of window {window}"
    )
    members = [
        member
        for member in read_candidates(context.chain, context.run, window).values()
        if member.hotkey != context.hotkey
    ]
    last_accepted = parts.follower.ledger.last_accepted
    members.sort(key=lambda member: (member.hotkey not in last_accepted, member.uid))
    last_block = context.schedule.commit_block(window + 1) - context.schedule.upload_blocks
    parts.peers.refresh()
    found = parts.peers.fetch_payloads(
        members, window, lambda: context.waiter.recent_head() >= last_block
    )
    opened = []
    for member in members:
        data = found[member.uid]
        if not isinstance(data, bytes):
            continue
        try:
            staleness = context.run.at(window).outer.max_staleness
            form = context.form_at(window)
            opened.append(open_payload(data, member, window, form, staleness))
        except PayloadError as error:
            log.info("window %d: ignored the payload of uid %d: %s", window, member.uid, error)
    return opened
