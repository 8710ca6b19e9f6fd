"""A miner's commitments: the digest of a saved payload, in the payload's own window."""

import logging

from template.base.conduct import Work
from template.base.desk import Desk
from template.base.pending import PendingPayload
from template.base.standing import Standing
from template.context import NodeContext
from template.log_context import window_context
from template.protocol.record import Record

log = logging.getLogger(__name__)


class Committer:
    """Puts digests on chain."""

    def __init__(self, context: NodeContext, desk: Desk, standing: Standing, work: Work) -> None:
        self._context, self._desk, self._standing, self._work = context, desk, standing, work
        self._refused = b""
        """Digest of the payload that the chain's quota left no room for."""

    def say_again(self) -> None:
        """At a process's start: what the process before has said last, or where the bucket is.

        A payload of a window to come is neither on chain, nor may it be: a record names one
        payload, and the payload of the window that has not ended has to stand.
        """
        context, desk = self._context, self._desk
        window = context.schedule.window_of(context.chain.head())
        with desk:
            for payload in desk.pending:
                if payload.window > window:
                    desk.pending.forget_attempt(payload)
            begun = [payload for payload in desk.pending if payload.window <= window]
        self._standing.publish_if_new(self.record(begun[-1] if begun else None))

    def commit(self, window: int) -> None:
        """Commit the payload of this window, unless already done; a failure is tried again.

        Without quota the payload stays uncommitted, and returns to error feedback when the
        window is decided.
        """
        with self._desk as desk:
            for unwanted in desk.pending.withdraw(lambda payload: not self._work.commits(payload)):
                self._work.take_back(unwanted)
                desk.note_change()
            due = desk.committable(window)
        pending = self._desk.pending
        for payload in due:
            pending.note_attempt(payload)
            if not self._standing.publish(self.record(payload)):
                pending.forget_attempt(payload)
                self._refused = payload.digest
                return
            pending.mark_committed(payload)
            self._context.metrics.log(window, {"committed": payload.digest.hex()})
            log.info("window %d: committed payload %s", window, payload.digest.hex()[:16])

    def commit_due(self) -> bool:
        """Commit the payload of the window that the chain is in; whether there was one.

        A record names one payload: before its window begins, the one before has to stand.
        """
        window = self._context.schedule.window_of(self._context.waiter.recent_head())
        due = [p for p in self._desk.committable(window) if p.digest != self._refused]
        if due:
            with window_context(window):
                self.commit(window)
        return bool(due)

    def record(self, payload: PendingPayload | None = None) -> Record:
        """The access to the own bucket, and this payload, if any."""
        commitment = None if payload is None else self._work.commitment(payload)
        context = self._context
        return Record.of(context.run.run_id, access=context.access, payload=commitment)
