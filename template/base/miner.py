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
from dataclasses import replace
from typing import Final

from template.base.committing import Committer
from template.base.conduct import MinerParts, Work, WorkFactory
from template.base.delivery import Courier
from template.base.desk import Desk
from template.base.keeping import Keeper
from template.base.lanes import Lanes
from template.base.pending import PendingPayload, PendingPayloads
from template.base.standing import Standing
from template.base.stopping import STOP_UPLOAD_S, deliver, tell_delivery, tell_missed
from template.base.told import Teller
from template.base.work import HonestWork
from template.bucket.retention import Sweeper
from template.context import NodeContext
from template.errors import StoreError
from template.log_context import window_context
from template.peers.client import Peers
from template.protocol.keys import payload_key
from template.protocol.quorum import Decision
from template.sync.bootstrap import Bootstrap
from template.sync.dataset import open_datasets
from template.sync.follower import Follower
from template.sync.successions import restore_run

log = logging.getLogger(__name__)

LANES_STOP_S: Final = 1.0
"""Of a stop's time, for the lanes to break off."""


class Miner:
    """A miner at work. `template.base.supervisor` repeats `step`."""

    def __init__(self, context: NodeContext, work: WorkFactory = HonestWork) -> None:
        self.context = context
        self._standing = Standing(context)
        self._sweeper = Sweeper(context)
        peers = Peers(context)
        restore_run(context, peers)
        checkpoint = Bootstrap(context, peers).join()
        self.follower = Follower(
            context,
            peers,
            checkpoint.state,
            last_accepted=frozenset(checkpoint.values.get("last_accepted", ())),
        )
        self.teller = Teller(context, peers)
        lanes = {"train": self._train, "commit": self._save_and_commit, "upload": self._upload_due}
        self._lanes = Lanes(lanes | {"tell": self.teller.tell_due}, context.waiter)
        self.desk = Desk(
            PendingPayloads.from_tensors(checkpoint.groups.get("pending", {})),
            PendingPayloads.from_tensors(checkpoint.groups.get("withheld", {})),
            checkpoint.values.get("returned", ()),
            saved=True,
        )
        # A process's first save writes all: at once, and not while a commitment waits.
        self.desk.note_change()
        parts = MinerParts(
            context=context,
            peers=peers,
            follower=self.follower,
            datasets=open_datasets(context, peers, checkpoint.state.window),
            desk=self.desk,
            is_over=lambda: self._lanes.are_over,
            follows_beside=context.works_beside,
        )
        self.work: Work = work(parts, checkpoint)
        self.follower.room = self.work.still
        self.keeper = Keeper(context, self.desk, self.follower, self.work)
        self.committer = Committer(context, self.desk, self._standing, self.work)
        self.courier = Courier(context, self.desk, self.follower, self.work)
        self._is_training, self._window_seen = False, -1
        self.committer.say_again()

    @property
    def pending(self) -> PendingPayloads:
        """The own payloads without a decision."""
        return self.desk.pending

    def step(self) -> bool:
        """Follow, and let the lanes do the rest. False when done."""
        if not self.context.works_beside:
            return self._step_in_turn()
        context, schedule = self.context, self.context.schedule
        if context.ranks is not None:
            context.ranks.split()
        self._lanes.start()
        self._lanes.check()
        window = schedule.window_of(context.waiter.recent_head())
        if window != self._window_seen:
            self._standing.demand_registration()
            self.follower.successions.look()
            self._window_seen = window
        self._catch_up()
        if not self._within_run():
            if not self._lanes.end():
                log.debug("a lane is still at work at the run's end")
            self.teller.tell_rest()
            self.save()
            self.keeper.note_settled(has_joined=False)
            return False
        what, by_block = self._awaited(window)
        context.waiter.pause(what, by_block=by_block)
        return True

    def _awaited(self, window: int) -> tuple[str, int]:
        """What this node waits for, in words, and until which block; no words while it trains."""
        schedule, num_windows = self.context.schedule, self.context.run.num_windows
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
        window = max(self.work.next_window, current, 0)
        if window >= context.run.num_windows or window > current + 1:
            return None
        self.work.prefetch(window)
        if context.waiter.recent_final() < schedule.assignment_block(window):
            return None
        is_right = self.follower.successions.knows(window)
        return window if is_right and self.work.can_begin(window) else None

    def _save_and_commit(self) -> bool:
        """The lane that saves: first what a commitment needs, then the rest."""
        if self.desk.unsaved():
            self.keeper.save_new()
        if self._lanes.are_over:
            return False  # a stop has looked what is committed, and uploads nothing else
        if self.committer.commit_due():
            return True
        if not self.desk.is_changed:
            return False
        self.keeper.save_rest()
        return True

    def _upload_due(self) -> bool:
        """The lane that uploads."""
        if self.courier.has_work:
            self.reveal()
        return False

    def _step_in_turn(self) -> bool:
        """One window: catch up, train, commit, wait for its end, reveal. False when done.

        For worlds of virtual time: a node works beside this loop (`NodeContext.works_beside`). In
        turn, a payload for a later window than its page list's is committed only after the next
        list is trained, too late to count: slow machines that send such payloads need lanes.
        """
        context = self.context
        schedule, num_windows = context.schedule, context.run.num_windows
        self._standing.demand_registration()
        try:
            self.reveal()
        finally:
            self._catch_up()  # even if the own bucket refuses writes
        if self.follower.next_window >= num_windows:
            self.teller.tell_rest()
            return False
        window = schedule.window_of(context.chain.head())
        if window >= num_windows:
            decided = self.follower.next_window
            context.waiter.until_finalized(
                schedule.vote_block(decided), f"the votes on window {decided}, counted there"
            )
            return True
        with window_context(window):
            if window >= max(self.work.next_window, 0):
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
            and payload.window not in self.desk.withheld
            and self.work.reveals(payload)
        ]
        if waiting:
            log.info(
                "stopping: uploading the committed payloads of windows %s, for up to %.0f s; a "
                "second signal ends the process at once",
                [payload.window for payload in waiting],
                limit_s,
            )
        delivery = deliver(self.context, waiting, self.courier.is_surely_unread, limit_s)
        withheld = tuple(payload for _, payload in sorted(self.desk.withheld.items()))
        tell_delivery(self.context, replace(delivery, unread=(*withheld, *delivery.unread)))
        for payload in delivery.uploaded:
            self.pending.mark_revealed(payload)
        committed = [p.window for p in self.pending if self.pending.may_be_committed(p)]
        tell_missed(self.context, max(committed, default=self.follower.next_window - 1))

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
        self.desk.note_change()  # the moments, and the number of the window
        if made is not None:
            self.context.metrics.log(window, made.metrics_of_payload)
            self.teller.note_made(made.payload.window, made.metrics)
        return made is not None

    def commit(self, window: int) -> None:
        """Commit the payload of this window, if it is saved: see `Committer`."""
        self.committer.commit(window)

    def reveal(self) -> None:
        """Upload what is due, and may be read: see `Courier`."""
        self.courier.reveal()

    def settle(self, decision: Decision) -> None:
        """Return the payloads left out by the decision to error feedback, and clean up.

        Nothing returns of a window of which this node does not know what was applied, as after a
        jump: a payload that was applied must not come again.
        """
        applied = self._applied(decision)
        with self.desk:
            self.work.note_decision(decision)
            self.teller.note_decision(decision, self.pending)
            left_out = self.pending.settle(decision.window, frozenset().union(*applied.values()))
            unsure = [payload.window for payload in left_out if payload.window not in applied]
            if unsure:
                log.info("payloads of windows %s: not known whether they were applied", unsure)
            for payload in left_out:
                if payload.window in applied:
                    self.work.take_back(payload)
            self.desk.note_change()
        self._take_back_void()
        if not self.context.works_beside:
            self.save()
            self.teller.tell_all_due()
        self.keeper.note_settled(has_joined=decision.is_jump)
        self._sweeper.sweep(self.follower.state.window)

    def _applied(self, decision: Decision) -> dict[int, frozenset[bytes]]:
        """Window -> digests of its applied payloads, of this decision and of the steps before.

        The follower moves before a payload is settled, and a checkpoint saved between the two, by
        another lane, has theta with the payload and the payload still pending: after a restart the
        next decision is of a later window, and the step tells what became of the payload.
        """
        steps = (*self.follower.ledger.steps, *(() if decision.is_jump else (decision,)))
        return {step.window: frozenset(m.digest for m in step.members) for step in steps}

    def save(self) -> None:
        """Write the local checkpoint."""
        self.keeper.save()

    def _catch_up(self) -> None:
        while self._within_run() and self.follower.decided():
            self.settle(self.follower.advance(self._lanes.check))

    def _within_run(self) -> bool:
        return self.follower.next_window < self.context.run.num_windows

    def _take_back_void(self) -> None:
        """Own payloads that were accepted and then found void count as not accepted."""
        for step in self.follower.taken_back:
            for member in step.members:
                if member.hotkey == self.context.hotkey:
                    self._take_back_from_bucket(step.window, member.digest)
        self.follower.taken_back.clear()

    def _take_back_from_bucket(self, window: int, digest: bytes) -> None:
        context, key = self.context, payload_key(self.context.run.run_id, window, digest)
        try:
            frame = context.bucket.get(key, max_bytes=context.form_at(window).num_bytes)
        except StoreError as error:
            log.warning("window %d: the own payload found void is lost: %s", window, error)
            return
        with self.desk:
            if self.desk.returns_void(digest):
                self.work.take_back(PendingPayload(window=window, frame=frame))
                self.desk.note_change()
