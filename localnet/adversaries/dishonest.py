"""What dishonest miners have in common: no error feedback, no training, and the rivals' payloads.

Each is the real miner with a part replaced; only its own process knows.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from localnet.adversaries.tensors import at_norms, frame_of, noise, noise_seed, zeros
from template.base.miner import Miner, Pending
from template.base.preview import Preview
from template.chain.ballots import read_candidates
from template.context import NodeContext
from template.errors import PayloadError
from template.protocol.admission import open_payload
from template.protocol.payload import Payload, PayloadHeader
from template.protocol.quorum import Decision
from template.training.inner import InnerResult
from template.training.model import Params

log = logging.getLogger(__name__)


class DishonestMiner(Miner):
    """From `first_window` on sends other things than it learned: they are neither taken back
    nor started from.
    """

    first_window = 0

    def _take_back(self, pending: Pending) -> None:
        if pending.window < self.first_window:
            super()._take_back(pending)

    def _under_way(self, window: int) -> list[Payload]:
        before = super()._under_way(window)
        return [payload for payload in before if payload.header.window < self.first_window]


class Pretender(DishonestMiner, ABC):
    """Trains nothing and claims all of its pages; sends what `forge` makes, or else noise."""

    def _train(self, window: int, base: int, preview: Preview) -> InnerResult:
        return no_work(self)

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        forged = self.forge(header)
        return noise_frame(self, header) if forged is None else forged

    @abstractmethod
    def forge(self, header: PayloadHeader) -> bytes | None:
        """The frame of a window; None if it has nothing to make one from."""


class UpdateWatcher(DishonestMiner):
    """Remembers the last update that was applied, as what was subtracted from the parameters."""

    def __init__(self, context: NodeContext) -> None:
        super().__init__(context)
        self._then = self.follower.state.params
        self.last_update: Params | None = None

    def _settle(self, decision: Decision) -> None:
        now = self.follower.state.params
        if decision.members:
            self.last_update = {name: self._then[name] - now[name] for name in now}
        self._then = now
        super()._settle(decision)


def no_work(miner: Miner) -> InnerResult:
    """What a miner says of an inner loop that it never made: all of it, and nothing learned."""
    training = miner.context.spec.training
    return InnerResult(
        pseudo_gradient=zeros(miner.context.form),
        pages_consumed=training.pages_per_window,
        steps=training.inner_steps,
        mean_loss=float("nan"),
    )


def honest_norms_frame(miner: Miner, header: PayloadHeader, tensors: Mapping[str, Tensor]) -> bytes:
    """The frame of these directions, each tensor as long as an honest payload's."""
    form = miner.context.form
    return frame_of(header, at_norms(header, tensors, miner.clip_references(), form), form)


def noise_frame(miner: Miner, header: PayloadHeader) -> bytes:
    """Random values at the norms that honest payloads have."""
    context = miner.context
    return honest_norms_frame(
        miner, header, noise(context.form, noise_seed(context.hotkey, header.window))
    )


def rivals_payloads(miner: Miner, window: int) -> list[Payload]:
    """What others published for a window, those accepted last first; [] before there is any.

    Waits until they may be expected, and for slow buckets until training would have to stop.
    """
    context = miner.context
    if window < 0:
        return []
    context.waiter.until_finalized(context.schedule.held_out_block(window))
    members = [
        member
        for member in read_candidates(context.chain, context.schedule, window).values()
        if member.hotkey != context.hotkey
    ]
    members.sort(key=lambda m: (m.hotkey not in miner.follower.ledger.last_accepted, m.uid))
    last_block = context.schedule.commit_block(window + 1) - context.schedule.upload_blocks
    miner.peers.refresh()
    found = miner.peers.fetch_payloads(
        members, window, lambda: context.waiter.recent_head() >= last_block
    )
    opened = []
    for member in members:
        data = found[member.uid]
        if not isinstance(data, bytes):
            continue
        try:
            staleness = context.spec.outer.max_staleness
            opened.append(open_payload(data, member, window, context.form, staleness))
        except PayloadError as error:
            log.info("the payload of uid %d is of no use: %s", member.uid, error)
    return opened
