"""The miner: train on the assigned pages, commit the digest, reveal the payload, follow.

The main thread follows the run. Three lanes run beside it: one trains window after window, one
saves and commits what was made, one uploads; so training waits for none of the others, nor they
for each other. Payloads and error feedback go together, and whoever reads or changes them holds
the desk.

A payload that is not accepted, or not uploaded, returns to error feedback. Error feedback and
payload are on disk before the digest is on chain. A payload that no validator reads in its window
stays secret until the next window's payloads are committed: whoever read it before could send it as
an own payload.
"""

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import Final

from template.base.lanes import Lanes
from template.base.pace import ScoringPace
from template.base.pending import PendingPayload, PendingPayloads
from template.base.standing import Standing
from template.base.stopping import STOP_UPLOAD_S, deliver, tell_delivery, tell_missed
from template.base.work import MOMENTS, HonestWork, MinerParts, Work, WorkFactory
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
from template.training.checkpoint import STATE, LocalCheckpoint

log = logging.getLogger(__name__)

LATER: Final = (STATE, MOMENTS)
"""What a commitment does not wait for. A restart follows the run from an older theta, and trains on
with older moments; error feedback and payloads go with the commitment."""
LANES_STOP_S: Final = 1.0
"""Of a stop's time, for the lanes to break off."""


class Miner:
    """A miner at work. `template.base.supervisor` repeats `step`."""

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
        self._lanes = Lanes(
            {"train": self._train, "commit": self._save_and_commit, "upload": self._upload_due},
            context.waiter,
        )
        self._have_begun = False
        self.pending = PendingPayloads.from_tensors(checkpoint.groups.get("pending", {}))
        parts = MinerParts(
            context=context,
            peers=peers,
            follower=self.follower,
            pages=open_pages(context, peers),
            pending=self.pending,
            is_over=lambda: self._lanes.are_over,
            follows_beside=context.works_beside,
        )
        self._desk = parts.desk
        self.work: Work = work(parts, checkpoint)
        self.follower.room = self.work.still
        self._pace = ScoringPace(context)
        withheld = PendingPayloads.from_tensors(checkpoint.groups.get("withheld", {}))
        self._withheld = {payload.window: payload for payload in withheld}
        """Window -> payload that validators do not read in the window."""
        self._saved = {payload.digest for payload in self.pending}
        """Digests of the pending payloads on the disk: others are not committed yet."""
        self._is_changed = False
        """Whether something besides new payloads is not on the disk."""
        self._is_training = False
        self._refused = b""
        """Digest of the payload that the chain's quota left no room for."""
        self._window_seen = -1
        self._standing.publish_if_new(self._record())

    def step(self) -> bool:
        """Follow, and let the lanes do the rest. False when done."""
        if not self.context.works_beside:
            return self._step_in_turn()
        context, schedule = self.context, self.context.schedule
        if not self._have_begun:
            self._have_begun = True
            self._lanes.start()
        self._lanes.check()
        window = schedule.window_of(context.waiter.recent_head())
        if window != self._window_seen:
            self._standing.demand_registration()
            self._window_seen = window
        self._catch_up()
        if not self._within_run():
            if not self._lanes.end():
                log.debug("a lane is still at work at the run's end")
            self.save()
            return False
        what, by_block = self._awaited(window)
        context.waiter.pause(what, by_block=by_block)
        return True

    def _awaited(self, window: int) -> tuple[str, int]:
        """What this node waits for, in words, and until which block; no words while it trains."""
        schedule, num_windows = self.context.schedule, self.context.spec.schedule.num_windows
        if self._is_training:
            return "", 0
        if window < 0:
            return "window 0 to begin", schedule.first_block(0)
        if window >= num_windows:
            decided = self.follower.next_window
            return f"the votes on window {decided}, counted there", schedule.vote_block(decided)
        return f"window {window} to end", schedule.first_block(window + 1)

    def _train(self) -> bool:
        """The lane that trains: the next window, if there is something to train it from."""
        window = self._window_to_train()
        if window is None:
            return False
        self._is_training = True
        try:
            with window_context(window):
                self._work_on(window)
        finally:
            self._is_training = False
        return True

    def _window_to_train(self) -> int | None:
        """The next window that may be trained now.

        A window's pages are drawn before the window begins, in the block in which the votes on its
        theta are counted.
        """
        context, schedule = self.context, self.context.schedule
        current = schedule.window_of(context.waiter.recent_head())
        window = max(self.work.last_window + 1, current, 0)
        if window >= context.spec.schedule.num_windows or window > current + 1:
            return None
        self.work.prefetch(window)
        if context.chain.finalized() < schedule.assignment_block(window):
            return None
        return window if self.work.can_begin(window) else None

    def _save_and_commit(self) -> bool:
        """The lane that saves: first what a commitment needs, then the rest."""
        if self._has_new():
            self._save_new()
        if self._commit_due():
            return True
        if not self._is_changed:
            return False
        self._save_rest()
        return True

    def _has_new(self) -> bool:
        """Whether a payload is not on the disk."""
        with self._desk:
            return any(payload.digest not in self._saved for payload in self.pending)

    def _commit_due(self) -> bool:
        """Commit the payload of the window that the chain is in; whether there was one."""
        window = self.context.schedule.window_of(self.context.waiter.recent_head())
        with self._desk:
            due = [p for p in self._committable(window) if p.digest != self._refused]
        if due:
            with window_context(window):
                self.commit(window)
        return bool(due)

    def _upload_due(self) -> bool:
        """The lane that uploads."""
        with self._desk:
            is_any = bool(self._withheld or self.pending.unrevealed(lambda _window: True))
        if is_any:
            self.reveal()
        return False

    def _step_in_turn(self) -> bool:
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
        self._lanes.end(min(limit_s, LANES_STOP_S))
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
        if self._work_on(window):
            self.save()

    def _work_on(self, window: int) -> bool:
        """Whether the window yields a payload."""
        made = self.work.make_payload(window)
        self._is_changed = True  # the moments, and the number of the window
        if made is not None:
            self.context.metrics.log(window, made.metrics)
        return made is not None

    def commit(self, window: int) -> None:
        """Commit the payload of this window, unless already done; a failure is tried again.

        Without quota the payload stays uncommitted, and returns to error feedback when the
        window is decided.
        """
        with self._desk:
            for unwanted in self.pending.withdraw(lambda payload: not self.work.commits(payload)):
                self.work.take_back(unwanted)
                self._is_changed = True
            due = self._committable(window)
        for payload in due:
            self.pending.note_attempt(payload)
            if not self._standing.publish(self._record(payload)):
                self.pending.forget_attempt(payload)
                self._refused = payload.digest
                return
            self.pending.mark_committed(payload)
            self.context.metrics.log(window, {"committed": payload.digest.hex()})
            log.info("window %d: committed payload %s", window, payload.digest.hex()[:16])

    def _committable(self, window: int) -> list[PendingPayload]:
        """Payloads of the window that are on the disk and were not committed."""
        return [p for p in self.pending.uncommitted(window) if p.digest in self._saved]

    def reveal(self) -> None:
        """Upload payloads of finalized windows: rivals can no longer commit copies.

        Those outside the window's sample, or too late for the validators, a window later.
        """
        context = self.context
        finalized = context.chain.finalized()
        with self._desk:
            due = self.pending.unrevealed(
                lambda window: finalized >= context.schedule.commit_block(window)
            )
        for payload in due:
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
        with self._desk:
            self._withheld[window] = payload
            self._is_changed = True
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
                with self._desk:
                    self.pending.mark_revealed(payload)
                    del self._withheld[window]
                    self._is_changed = True

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
        accepted = {member.digest for member in decision.members}
        with self._desk:
            self.work.note_decision(decision)
            left_out = self.pending.settle(decision.window, accepted)
            if decision.is_jump and left_out:
                windows = [payload.window for payload in left_out]
                log.info("payloads of windows %s: not known whether they were applied", windows)
                left_out = []
            for payload in left_out:
                self.work.take_back(payload)
            self._is_changed = True
        self._take_back_void()
        if not self.context.works_beside:
            self.save()
        self._sweeper.sweep(self.follower.state.window)

    def save(self) -> None:
        """Write the local checkpoint."""
        with self.work.still(), self._desk:
            self._write()

    def _write(self, older: Collection[str] = ()) -> None:
        """As `save`, with training still and the desk held."""
        new = [payload for payload in self.pending if payload.digest not in self._saved]
        self._own_checkpoints.save(self._checkpoint(), older)
        self._saved = {payload.digest for payload in self.pending}
        self._is_changed = bool(older)
        for payload in new:
            self.work.note_saved(payload)

    def _save_new(self) -> None:
        """What the next commitment needs: error feedback and payloads."""
        with self.work.still(), self._desk:
            self._write(LATER)

    def _save_rest(self) -> None:
        """Everything; large files without the desk, for nothing changes what is in them."""
        with self.work.still():
            with self._desk:
                checkpoint = self._checkpoint()
            self._own_checkpoints.prepare(checkpoint, LATER)
            with self._desk:
                # What has changed since then is for the next time: the desk is not held for long.
                is_newest = self.follower.state is checkpoint.state and not self._has_new()
                self._write(() if is_newest else LATER)

    def _checkpoint(self) -> LocalCheckpoint:
        return LocalCheckpoint(
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

    def _record(self, payload: PendingPayload | None = None) -> Record:
        """The access to the own bucket, and a payload: this, or the newest undecided one."""
        newest = payload or self.pending.newest
        commitment = None if newest is None else self.work.commitment(newest)
        context = self.context
        return Record.of(context.spec.run_id, access=context.access, payload=commitment)

    def _catch_up(self) -> None:
        while self._within_run() and self.follower.decided():
            self.settle(self.follower.advance(self._lanes.check))

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
        with self._desk:
            self.work.take_back(PendingPayload(window=window, frame=frame))
            self._is_changed = True
