"""A miner's work in one window: choice of parameters and pages, training, and encoding.

`Miner` runs the loop of catching up, committing, uploading and settling; a `Work` makes the
payloads. `HonestWork` follows the protocol; the local chain's adversaries replace parts of it.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from torch import Tensor

from template.base.deadline import NUM_RECENT, Deadline
from template.base.desk import Desk
from template.base.feedback import RETURNED_SHARE, ErrorFeedback
from template.base.gate import Gate
from template.base.pending import PendingPayload, PendingPayloads
from template.base.preview import Preview
from template.base.starts import Expected, Starts
from template.context import NodeContext
from template.data.assignment import (
    SEED_BYTES,
    assigned_pages,
    assignment_seed,
    shuffled_blocks,
)
from template.data.pages import PageReader
from template.errors import ChainError, PayloadError
from template.peers.client import Peers
from template.protocol.payload import Payload, PayloadHeader, decode_payload
from template.protocol.quorum import Decision
from template.protocol.record import PayloadCommitment
from template.protocol.ss58 import public_key
from template.sync.follower import Follower
from template.training.checkpoint import LocalCheckpoint
from template.training.inner import InnerTrainer
from template.training.inner_loop import InnerResult, Trainer
from template.training.memory import KEPT
from template.training.outer import clip_references
from template.training.spread import Feedback, finite

log = logging.getLogger(__name__)

SPARE_FACTOR = 2
"""A miner waits for rivals' payloads while more blocks are left than this factor times the last
full inner loop. Too small loses steps when the machine slows down."""


MAX_BLOCK_STEPS, BLOCKS_PER_WINDOW = 8, 4
"""Inner steps whose pages are shuffled together: at most, and as a share of the fewest lately.
Large blocks hide more; a miner that must stop claims whole blocks alone."""

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
    pages: PageReader
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


class Work(Protocol):
    """A miner's conduct.

    The thread that trains calls `can_begin`, `make_payload` and `prefetch`. Any thread calls
    `still`, `reveals` and `commitment`. The caller of the rest holds the desk, so none of the rest
    may wait for chain or bucket.
    """

    last_window: int
    """The last window trained; -1 before the first."""

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


class HonestWork:
    """Trains on the assigned pages, and sends the pseudo-gradient with error feedback."""

    def __init__(self, parts: MinerParts, checkpoint: LocalCheckpoint) -> None:
        self.parts = parts
        context = parts.context
        ranks = context.ranks
        self.trainer: Trainer = (
            InnerTrainer(context.spec, context.device, context.inner)
            if ranks is None
            else ranks.trainer()
        )
        self.trainer.recall(checkpoint.values.get("inner_notes", {}))
        self.trainer.load_moments(checkpoint.groups.get(MOMENTS, {}))
        decay = context.spec.compression.error_feedback_decay
        saved = checkpoint.groups.get("feedback", {})
        self.feedback: Feedback = (
            ErrorFeedback(context.form, decay, saved)
            if ranks is None
            else ranks.feedback(decay, saved, RETURNED_SHARE)
        )
        self.order_secret = bytes(SEED_BYTES)
        """Orders the pages of the payload under way; drawn anew for each payload."""
        self.recent_steps: list[int] = list(checkpoint.values.get("recent_steps", ()))
        """Inner steps of the last windows, the newest last."""
        self.last_window = int(checkpoint.values.get("last_window", -1))
        self._prefetched = -1
        """The newest window whose pages were asked for ahead."""
        self.inner_loop_blocks: int | None = checkpoint.values.get("inner_loop_blocks")
        self.deadline = Deadline(context, checkpoint.values.get("recent_finish_blocks", ()))
        self._expected: Expected | None = None
        """What the last preview said of the next theta."""
        self._ended_s: float | None = None
        """When the last inner loop ended, on the clock of `time.monotonic`."""
        self._moments: Mapping[str, Tensor] | None = None
        """Copies of the moments at the last window's end; None where training's own are saved."""

    def can_begin(self, window: int) -> bool:
        """As in `Work`: theta of the window, or the theta before and a preview.

        Once the window has begun, the theta before alone. A machine with time to spare waits for
        that: the later it begins, the newer its start.
        """
        state, expected = self.parts.follower.state, self._expected
        context, blocks = self.parts.context, self.inner_loop_blocks
        early = context.schedule.first_block(window) - context.waiter.recent_head()
        if state.window < window - 1 or early <= 0:
            return state.window >= window - 1
        if blocks is not None and self.deadline.blocks_left(window) - early >= blocks:
            return False
        if state.window >= window:
            return True
        return expected is not None and expected.window == window and expected.state is state

    def make_payload(self, window: int) -> Made | None:
        """Train from the newest parameters; None, with a log line, if too old, late or NaN."""
        # Nothing else may need much memory until the payload is made, but between inner steps.
        gate, ranks = self.parts.gate, self.parts.context.ranks
        with (
            gate.busy() if self.trainer.shares_memory else nullcontext(),
            nullcontext() if ranks is None else ranks.training(),
        ):
            return self._make_payload(window)

    def _make_payload(self, window: int) -> Made | None:
        parts = self.parts
        # With a follower at work beside, training moves on to theta of the window when it comes.
        base = window if parts.follows_beside else min(parts.follower.state.window, window)
        if window - base > parts.context.spec.outer.max_staleness:
            log.warning("window %d: base theta_%d is too old to train from", window, base)
            return None
        self.order_secret = parts.context.random_bytes(SEED_BYTES)
        self._window_block_pages = self.block_pages()
        KEPT.release()  # training needs the room, and fills it with gradients
        with closing(self.starts(window)) as starts:
            result = self.train(window, base, starts)
        self._expected = starts.expects
        self.deadline.note_end(window)
        with parts.desk:
            return self._finish(window, base, result, starts)

    def _finish(self, window: int, base: int, result: InnerResult, starts: Starts) -> Made | None:
        """The payload of an inner loop's result."""
        parts, block_pages = self.parts, self._window_block_pages
        self.last_window = window
        is_finite = finite(result.pseudo_gradient)
        if not is_finite:
            log.error(
                "window %d: the loss was not finite; its work and the moments are dropped", window
            )
            self.trainer.reset_moments()
        self._copy_moments()
        if not is_finite:
            return None
        self.recent_steps = [*self.recent_steps, result.steps][-NUM_RECENT:]
        training, evaluation = parts.context.spec.training, parts.context.spec.evaluation
        claimed = result.pages_consumed
        if claimed < training.pages_per_window:
            claimed -= claimed % block_pages  # of a block under way nobody knows which pages
        if claimed < max(1, evaluation.claimed_pages):
            self.feedback.keep(result.pseudo_gradient)
            self.deadline.forget_longest()
            log.warning(
                "window %d: no time for the pages that a payload must claim; the work stays in "
                "error feedback",
                window,
            )
            return None
        header = PayloadHeader(
            window=window,
            base_window=base,
            pages_consumed=claimed,
            public_key=public_key(parts.context.hotkey),
        )
        payload = PendingPayload(
            window=window, frame=self.make_frame(header, result.pseudo_gradient)
        )
        parts.pending.add(payload)
        return Made(payload=payload, metrics=_metrics(result, starts) | self._utilisation(result))

    def _copy_moments(self) -> None:
        """For the local checkpoint, which is written while the next window is trained."""
        if not self.trainer.shares_memory:
            self._moments = None  # no room for two copies
            self._moments = self.trainer.moments()

    def _utilisation(self, result: InnerResult) -> dict[str, float]:
        """The share of the time since the last window's that went into inner steps."""
        before_s, self._ended_s = self._ended_s, time.monotonic()
        if before_s is None or self._ended_s <= before_s:
            return {}
        return {"utilisation": round(result.busy_s / (self._ended_s - before_s), 4)}

    def train(self, window: int, base: int, starts: Starts) -> InnerResult:
        """Run the inner loop, from the expected parameters if there is time to wait for them."""
        waiter = self.parts.context.waiter
        starts.poll()
        while starts.is_awaiting and self.has_time_to_wait(window):
            with self.parts.gate.apart():
                waiter.pause(
                    f"the others' payloads of window {window - 1}, to train on what they lead to; "
                    "training begins without them at the latest",
                    by_block=starts.until_block,
                )
            starts.poll()
        first_block = waiter.recent_head()
        result = self.trainer.train(
            starts.first(),
            window,
            self.batches(base),
            lambda: self.is_late(window),
            starts.poll,
            self.parts.gate.pass_by,
        )
        if result.steps == self.parts.context.spec.training.inner_steps:
            self.inner_loop_blocks = waiter.recent_head() - first_block + 1
        return result

    def starts(self, window: int) -> Starts:
        """Where training of a window starts, and moves on to."""
        parts = self.parts
        # Not kept here: once training has moved on, the theta before has to leave memory.
        expected, self._expected = self._expected, None
        return Starts(
            parts.context,
            parts.follower,
            window,
            preview=lambda: self.preview(window),
            under_way=lambda: self.payloads_under_way(window),
            expected=expected,
        )

    def preview(self, window: int) -> Preview:
        """The parameters expected at the window's end, polled while training."""
        parts = self.parts
        return Preview(parts.context, parts.peers, parts.follower, window)

    def batches(self, base: int) -> Iterator[np.ndarray]:
        """The assigned pages in private order, int64 [batch_pages, page_tokens] per inner step."""
        training, ids = self.parts.context.spec.training, self.page_ids(base)
        for first in range(0, training.pages_per_window, training.batch_pages):
            yield self._pages(ids[first : first + training.batch_pages])

    def _pages(self, ids: np.ndarray) -> np.ndarray:
        """Pages by id. A wait for a bucket, of half an hour at worst, holds up no other lane."""
        pages = self.parts.pages
        with nullcontext() if pages.is_at_hand(ids) else self.parts.gate.apart():
            return pages.pages(ids)

    def page_ids(self, base: int) -> np.ndarray:
        """Ids of the assigned pages in private order, int64 [pages_per_window]."""
        assigned = self.list_assigned(self.parts.context.hotkey, base)
        return shuffled_blocks(assigned, self.order_secret, self.block_pages())

    def block_pages(self) -> int:
        """Pages shuffled together: of so few inner steps that a slow machine ends some blocks."""
        fewest = min(self.recent_steps, default=0)
        steps = max(1, min(MAX_BLOCK_STEPS, fewest // BLOCKS_PER_WINDOW))
        return steps * self.parts.context.spec.training.batch_pages

    def list_assigned(self, hotkey: str, base: int) -> np.ndarray:
        """Ids of the pages assigned to a hotkey for a window, int64 [pages_per_window]."""
        context = self.parts.context
        block_hash = context.chain.block_hash(context.schedule.assignment_block(base))
        seed = assignment_seed(block_hash, hotkey, base)
        count = context.spec.training.pages_per_window
        return assigned_pages(seed, count, self.parts.pages.paging)

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        """Encode the pseudo-gradient; error feedback keeps the rest."""
        return self.feedback.encode(header, deltas)

    def prefetch(self, window: int) -> None:
        """As in `Work`: without waiting, so that the pages are there when training begins."""
        context = self.parts.context
        if window <= self._prefetched or window >= context.spec.schedule.num_windows:
            return
        if context.waiter.recent_head() < context.schedule.assignment_block(window):
            return
        try:
            ids = self.list_assigned(context.hotkey, window)
        except ChainError as error:
            log.debug("window %d: its pages are not fetched ahead: %s", window, error)
            return
        self._prefetched = window
        self.parts.pages.prefetch(ids)

    def is_late(self, window: int) -> bool:
        """Whether training must stop."""
        self.prefetch(window + 1)
        return self.parts.is_over() or self.deadline.blocks_left(window) <= 0

    def has_time_to_wait(self, window: int) -> bool:
        """Whether more than `SPARE_FACTOR` of the last full inner loop is left."""
        blocks = self.inner_loop_blocks
        if blocks is None or self.parts.is_over():
            return False
        return self.deadline.blocks_left(window) > SPARE_FACTOR * blocks

    def payloads_under_way(self, window: int) -> list[Payload]:
        """Own readable payloads of earlier windows without a decision."""
        # Without the desk, which a save may hold: the list is replaced, and never changed within.
        before = self.parts.pending.before(window)
        return [payload for p in before if (payload := self._decoded(p)) is not None]

    def clip_references(self) -> dict[str, float]:
        """Tensor name -> the norm at which the outer step clips a payload."""
        return clip_references(self.parts.follower.state, self.parts.context.spec.outer)

    def commits(self, payload: PendingPayload) -> bool:
        return True

    def commitment(self, payload: PendingPayload) -> PayloadCommitment:
        return PayloadCommitment(window=payload.window, digest=payload.digest)

    def reveals(self, payload: PendingPayload) -> bool:
        return True

    def note_saved(self, payload: PendingPayload) -> None:
        """As in `Work`."""
        self.deadline.note_saved(payload.window)

    def note_decision(self, decision: Decision) -> None:
        """Nothing: honest work starts from the follower's state."""

    def take_back(self, payload: PendingPayload) -> None:
        if (decoded := self._decoded(payload)) is None:
            return
        self.feedback.take_back(decoded)
        log.info(
            "window %d: payload not applied; half of it back into error feedback", payload.window
        )

    def still(self) -> AbstractContextManager[None]:
        return self.parts.gate.still() if self.trainer.shares_memory else nullcontext()

    def groups(self) -> Mapping[str, Mapping[str, Tensor]]:
        moments = self.trainer.moments() if self._moments is None else self._moments
        return {"feedback": self.feedback.tensors, MOMENTS: moments}

    def values(self) -> Mapping[str, Any]:
        return {
            "last_window": self.last_window,
            "recent_steps": self.recent_steps,
            "inner_loop_blocks": self.inner_loop_blocks,
            "recent_finish_blocks": self.deadline.recent_blocks,
            "inner_notes": self.trainer.notes(),
        }

    def revisions(self) -> Mapping[str, object]:
        # Copies say themselves which they are; the trainer's own change with every window.
        moments = self.trainer.revision if self._moments is None else self._moments
        return {"feedback": self.feedback.revision, MOMENTS: moments}

    def _decoded(self, payload: PendingPayload) -> Payload | None:
        try:
            return decode_payload(payload.frame, self.parts.context.form)
        except PayloadError as error:
            log.warning("own payload of window %d is not valid: %s", payload.window, error)
            return None


def _metrics(result: InnerResult, starts: Starts) -> dict[str, float | int | str]:
    values: dict[str, float | int | str] = {
        "inner_loss": result.mean_loss,
        "inner_steps": result.steps,
    }
    if (speed := result.speed) is not None:
        values["inner_tokens_per_s"] = round(speed.tokens_per_s, 1)
        values["inner_micro_batch"] = speed.micro_batch
        if speed.utilization is not None:
            values["inner_mfu"] = round(speed.utilization, 4)
        if speed.peak_bytes is not None:
            values["inner_peak_bytes"] = speed.peak_bytes
    if starts.uids:
        values["caught_up_at_step"] = result.moved_at or 0
        values["previewed_uids"] = ",".join(map(str, starts.uids))
    return values
