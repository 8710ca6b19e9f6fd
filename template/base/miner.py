"""The miner: train on the assigned pages, commit the digest, reveal the payload, follow.

One pass of the loop is one window. Nothing is lost: what was not accepted, or was never
sent, goes back into error feedback; the state is on disk before the digest is on chain.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from template.base.preview import Preview
from template.base.standing import Standing, publish, publish_if_new
from template.bucket.retention import Sweeper
from template.context import NodeContext
from template.data.assignment import assigned_pages, assignment_seed
from template.errors import PayloadError, StoreError
from template.log_context import window_context
from template.peers.client import Peers
from template.protocol.keys import payload_key
from template.protocol.payload import (
    Payload,
    PayloadHeader,
    decode_payload,
    encode_payload_with_feedback,
    payload_digest,
)
from template.protocol.quorum import Decision
from template.protocol.record import PayloadCommitment, Record
from template.protocol.ss58 import public_key
from template.sync.bootstrap import Bootstrap
from template.sync.dataset import open_pages
from template.sync.follower import Follower
from template.sync.own_checkpoint import save_own_checkpoint
from template.training.checkpoint import LocalCheckpoint
from template.training.inner import InnerResult, InnerTrainer
from template.training.model import Params
from template.training.outer import clip_references, start_of_miner

log = logging.getLogger(__name__)

COMMIT_MARGIN_BLOCKS = 4
"""Blocks before a window's end at which training stops: encoding and the commitment must
still get into a block. Too small loses windows, too large loses training time."""

SPARE_FACTOR = 2
"""A miner waits for the others' payloads while the time left is so many times what its last
inner loop took. Too small loses steps when the machine slows down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A payload made and not yet decided on."""

    window: int
    frame: bytes

    @property
    def digest(self) -> bytes:
        return payload_digest(self.frame)


class Miner:
    """A miner at work. `step` is one window; `template.base.supervisor` repeats it."""

    def __init__(self, context: NodeContext) -> None:
        self.context = context
        self.peers = Peers(context)
        self._standing = Standing(context)
        self._sweeper = Sweeper(context)
        checkpoint = Bootstrap(context, self.peers).join()
        self.follower = Follower(
            context,
            self.peers,
            checkpoint.state,
            last_accepted=frozenset(checkpoint.values.get("last_accepted", ())),
        )
        self._pages = open_pages(context, self.peers)
        self._trainer = InnerTrainer(context.spec, context.device)
        self._trainer.load_moments(checkpoint.groups.get("moments", {}))
        zeros = {name: torch.zeros(shape) for name, shape in context.form.shapes.items()}
        self._feedback: Params = {**zeros, **checkpoint.groups.get("feedback", {})}
        pending = checkpoint.groups.get("pending", {})
        self._pending = [
            Pending(window=window, frame=pending[str(window)].numpy().tobytes())
            for window in sorted(map(int, pending))
        ]
        self._last_window = int(checkpoint.values.get("last_window", -1))
        self._inner_loop_blocks: int | None = checkpoint.values.get("inner_loop_blocks")
        self._revealed: set[bytes] = set()
        self._committed = b""
        publish_if_new(context, self._record())

    def step(self) -> bool:
        """One window: catch up, train, commit, wait for its end, reveal. False when done."""
        context = self.context
        schedule, num_windows = context.schedule, context.spec.schedule.num_windows
        self._standing.demand_registration()
        try:
            self._reveal()
        finally:
            self._catch_up()  # a bucket that refuses writes keeps nobody from following
        if self.follower.next_window >= num_windows:
            return False
        window = schedule.window_of(context.chain.head())
        if window >= num_windows:
            context.waiter.until_finalized(schedule.vote_block(self.follower.next_window))
            return True
        with window_context(window):
            if window > self._last_window and window >= 0:
                self.work(window)
            self._commit_pending(window)
            context.waiter.until_finalized(schedule.first_block(window + 1) - 1)
            self._reveal()
            context.waiter.until_head(schedule.first_block(window + 1))
        return True

    def work(self, window: int) -> None:
        """Train, make the payload, save it, commit its digest."""
        base = min(self.follower.state.window, window)
        if window - base > self.context.spec.outer.max_staleness:
            log.warning("window %d: base theta_%d is too old to train from", window, base)
            return
        with closing(self.preview(window)) as preview:
            result = self._train(window, base, preview)
        self._last_window = window
        if not all(torch.isfinite(delta).all() for delta in result.pseudo_gradient.values()):
            log.error(
                "window %d: the loss was not finite; its work and the moments are dropped", window
            )
            self._trainer.reset_moments()
            return
        if result.steps == 0:
            log.warning("window %d: no time for a single inner step", window)
            return
        header = PayloadHeader(
            window=window,
            base_window=base,
            pages_consumed=result.pages_consumed,
            public_key=public_key(self.context.hotkey),
        )
        frame = self.make_frame(header, result.pseudo_gradient)
        self._pending.append(Pending(window=window, frame=frame))
        self._save()
        values: dict[str, float | int | str] = {
            "inner_loss": result.mean_loss,
            "inner_steps": result.steps,
        }
        if preview.uids:
            values["caught_up_at_step"] = result.moved_at or 0
            values["previewed_uids"] = ",".join(map(str, preview.uids))
        self.context.metrics.log(window, values)

    def _train(self, window: int, base: int, preview: Preview) -> InnerResult:
        """The inner loop, from the parameters that come if there is time to wait for them."""
        waiter, state = self.context.waiter, self.follower.state
        newer = preview.poll()
        while newer is None and preview.pending and self._has_time_to_wait(window):
            waiter.pause()
            newer = preview.poll()
        if newer is None:
            start = start_of_miner(state, self._under_way(window), self.context.spec)
        else:
            start = newer
        first_block = waiter.recent_head()
        result = self._trainer.train(
            start, window, self._batches(base), lambda: self._late(window), preview.poll
        )
        if result.steps == self.context.spec.training.inner_steps:
            self._inner_loop_blocks = waiter.recent_head() - first_block + 1
        return result

    def preview(self, window: int) -> Preview:
        """What will become of the update under way, to be asked while a window is trained."""
        return Preview(self.context, self.peers, self.follower, window)

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        """The frame to send; error feedback keeps what it does not say."""
        decay = self.context.spec.compression.error_feedback_decay
        return encode_payload_with_feedback(
            header, deltas, self._feedback, self.context.form, decay
        )

    def clip_references(self) -> dict[str, float]:
        return clip_references(self.follower.state, self.context.spec.outer)

    def _batches(self, base: int) -> Iterator[np.ndarray]:
        training, schedule = self.context.spec.training, self.context.schedule
        block_hash = self.context.chain.block_hash(schedule.assignment_block(base))
        seed = assignment_seed(block_hash, self.context.hotkey, base)
        ids = assigned_pages(seed, training.pages_per_window, self._pages.num_pages)
        for first in range(0, training.pages_per_window, training.batch_pages):
            yield self._pages.pages(ids[first : first + training.batch_pages])

    def _late(self, window: int) -> bool:
        return self._blocks_left(window) <= 0

    def _has_time_to_wait(self, window: int) -> bool:
        """Whether an inner loop that takes as long as the last whole one leaves time to spare."""
        blocks = self._inner_loop_blocks
        return blocks is not None and self._blocks_left(window) > SPARE_FACTOR * blocks

    def _blocks_left(self, window: int) -> int:
        """Until training must stop."""
        deadline = self.context.schedule.commit_block(window) - COMMIT_MARGIN_BLOCKS
        return deadline - self.context.waiter.recent_head()

    def _commit_pending(self, window: int) -> None:
        """Commit the payload of this window, unless that was done; a failure is tried again.

        Without quota it is not committed: then it goes back into error feedback.
        """
        for pending in self._pending:
            if pending.window != window or pending.digest == self._committed:
                continue
            if not publish(self.context, self._record()):
                return
            self._committed = pending.digest
            self.context.metrics.log(window, {"committed": pending.digest.hex()})
            log.info("window %d: committed payload %s", window, pending.digest.hex()[:16])

    def _record(self) -> Record:
        """Access, and the newest payload that is not decided on."""
        if not self._pending:
            return Record(access=self.context.access)
        last = self._pending[-1]
        commitment = PayloadCommitment(window=last.window, digest=last.digest)
        return Record(access=self.context.access, payload=commitment)

    def _reveal(self) -> None:
        """Upload pending payloads whose window is over for good: nobody can copy them then."""
        finalized = self.context.chain.finalized()
        for pending in self._pending:
            over = finalized >= self.context.schedule.commit_block(pending.window)
            if not over or pending.digest in self._revealed:
                continue
            key = payload_key(self.context.spec.run_id, pending.window, pending.digest)
            self.context.bucket.put(key, pending.frame)
            self._revealed.add(pending.digest)
            self.follower.keep(pending.window, pending.digest, pending.frame)
            self.context.metrics.log(pending.window, {"payload_bytes": len(pending.frame)})

    def _catch_up(self) -> None:
        while self._within_run() and self.follower.decided():
            self._settle(self.follower.advance())

    def _within_run(self) -> bool:
        return self.follower.next_window < self.context.spec.schedule.num_windows

    def _settle(self, decision: Decision) -> None:
        """What the decision leaves out goes back into error feedback."""
        accepted = {member.digest for member in decision.members}
        for pending in [p for p in self._pending if p.window <= decision.window]:
            if pending.digest not in accepted:
                self._take_back(pending)
            self._pending.remove(pending)
            self._revealed.discard(pending.digest)
        self._take_back_void()
        self._save()
        self._sweeper.sweep(self.follower.state.window)

    def _take_back_void(self) -> None:
        """Own payloads that were accepted and then found void count as not accepted."""
        for step in self.follower.taken_back:
            for member in step.members:
                if member.hotkey == self.context.hotkey:
                    self._take_back_from_bucket(step.window, member.digest)
        self.follower.taken_back.clear()

    def _take_back_from_bucket(self, window: int, digest: bytes) -> None:
        key = payload_key(self.context.spec.run_id, window, digest)
        try:
            frame = self.context.bucket.get(key, max_bytes=self.context.form.num_bytes)
        except StoreError as error:
            log.warning("window %d: the own payload found void is lost: %s", window, error)
            return
        self._take_back(Pending(window=window, frame=frame))

    def _under_way(self, window: int) -> list[Payload]:
        """Own payloads of earlier windows on which nothing is decided yet."""
        before = [p for p in self._pending if p.window < window]
        return [payload for p in before if (payload := self._decoded(p)) is not None]

    def _decoded(self, pending: Pending) -> Payload | None:
        try:
            return decode_payload(pending.frame, self.context.form)
        except PayloadError as error:
            log.warning("own payload of window %d is not valid: %s", pending.window, error)
            return None

    def _take_back(self, pending: Pending) -> None:
        if (payload := self._decoded(pending)) is None:
            return
        for name, sparse in payload.tensors.items():
            sparse.add_to(self._feedback[name], coefficient=1.0)
        log.info("window %d: payload not accepted; back into error feedback", pending.window)

    def _save(self) -> None:
        pending = {
            str(p.window): torch.from_numpy(np.frombuffer(p.frame, dtype=np.uint8).copy())
            for p in self._pending
        }
        checkpoint = LocalCheckpoint(
            state=self.follower.state,
            groups={
                "feedback": self._feedback,
                "moments": self._trainer.moments(),
                "pending": pending,
            },
            values={
                "last_window": self._last_window,
                "inner_loop_blocks": self._inner_loop_blocks,
                "last_accepted": sorted(self.follower.ledger.last_accepted),
            },
        )
        save_own_checkpoint(self.context, checkpoint)
