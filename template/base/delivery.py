"""A miner's uploads: when a payload is revealed, and which stay secret for another window.

A payload that no validator reads in its window stays secret until the next window's payloads are
committed: whoever read it before could send it as an own payload. A payload that was not committed
in its window stays secret for good: validators never read it, and rivals would.
"""

import logging

from template.base.conduct import Work
from template.base.desk import Desk
from template.base.pace import ScoringPace
from template.base.pending import PendingPayload
from template.chain.ballots import read_candidates, read_records
from template.context import NodeContext
from template.errors import ChainError, StoreError
from template.protocol.keys import payload_key
from template.protocol.record import MAX_UIDS
from template.scoring.admission import draw_candidates
from template.scoring.window import FETCH_SHARE
from template.sync.follower import KEPT_BLOCKS, Follower

log = logging.getLogger(__name__)


class Courier:
    """Brings payloads into the own bucket, in time."""

    def __init__(self, context: NodeContext, desk: Desk, follower: Follower, work: Work) -> None:
        self._context, self._desk, self._follower, self._work = context, desk, follower, work
        self._pace = ScoringPace(context)

    @property
    def has_work(self) -> bool:
        """Whether a payload is not in the bucket."""
        with self._desk as desk:
            return bool(desk.withheld or desk.pending.unrevealed(lambda _window: True))

    def reveal(self) -> None:
        """Upload committed payloads of finalized windows: rivals can no longer commit copies.

        Those outside the window's sample, or too late for the validators, a window later.
        """
        context = self._context
        finalized = context.waiter.recent_final()
        with self._desk as desk:
            due = desk.pending.unrevealed(
                lambda window: finalized >= context.schedule.commit_block(window)
            )
        for payload in due:
            if not self._work.reveals(payload) or not self._deliver(payload):
                continue
            with self._desk as desk:
                desk.pending.mark_revealed(payload)
            self._follower.keep(payload.window, payload.digest, payload.frame)
        self._reveal_withheld()

    def is_surely_unread(self, payload: PendingPayload) -> bool:
        """Whether the time to read this payload is over, or it is outside the final sample."""
        window, context = payload.window, self._context
        if self._pace.has_passed(window, FETCH_SHARE):
            return True
        is_known = context.chain.finalized() >= context.schedule.stake_block(window)
        return is_known and not self._is_drawn(window)

    def _deliver(self, payload: PendingPayload) -> bool:
        """Whether the payload is in the bucket now; if nobody reads it in its window, not yet."""
        window, schedule = payload.window, self._context.schedule
        if window in self._desk.withheld or not self._is_committed(payload):
            return False
        if self._pace.has_passed(window, FETCH_SHARE):
            why = "too late to upload, validators have stopped reading"
        elif not self._is_drawn(window):
            why = "outside the window's sample"
        else:
            self._upload(payload)
            return True
        if self._is_uploaded(payload):  # by the process before this one
            return True
        log.info(
            "window %d: %s: the payload stays secret until block %d, when it is too late to send "
            "it as an own payload, and returns to error feedback",
            window,
            why,
            schedule.commit_block(window + 1),
        )
        with self._desk as desk:
            desk.withheld[window] = payload
            desk.note_change()
        return False

    def _is_committed(self, payload: PendingPayload) -> bool:
        """Whether the chain names the payload at the end of its window.

        A process before may have ended between save and commitment, and a commitment may be late.
        """
        context, window = self._context, payload.window
        with self._desk as desk:
            if not desk.pending.may_be_committed(payload):
                return False
        block = context.schedule.commit_block(window)
        try:
            record = read_records(context.chain, block, context.run.run_id).get(context.hotkey)
        except ChainError:
            if context.chain.finalized() - block < KEPT_BLOCKS:
                raise
            record = None  # the endpoint forgot so old a block: validators have ended that window
        if record is not None and record.payload == self._work.commitment(payload):
            return True
        log.info(
            "window %d: the payload was not committed in its window: it stays secret, and returns "
            "to error feedback",
            window,
        )
        with self._desk as desk:
            desk.pending.forget_attempt(payload)
        return False

    def _reveal_withheld(self) -> None:
        """Upload what was withheld, once the next window's payloads are committed.

        Validators then read it beside those, and know who was first. After the run's end nobody
        reads any more: what is withheld of the last window stays here.
        """
        if not self._desk.withheld:
            return
        finalized = self._context.waiter.recent_final()
        for window, payload in sorted(self._desk.withheld.items()):
            if finalized >= self._context.schedule.commit_block(window + 1):
                self._upload(payload)
                with self._desk as desk:
                    desk.pending.mark_revealed(payload)
                    del desk.withheld[window]
                    desk.note_change()

    def _is_uploaded(self, payload: PendingPayload) -> bool:
        key = payload_key(self._context.run.run_id, payload.window, payload.digest)
        try:
            return self._context.bucket.get(key, max_bytes=len(payload.frame)) == payload.frame
        except StoreError:
            # Unknown counts as not: the payload is then uploaded a window later, as ever.
            return False

    def _upload(self, payload: PendingPayload) -> None:
        context = self._context
        key = payload_key(context.run.run_id, payload.window, payload.digest)
        context.bucket.put(key, payload.frame)
        context.metrics.log(payload.window, {"payload_bytes": len(payload.frame)})

    def _is_drawn(self, window: int) -> bool:
        context = self._context
        most = context.run.at(window).evaluation.max_payloads
        if most >= MAX_UIDS:
            return True
        stake_block = context.schedule.stake_block(window)
        context.waiter.until_finalized(
            stake_block, f"the draw of the payloads that are read in window {window}"
        )
        candidates = list(read_candidates(context.chain, context.run, window).values())
        block_hash = context.chain.block_hash(stake_block)
        drawn, _ = draw_candidates(block_hash, window, candidates, most)
        return any(member.hotkey == context.hotkey for member in drawn)
