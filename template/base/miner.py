"""The miner: train on the assigned pages, commit the digest, reveal the payload, follow.

One pass of the loop is one window. A payload that is not accepted, or not uploaded, returns to
error feedback. The state is on disk before the digest is on chain. A payload that no validator
reads in its window stays secret until the next window's payloads are committed: whoever read it
before could send it as an own payload.
"""

import logging
from dataclasses import replace

from template.base.pace import ScoringPace
from template.base.pending import PendingPayload, PendingPayloads
from template.base.standing import Standing
from template.base.stopping import STOP_UPLOAD_S, deliver, tell_delivery, tell_missed
from template.base.work import HonestWork, MinerParts, Work, WorkFactory
from template.bucket.retention import Sweeper
from template.chain.ballots import read_candidates
from template.context import NodeContext
from template.errors import StoreError
from template.log_context import window_context
from template.peers.client import Peers
from template.protocol.keys import payload_key
from template.protocol.quorum import Decision
from template.protocol.record import MAX_UIDS, Record
from template.scoring.admission import draw_candidates
from template.scoring.window import FETCH_SHARE
from template.sync.bootstrap import Bootstrap
from template.sync.dataset import open_pages
from template.sync.follower import Follower
from template.sync.own_checkpoint import OwnCheckpoints
from template.training.checkpoint import LocalCheckpoint

log = logging.getLogger(__name__)


class Miner:
    """A miner at work. `step` is one window; `template.base.supervisor` repeats it."""

    def __init__(self, context: NodeContext, work: WorkFactory = HonestWork) -> None:
        self.context = context
        self._standing = Standing(context)
        self._sweeper = Sweeper(context)
        self._own_checkpoints = OwnCheckpoints(context)
        peers = Peers(context)
        checkpoint = Bootstrap(context, peers).join()
        self.follower = Follower(
            context,
            peers,
            checkpoint.state,
            last_accepted=frozenset(checkpoint.values.get("last_accepted", ())),
        )
        self.pending = PendingPayloads.from_tensors(checkpoint.groups.get("pending", {}))
        parts = MinerParts(
            context=context,
            peers=peers,
            follower=self.follower,
            pages=open_pages(context, peers),
            pending=self.pending,
        )
        self.work: Work = work(parts, checkpoint)
        self._pace = ScoringPace(context)
        withheld = PendingPayloads.from_tensors(checkpoint.groups.get("withheld", {}))
        self._withheld = {payload.window: payload for payload in withheld}
        """Window -> payload that validators do not read in the window."""
        self._standing.publish_if_new(self._record())

    def step(self) -> bool:
        """One window: catch up, train, commit, wait for its end, reveal. False when done."""
        context = self.context
        schedule, num_windows = context.schedule, context.spec.schedule.num_windows
        self._standing.demand_registration()
        try:
            self.reveal()
        finally:
            self._catch_up()  # even if the own bucket refuses writes
        if self.follower.next_window >= num_windows:
            return False
        window = schedule.window_of(context.chain.head())
        if window >= num_windows:
            decided = self.follower.next_window
            context.waiter.until_finalized(
                schedule.vote_block(decided), f"the votes on window {decided}, counted there"
            )
            return True
        with window_context(window):
            if window > self.work.last_window and window >= 0:
                self.make_payload(window)
            self.commit(window)
            self._wait_for_end(window)
        return True

    def stop(self, limit_s: float = STOP_UPLOAD_S) -> None:
        """Upload the committed payloads that may be read, within `limit_s`; say what is missed.

        Called once, after the last step. Nothing is saved: a step may have been cut short, and
        the state folder has every payload since before its commitment.
        """
        waiting = [
            payload
            for payload in self.pending.unrevealed(lambda _window: True)
            if self.pending.may_be_committed(payload)
            and payload.window not in self._withheld
            and self.work.reveals(payload)
        ]
        if waiting:
            log.info(
                "stopping: uploading the committed payloads of windows %s, for up to %.0f s; a "
                "second signal ends the process at once",
                [payload.window for payload in waiting],
                limit_s,
            )
        delivery = deliver(self.context, waiting, self._is_surely_unread, limit_s)
        withheld = tuple(payload for _, payload in sorted(self._withheld.items()))
        tell_delivery(self.context, replace(delivery, unread=(*withheld, *delivery.unread)))
        for payload in delivery.uploaded:
            self.pending.mark_revealed(payload)
        committed = [p.window for p in self.pending if self.pending.may_be_committed(p)]
        tell_missed(self.context, max(committed, default=self.follower.next_window - 1))

    def _is_surely_unread(self, payload: PendingPayload) -> bool:
        """Whether the time to read this payload is over, or it is outside the final sample."""
        window, context = payload.window, self.context
        if self._pace.has_passed(window, FETCH_SHARE):
            return True
        is_known = context.chain.finalized() >= context.schedule.stake_block(window)
        return is_known and not self._is_drawn(window)

    def _wait_for_end(self, window: int) -> None:
        """Wait for the end of `window`, and reveal; before the run, for a window's length."""
        schedule, waiter = self.context.schedule, self.context.waiter
        start = schedule.first_block(window + 1)
        if window < 0:
            waiter.until_head(start, "window 0 to begin", by_block=schedule.first_block(0))
            return
        waiter.until_head(
            schedule.assignment_block(window + 1), f"the draw of the pages of window {window + 1}"
        )
        self.work.prefetch(window + 1)
        waiter.until_finalized(
            start - 1, f"window {window} to end, after which its payload may be uploaded"
        )
        self.reveal()
        waiter.until_head(start, f"window {window + 1} to begin")

    def make_payload(self, window: int) -> None:
        """Work, and save the new payload before its digest is committed."""
        made = self.work.make_payload(window)
        if made is None:
            return
        self.pending.add(made.payload)
        self.save()
        self.context.metrics.log(window, made.metrics)

    def commit(self, window: int) -> None:
        """Commit the payload of this window, unless already done; a failure is tried again.

        Without quota the payload stays uncommitted, and returns to error feedback when the
        window is decided.
        """
        for unwanted in self.pending.withdraw(lambda payload: not self.work.commits(payload)):
            self.work.take_back(unwanted)
        for payload in self.pending.uncommitted(window):
            self.pending.note_attempt(payload)
            if not self._standing.publish(self._record()):
                self.pending.forget_attempt(payload)
                return
            self.pending.mark_committed(payload)
            self.context.metrics.log(window, {"committed": payload.digest.hex()})
            log.info("window %d: committed payload %s", window, payload.digest.hex()[:16])

    def reveal(self) -> None:
        """Upload payloads of finalized windows: rivals can no longer commit copies.

        Those outside the window's sample, or too late for the validators, a window later.
        """
        context = self.context
        finalized = context.chain.finalized()
        for payload in self.pending.unrevealed(
            lambda window: finalized >= context.schedule.commit_block(window)
        ):
            if not self.work.reveals(payload) or not self._deliver(payload):
                continue
            self.pending.mark_revealed(payload)
            self.follower.keep(payload.window, payload.digest, payload.frame)
        self._reveal_withheld()

    def _deliver(self, payload: PendingPayload) -> bool:
        """Whether the payload is in the bucket now; if nobody reads it in its window, not yet."""
        window, schedule = payload.window, self.context.schedule
        if window in self._withheld:
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
        self._withheld[window] = payload
        return False

    def _reveal_withheld(self) -> None:
        """Upload what was withheld, once the next window's payloads are committed.

        Validators then read it beside those, and know who was first. After the run's end nobody
        reads any more: what is withheld of the last window stays here.
        """
        finalized = self.context.chain.finalized()
        for window, payload in sorted(self._withheld.items()):
            if finalized >= self.context.schedule.commit_block(window + 1):
                self._upload(payload)
                self.pending.mark_revealed(payload)
                del self._withheld[window]

    def _is_uploaded(self, payload: PendingPayload) -> bool:
        key = payload_key(self.context.spec.run_id, payload.window, payload.digest)
        try:
            return self.context.bucket.get(key, max_bytes=len(payload.frame)) == payload.frame
        except StoreError:
            # Unknown counts as not: the payload is then uploaded a window later, as ever.
            return False

    def _upload(self, payload: PendingPayload) -> None:
        context = self.context
        key = payload_key(context.spec.run_id, payload.window, payload.digest)
        context.bucket.put(key, payload.frame)
        context.metrics.log(payload.window, {"payload_bytes": len(payload.frame)})

    def _is_drawn(self, window: int) -> bool:
        context, most = self.context, self.context.spec.evaluation.max_payloads
        if most >= MAX_UIDS:
            return True
        stake_block = context.schedule.stake_block(window)
        context.waiter.until_finalized(
            stake_block, f"the draw of the payloads that are read in window {window}"
        )
        candidates = list(read_candidates(context.chain, context.spec, window).values())
        block_hash = context.chain.block_hash(stake_block)
        drawn, _ = draw_candidates(block_hash, window, candidates, most)
        return any(member.hotkey == context.hotkey for member in drawn)

    def settle(self, decision: Decision) -> None:
        """Return the payloads left out by the decision to error feedback, save, and clean up.

        After a jump nobody knows what was applied, and nothing returns: a payload that was applied
        must not come again.
        """
        self.work.note_decision(decision)
        accepted = {member.digest for member in decision.members}
        left_out = self.pending.settle(decision.window, accepted)
        if decision.is_jump and left_out:
            windows = [payload.window for payload in left_out]
            log.info("payloads of windows %s: not known whether they were applied", windows)
            left_out = []
        for payload in left_out:
            self.work.take_back(payload)
        self._take_back_void()
        self.save()
        self._sweeper.sweep(self.follower.state.window)

    def save(self) -> None:
        """Write the local checkpoint."""
        checkpoint = LocalCheckpoint(
            state=self.follower.state,
            groups={
                **self.work.groups(),
                "pending": self.pending.to_tensors(),
                "withheld": PendingPayloads(self._withheld.values()).to_tensors(),
            },
            values={
                **self.work.values(),
                "last_accepted": sorted(self.follower.ledger.last_accepted),
            },
            revisions=self.work.revisions(),
        )
        self._own_checkpoints.save(checkpoint)

    def _record(self) -> Record:
        """The access to the own bucket, and the newest undecided payload."""
        newest = self.pending.newest
        commitment = None if newest is None else self.work.commitment(newest)
        context = self.context
        return Record.of(context.spec.run_id, access=context.access, payload=commitment)

    def _catch_up(self) -> None:
        while self._within_run() and self.follower.decided():
            self.settle(self.follower.advance())

    def _within_run(self) -> bool:
        return self.follower.next_window < self.context.spec.schedule.num_windows

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
        self.work.take_back(PendingPayload(window=window, frame=frame))
