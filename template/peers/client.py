"""Payloads from peers' buckets: of a window's members, and accepted ones from any holder."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from template.context import ReadContext
from template.errors import (
    AskedTooLate,
    NodeTrouble,
    RecordError,
    StoreError,
    SubnetError,
)
from template.peers.arrival import Arrival, Watch, least_rate
from template.peers.buckets import NODE_PATIENCE_S, PeerBucket, PeerBuckets
from template.peers.fetching import FETCH_THREADS, Fetching, never_late
from template.peers.threads import start
from template.protocol.keys import payload_key
from template.protocol.root import Member

T = TypeVar("T")

log = logging.getLogger(__name__)

FETCH_POLL_S = 0.05
FETCH_PAUSE_S = 0.5
"""Seconds at most before a place that is free is given to the next bucket: the line stands idle
meanwhile. A shorter pause asks the chain more often for its head."""
HEDGE_S = 2.0
"""Seconds of silence before the next holder of an accepted payload is asked too.

Silence is a rate below `least_rate`: while bytes come, however many are left, no other
holder is asked. A shorter time loads holders needlessly; a longer time waits for dead buckets. The
time doubles after each silence, up to `MAX_HEDGE_GROWTH` times: silence all around is this node's
slow network.
"""
MAX_HEDGE_GROWTH = 4
MAX_RATES = 32


def ignore_answer(_member: Member, _answer: bytes | SubnetError) -> None:
    """The `on_answer` of a caller that takes all payloads at the end."""


def nothing_to_do() -> bool:
    """The `meanwhile` of a caller that only waits."""
    return False


@dataclass(frozen=True, slots=True)
class Holder:
    """A bucket asked for a payload: what came, and what had come at the last look."""

    arrival: Arrival = field(default_factory=Arrival)
    watch: Watch = field(default_factory=Watch)


class Peers(PeerBuckets):
    """Peers' buckets and payloads. Fetching is thread-safe.

    A failure of this node is logged once while the failure lasts.
    """

    def __init__(
        self,
        context: ReadContext,
        *,
        node_patience_s: float = NODE_PATIENCE_S,
        hedge_s: float = HEDGE_S,
    ) -> None:
        super().__init__(context, node_patience_s=node_patience_s)
        self._hedge_s = hedge_s
        self._rates: tuple[float, ...] = ()
        """Bytes a second of the accepted payloads that came last."""
        self._is_trouble_logged = False
        self._told_window, self._told = -1, set[tuple[int, str]]()

    def fetch_payloads(
        self,
        members: Sequence[Member],
        window: int,
        stop: Callable[[], bool],
        *,
        is_late: Callable[[], bool] = never_late,
    ) -> dict[int, bytes | SubnetError]:
        """uid -> payload from the miner's bucket, or the error; in the order of `members`.

        A payload without an answer when `stop()` is true counts as unavailable if its bucket was
        silent or slow by itself, and as NodeTrouble if this node could not ask until then, or has
        a slow line. `is_late`: whether buckets asked now have too little time; of those a missing
        answer counts as AskedTooLate.
        """
        fetching = self.start_fetching(members, window, is_late=is_late)
        return self.finish_fetching(fetching, window, stop)

    def finish_fetching(
        self,
        fetching: Fetching,
        window: int,
        stop: Callable[[], bool],
        *,
        by_window: int | None = None,
        on_answer: Callable[[Member, bytes | SubnetError], None] = ignore_answer,
        meanwhile: Callable[[], bool] = nothing_to_do,
    ) -> dict[int, bytes | SubnetError]:
        """As `fetch_payloads`, of requests under way. `by_window`: the window being scored.

        `on_answer` gets each payload, or the error, while others are still on their way.
        `meanwhile` does a piece of other work and says whether there was any: the next buckets are
        asked between two pieces.
        """
        last_block = self._context.schedule.vote_block(window if by_window is None else by_window)
        what = f"payloads of window {window} from slow buckets, until the votes at the latest"
        is_busy = False
        while not fetching.wait(0.0 if is_busy else FETCH_POLL_S) and not stop():
            _tell_answers(fetching, on_answer)
            is_busy = meanwhile()
            if not is_busy:
                self._context.waiter.pause(what, by_block=last_block, most_s=FETCH_PAUSE_S)
        fetching.close()
        _tell_answers(fetching, on_answer)
        found = {member.uid: found for member, found in fetching.outcomes()}
        self._log_trouble(window, found)
        return found

    def start_fetching(
        self,
        members: Sequence[Member],
        window: int,
        *,
        is_late: Callable[[], bool] = never_late,
    ) -> Fetching:
        """Ask each member's own bucket for its payload of a window, a few at a time, in order."""
        num_bytes = self._context.form_at(window).num_bytes
        fetching = Fetching(self._node_troubles, num_bytes=num_bytes, is_late=is_late)
        for member in members:
            key = payload_key(self._context.run.run_id, window, member.digest)
            bucket = PeerBucket(self, member.hotkey)
            fetching.add(member, partial(bucket.fetch, key, max_bytes=num_bytes))
        return fetching

    def fetch_named_payloads(
        self, holders: Mapping[Member, Sequence[str]], window: int
    ) -> dict[int, bytes | NodeTrouble]:
        """uid -> accepted payload, all asked for at the same time; left out if no bucket has it.

        `holders`: member -> hotkeys beside the miner. NodeTrouble if this node could not ask.
        """
        pool = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="named")
        try:
            started = {
                member.uid: start(pool, partial(self.fetch_named_payload, member, window, hotkeys))
                for member, hotkeys in holders.items()
            }
            outcomes = {uid: _trouble_as_value(future) for uid, future in started.items()}
        finally:
            # A signal must not wait for buckets.
            pool.shutdown(wait=False, cancel_futures=True)
        found = {uid: data for uid, data in outcomes.items() if data is not None}
        self._log_trouble(window, found)
        return found

    def fetch_named_payload(
        self, member: Member, window: int, namers: Sequence[str]
    ) -> bytes | None:
        """An accepted payload from the miner or a naming validator; None if every bucket fails.

        Holders are asked in turn; after a failure or in silence the next holder is asked too, and
        the first payload that is whole ends the other downloads.
        NodeTrouble if no bucket gave the payload, and this node could not ask one of them.
        """
        waiting = iter(dict.fromkeys((member.hotkey, *namers)))
        pool = ThreadPoolExecutor(max_workers=1 + len(namers), thread_name_prefix="holder")
        asked: dict[Future[bytes | None], Holder] = {}
        trouble: NodeTrouble | None = None
        hedge_s = self._hedge_s
        try:
            while True:
                hotkey = next(waiting, None)
                if hotkey is not None:
                    holder = Holder()
                    ask = partial(self._payload_of, member, window, hotkey, holder.arrival)
                    asked[start(pool, ask)] = holder
                if not asked:
                    break
                least = least_rate(self._rates)
                done = _wait_while_moving(asked, None if hotkey is None else hedge_s, least)
                if not done:
                    hedge_s = min(2 * hedge_s, MAX_HEDGE_GROWTH * self._hedge_s)
                asked = {future: holder for future, holder in asked.items() if future not in done}
                for found in map(_trouble_as_value, done):
                    if isinstance(found, bytes):
                        return found
                    trouble = found or trouble
        finally:
            for holder in asked.values():
                holder.arrival.stop()
            pool.shutdown(wait=False, cancel_futures=True)
        if trouble is not None:
            raise trouble
        return None

    def _log_trouble(self, window: int, found: Mapping[int, bytes | SubnetError]) -> None:
        """An error line when this node begins to fail, and no other until the failure is over."""
        troubles = [
            error
            for error in found.values()
            if isinstance(error, NodeTrouble) and not isinstance(error, AskedTooLate)
        ]
        if troubles and not self._is_trouble_logged:
            log.error(
                "window %d: this node itself could not ask for %d payloads, and no miner is at "
                "fault: %s. Give the machine more open files (ulimit -n), memory or threads, or "
                "repair its network",
                window,
                len(troubles),
                troubles[0],
            )
        self._is_trouble_logged = bool(troubles)

    def _payload_of(
        self, member: Member, window: int, hotkey: str, arrival: Arrival
    ) -> bytes | None:
        """A member's payload from one bucket, or None. NodeTrouble if this node could not ask.

        Bytes with another digest count as a missing payload: a miner may serve the committed
        bytes until the vote and other bytes afterwards.
        """
        key = payload_key(self._context.run.run_id, window, member.digest)
        began_s = time.monotonic()
        try:
            num_bytes = self._context.form_at(window).num_bytes
            data = self.bucket(hotkey).fetch(key, arrival, max_bytes=num_bytes)
        except NodeTrouble:
            raise
        except (StoreError, RecordError) as error:
            fault = f"no payload from {self._describe_bucket(hotkey)}: {error}"
            self._tell_once(logging.INFO, window, member.uid, hotkey, fault)
            return None
        if arrival.digest == member.digest:
            taken_s = max(time.monotonic() - began_s, 1e-6)
            self._rates = (*self._rates[1 - MAX_RATES :], len(data) / taken_s)
            return data
        fault = f"{hotkey} served other bytes"
        self._tell_once(logging.WARNING, window, member.uid, hotkey, fault)
        return None

    def _tell_once(self, level: int, window: int, uid: int, hotkey: str, fault: str) -> None:
        """A line about a bucket without a payload; a bucket asked again and again is told once."""
        if window != self._told_window:
            self._told_window, self._told = window, set()
        is_new = (uid, hotkey) not in self._told
        self._told.add((uid, hotkey))
        log.log(level if is_new else logging.DEBUG, "window %d, uid %d: %s", window, uid, fault)


def _tell_answers(
    fetching: Fetching, on_answer: Callable[[Member, bytes | SubnetError], None]
) -> None:
    for member, answer in fetching.newly_answered():
        on_answer(member, answer)


def _trouble_as_value(future: Future[bytes | None]) -> bytes | NodeTrouble | None:
    try:
        return future.result()
    except NodeTrouble as error:
        return error


def _wait_while_moving(
    asked: Mapping[Future[bytes | None], Holder], silence_s: float | None, least_bytes_per_s: float
) -> Collection[Future[bytes | None]]:
    """The requests that are done; none after `silence_s` in which no holder gave bytes.

    With None the wait has no end but an answer.
    """
    while True:
        since_s = time.monotonic()
        done, _ = wait(asked, timeout=silence_s, return_when=FIRST_COMPLETED)
        if done or silence_s is None:
            return done
        taken_s = time.monotonic() - since_s
        moving = [
            h.watch.is_moving(h.arrival.num_bytes, taken_s, least_bytes_per_s)
            for h in asked.values()
        ]
        if not any(moving):
            return ()
