"""A miner's work in one window: choice of parameters and pages, training, and encoding.

`Miner` runs the loop of catching up, committing, uploading and settling; a `Work` makes the
payloads. `HonestWork` follows the protocol; the local chain's adversaries replace parts of it.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from template.base.conduct import MOMENTS, Made, MinerParts
from template.base.deadline import NUM_RECENT, Deadline
from template.base.lists import PageLists
from template.base.moments import BusyShare, KeptMoments
from template.base.pending import PendingPayload
from template.base.preview import Preview
from template.base.starts import Expected, Starts
from template.base.stride import Stride
from template.base.target import Target, Turns
from template.base.tools import follow, make_feedback, make_trainer
from template.data.assignment import SEED_BYTES, shuffled_blocks
from template.errors import PayloadError
from template.protocol.payload import (
    Payload,
    PayloadFormat,
    PayloadHeader,
    decode_payload,
)
from template.protocol.quorum import Decision
from template.protocol.ranges import WHOLE, BlockRange
from template.protocol.record import PayloadCommitment
from template.protocol.spec import RunSpec
from template.protocol.ss58 import public_key
from template.training.checkpoint import LocalCheckpoint
from template.training.inner_loop import InnerResult
from template.training.memory import KEPT
from template.training.outer import clip_references
from template.training.spread import finite

log = logging.getLogger(__name__)

SPARE_FACTOR = 2
"""A miner waits for rivals' payloads while more blocks are left than this factor times the last
full inner loop. Too small loses steps when the machine slows down."""


MAX_BLOCK_STEPS, BLOCKS_PER_WINDOW = 8, 4
"""Inner steps whose pages are shuffled together: at most, and as a share of the fewest lately.
Large blocks hide more; a miner that must stop claims whole blocks alone."""


class HonestWork:
    """Trains on the assigned pages, and sends the pseudo-gradient with error feedback."""

    def __init__(self, parts: MinerParts, checkpoint: LocalCheckpoint) -> None:
        self.parts = parts
        context = parts.context
        window = max(checkpoint.state.window, context.schedule.window_of(context.chain.head()))
        self.spec = spec = context.run.at(window)  # of the payload under way
        self.form = context.make_format(spec)
        self.trainer = make_trainer(parts, spec, checkpoint)
        self.feedback = make_feedback(parts, spec, checkpoint)
        self.order_secret = bytes(SEED_BYTES)
        """Orders the pages of the payload under way; drawn anew for each payload."""
        self.recent_steps: list[int] = list(checkpoint.values.get("recent_steps", ()))
        """Inner steps of the last windows, the newest last."""
        self._target: Target | None = None
        """Of the payload under way."""
        self.blocks: BlockRange = WHOLE
        """The part of the model that the payload under way trains."""
        self.width = 1
        """Pages of a step, in multiples of the run's; for the payload under way."""
        self.lists = PageLists(context, parts.datasets)
        self.stride = Stride(spec, context.inner.width, checkpoint.values.get("width", 1))
        self._begun_block = 0  # the head when the last inner loop began
        self.inner_loop_blocks: int | None = checkpoint.values.get("inner_loop_blocks")
        self.deadline = Deadline(context, checkpoint.values.get("recent_finish_blocks", ()))
        self.turns = Turns(context, self.deadline, checkpoint.values)
        self._expected: Expected | None = None
        """What the last preview said of the next theta."""
        self._moments, self._busy_share = KeptMoments(self.trainer), BusyShare()

    @property
    def next_window(self) -> int:
        """As in `Work`."""
        blocks = self.inner_loop_blocks
        return self.turns.next_list(
            is_slow=blocks is not None and blocks > self.stride.window_blocks
        )

    def can_begin(self, window: int) -> bool:
        """As in `Work`: theta of the window, or the theta before and a preview.

        Once the window has begun, the theta before alone. A machine with time to spare waits for
        that: the later it begins, the newer its start.
        """
        if not self.turns.target_of(window).is_open:
            return False
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
        parts, state_window = self.parts, self.parts.follower.state.window
        if window - state_window > max(1, parts.context.run.at(window).outer.max_staleness):
            log.warning("window %d: theta_%d is too old to train from", window, state_window)
            return None
        self._follow(window)
        self.order_secret = parts.context.random_bytes(SEED_BYTES)
        self._target = self.turns.target_of(window)
        self.blocks = WHOLE if parts.context.inner.parts == 1 else self.lists.blocks(window)
        self.width = self.stride.width
        self._window_block_pages = self.block_pages()
        KEPT.release()  # training needs the room, and fills it with gradients
        with closing(self.starts(window)) as starts:
            result = self.train(window, starts)
        self._target.settle()  # the last step may have ended after the time of its window
        self._expected = starts.expects
        self.deadline.note_end(self._target.window)
        with parts.desk:
            return self._finish(self._target.window, window, result, starts)

    def _follow(self, window: int) -> None:
        """Train by the spec of this window from now on; feedback and moments stay as they are."""
        context = self.parts.context
        if (spec := context.run.at(window)) is not self.spec:
            follow(self.parts, spec, self.trainer, self.feedback)
            self.spec, self.form = spec, context.make_format(spec)
            self.stride.follow(spec)

    def _finish(self, window: int, base: int, result: InnerResult, starts: Starts) -> Made | None:
        """The payload of an inner loop's result, for `window`, from the page list of `base`."""
        parts, block_pages = self.parts, self._window_block_pages
        busy = self._busy_share.note_end(result.busy_s)
        self.turns.last_list = base
        is_finite = finite(result.pseudo_gradient)
        if not is_finite:
            log.error(
                "window %d: the loss was not finite; its work and the moments are dropped", window
            )
            self.trainer.reset_moments()
        self._moments.copy()
        if not is_finite:
            return None
        self.recent_steps = [*self.recent_steps, result.steps][-NUM_RECENT:]
        training = self.spec.training
        claimed = result.pages_consumed
        if claimed < self.width * training.pages_per_window:
            claimed -= claimed % block_pages  # of a block under way nobody knows which pages
        if claimed < training.least_pages(self.width):
            self.feedback.keep(result.pseudo_gradient)
            self.deadline.forget_longest()
            log.warning("window %d: too few pages for a payload; error feedback keeps all", window)
            return None
        header = PayloadHeader(
            window=window,
            base_window=base,
            pages_consumed=claimed,
            public_key=public_key(parts.context.hotkey),
            width=training.width_of(claimed),
            blocks=self.blocks,
        )
        self.turns.last_sent = window
        frame = self.make_frame(header, result.pseudo_gradient)
        payload = PendingPayload(window=window, frame=frame)
        parts.pending.add(payload)
        return Made(payload=payload, metrics=_metrics(result, starts, self.spec) | busy)

    def train(self, base: int, starts: Starts) -> InnerResult:
        """Run the inner loop, from the expected parameters if there is time to wait for them."""
        waiter = self.parts.context.waiter
        starts.poll()
        while starts.is_awaiting and self.has_time_to_wait(base):
            with self.parts.gate.apart():
                waiter.pause(
                    f"the others' payloads of window {base - 1}, to train on what they lead to; "
                    "training begins without them at the latest",
                    by_block=starts.until_block,
                )
            starts.poll()
        self._begun_block = waiter.recent_head()
        train = self.trainer.train
        if not self.blocks.is_whole:
            train = partial(train, trained=self.form.part(self.blocks).names)
        result = train(
            starts.first(),
            base,
            self.batches(base),
            lambda: self._stops(base),
            starts.poll,
            self.parts.gate.pass_by,
        )
        blocks = waiter.recent_head() - self._begun_block + 1
        if self.stride.note_loop(blocks, result.steps):
            self.inner_loop_blocks = blocks
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
            preview=self.preview,
            # Of the present window too: a slow machine begins after its payload is made.
            under_way=lambda: self.payloads_under_way(max(window, self.turns.last_sent + 1)),
            expected=expected,
        )

    def preview(self, window: int) -> Preview:
        """The parameters expected at the window's end, polled while training."""
        parts = self.parts
        return Preview(parts.context, parts.peers, parts.follower, window)

    def batches(self, base: int) -> Iterator[np.ndarray]:
        """The assigned pages in private order, int64 [step_pages, page_tokens] per inner step."""
        ids, step_pages = self.page_ids(base), self.step_pages
        for first in range(0, len(ids), step_pages):
            yield self._pages(base, ids[first : first + step_pages])

    @property
    def step_pages(self) -> int:
        """Pages of an inner step."""
        return self.width * self.spec.training.batch_pages

    def _pages(self, base: int, ids: np.ndarray) -> np.ndarray:
        """Pages by id. A wait for a bucket, of half an hour at worst, holds up no other lane."""
        pages = self.parts.datasets.at(base)
        with nullcontext() if pages.is_at_hand(ids) else self.parts.gate.apart():
            return pages.pages(ids)

    def page_ids(self, base: int) -> np.ndarray:
        """Ids of the assigned pages in private order, int64 [width x pages_per_window]."""
        assigned = self.list_assigned(self.parts.context.hotkey, base)
        return shuffled_blocks(assigned, self.order_secret, self.block_pages())

    def block_pages(self) -> int:
        """Pages shuffled together: of so few inner steps that a slow machine ends some blocks."""
        fewest = min(self.recent_steps, default=0)
        steps = max(1, min(MAX_BLOCK_STEPS, fewest // BLOCKS_PER_WINDOW))
        return steps * self.step_pages

    def list_assigned(self, hotkey: str, base: int) -> np.ndarray:
        """Ids of the pages assigned to a hotkey for a window, int64 [width x pages_per_window]."""
        count = self.width * self.parts.context.run.at(base).training.pages_per_window
        return self.lists.draw(hotkey, base, count)

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        """Encode the pseudo-gradient; error feedback keeps the rest."""
        return self.feedback.encode(header, deltas)

    def prefetch(self, window: int) -> None:
        """As in `Work`."""
        count = self.stride.width * self.parts.context.run.at(window).training.pages_per_window
        self.lists.prefetch(window, count)

    def is_late(self, base: int) -> bool:
        """Whether training must stop."""
        context, target = self.parts.context, self._target or self.turns.target_of(base)
        # A slow machine ends in a later window, and trains on the page list of that one next.
        ends_in = context.schedule.window_of(self._begun_block + (self.inner_loop_blocks or 0))
        if context.waiter.recent_head() >= context.schedule.assignment_block(ends_in):
            self.prefetch(max(base + 1, ends_in))
        return self.parts.is_over() or target.is_over()

    def _stops(self, base: int) -> bool:
        """Asked before each inner step."""
        if self._target is not None:
            self._target.note_step(self.parts.context.waiter.recent_head())
        return self.is_late(base)

    def has_time_to_wait(self, window: int) -> bool:
        """Whether more than `SPARE_FACTOR` of the last full inner loop is left."""
        blocks = self.inner_loop_blocks
        if blocks is None or self.parts.is_over():
            return False
        return self.deadline.blocks_left(window) > SPARE_FACTOR * blocks

    def payloads_under_way(self, window: int) -> list[Payload]:
        """Own readable payloads of earlier windows without a decision."""
        # Without the desk, which a save may hold: the list is replaced, and never changed within.
        before, form_at = self.parts.pending.before(window), self.parts.context.form_at
        decoded = (_decoded(pending, form_at(pending.window)) for pending in before)
        return [payload for payload in decoded if payload is not None]

    def clip_references(self) -> dict[str, float]:
        """Tensor name -> the norm at which the outer step clips a payload."""
        return clip_references(self.parts.follower.state, self.spec.outer)

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
        if (decoded := _decoded(payload, self.parts.context.form_at(payload.window))) is None:
            return
        self.feedback.take_back(decoded)
        log.info(
            "window %d: payload not applied; half of it back into error feedback", payload.window
        )

    def still(self) -> AbstractContextManager[None]:
        return self.parts.gate.still() if self.trainer.shares_memory else nullcontext()

    def groups(self) -> Mapping[str, Mapping[str, Tensor]]:
        return {"feedback": self.feedback.tensors, MOMENTS: self._moments.tensors}

    def values(self) -> Mapping[str, Any]:
        return {
            **self.turns.values(),
            "width": self.stride.width,
            "recent_steps": self.recent_steps,
            "inner_loop_blocks": self.inner_loop_blocks,
            "recent_finish_blocks": self.deadline.recent_blocks,
            "inner_notes": self.trainer.notes(),
        }

    def revisions(self) -> Mapping[str, object]:
        return {"feedback": self.feedback.revision, MOMENTS: self._moments.revision}


def _decoded(payload: PendingPayload, form: PayloadFormat) -> Payload | None:
    """An own payload opened; None, with a log line, if it is not valid."""
    try:
        return decode_payload(payload.frame, form)
    except PayloadError as error:
        log.warning("own payload of window %d is not valid: %s", payload.window, error)
        return None


def _metrics(result: InnerResult, starts: Starts, spec: RunSpec) -> dict[str, float | int | str]:
    values: dict[str, float | int | str] = {
        "inner_tokens": result.pages_consumed * spec.data.page_tokens,
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
