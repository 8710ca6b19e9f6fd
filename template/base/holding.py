"""Uploads of named payloads: to name a payload is to hold it.

Of the payloads that a validator names, it puts those of which it is a holder into its own bucket
before the vote. Uploads run side by side until the vote's deadline; such a payload that is not in
the bucket by then leaves the vote. The others lie on its disk (`template.bucket.standby`).
"""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

from template.context import NodeContext
from template.errors import StoreError
from template.protocol.holders import Holding
from template.protocol.keys import payload_key
from template.protocol.payload import payload_digest

log = logging.getLogger(__name__)

UPLOAD_THREADS = 16
POLL_S = 0.05
MIN_RESERVE = 0.1
"""Fraction of the scoring period kept for judging, the log and the uploads, at least."""
MAX_RESERVE = 0.5
"""At most: a slow line must not end scoring altogether. The uploads that fit are named."""
SAFETY_FACTOR = 1.5
"""A line's rate varies from window to window; blocks are a coarse clock."""
LATE = "the time was up"
"""The reason for an upload cut off by the deadline."""


class NamedPayloads:
    """Puts named payloads into this node's bucket, and learns how long the uploads take."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._blocks_per_byte = 0.0

    def share(self, window: int, holding: Holding, digests: Collection[bytes]) -> int:
        """How many of a window's payloads this node will put, if as many as a step takes are named.

        `digests`: of all candidates. Of more than a step takes, its share of them.
        """
        mine = len(holding.held_by(self._context.hotkey, digests))
        named = min(len(digests), self._context.run.at(window).outer.peers_per_step)
        return min(mine, -(-named * mine // max(1, len(digests))))

    def reserve(self, window: int, period_blocks: int, num_payloads: int) -> float:
        """Fraction of the scoring period to keep for the uploads of so many payloads.

        From the slowest rate seen lately; `MIN_RESERVE` before the first upload.
        """
        num_bytes = num_payloads * self._context.form_at(window).num_bytes
        needed_blocks = math.ceil(SAFETY_FACTOR * num_bytes * self._blocks_per_byte)
        return min(max(needed_blocks / period_blocks, MIN_RESERVE), MAX_RESERVE)

    def hold(
        self, window: int, frames: Mapping[int, bytes], is_late: Callable[[], bool]
    ) -> frozenset[int]:
        """The uids (of `frames`: uid -> payload) with the payload in the bucket in time.

        Failed uploads are tried again until `is_late()`.
        """
        start_block = self._context.waiter.recent_head()
        held: frozenset[int] = frozenset()
        while True:
            failed = self._upload_once(
                window, {uid: f for uid, f in frames.items() if uid not in held}, is_late
            )
            held = frozenset(frames) - frozenset(failed)
            if not failed or is_late():
                break
            self._context.waiter.pause(
                f"this node's own bucket to take the payloads that it names in window {window}",
                by_block=self._context.schedule.vote_block(window),
            )
        self._note_rate(sum(len(frames[uid]) for uid in held), start_block)
        if LATE in failed.values():
            self._note_late(sum(map(len, frames.values())), start_block)
        if failed:
            log.warning(
                "window %d: the payloads of uids %s are not in this node's bucket in time and "
                "leave the vote: %s",
                window,
                sorted(failed),
                next(iter(failed.values())),
            )
        return held

    def _upload_once(
        self, window: int, frames: Mapping[int, bytes], is_late: Callable[[], bool]
    ) -> dict[int, str]:
        """Put all `frames` side by side; uid -> reason for each that is not there."""
        bucket, run_id = self._context.bucket, self._context.run.run_id
        pool = ThreadPoolExecutor(max_workers=UPLOAD_THREADS, thread_name_prefix="upload")
        try:
            running = {
                uid: pool.submit(
                    bucket.put, payload_key(run_id, window, payload_digest(frame)), frame
                )
                for uid, frame in frames.items()
            }
            while wait(running.values(), timeout=POLL_S).not_done and not is_late():
                self._context.waiter.tell(
                    f"uploads of the payloads that this node names in window {window}",
                    by_block=self._context.schedule.vote_block(window),
                )
        finally:
            # A slow upload goes on in its thread: the payload may still be of use to others.
            pool.shutdown(wait=False, cancel_futures=True)
        reasons = {uid: _reason(future) for uid, future in running.items()}
        return {uid: reason for uid, reason in reasons.items() if reason}

    def _note_rate(self, num_bytes: int, start_block: int) -> None:
        if num_bytes:
            taken_blocks = self._context.waiter.recent_head() - start_block
            # Halved from window to window, so that one bad night is forgotten.
            self._blocks_per_byte = max(taken_blocks / num_bytes, self._blocks_per_byte / 2)

    def _note_late(self, num_bytes: int, start_block: int) -> None:
        """Count uploads cut off by the deadline as half done: else no reserve ever suffices."""
        taken_blocks = max(1, self._context.waiter.recent_head() - start_block)
        self._blocks_per_byte = max(2 * taken_blocks / num_bytes, self._blocks_per_byte)


def _reason(future: Future[None]) -> str:
    """Why an upload is not done; "" for a finished upload."""
    if future.cancelled() or not future.done():
        return LATE
    try:
        future.result()
    except StoreError as error:
        return str(error)
    return ""
