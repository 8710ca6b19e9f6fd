"""Clients of peers' buckets, opened by the access records on chain."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from template.chain.ballots import read_records_of_any_run
from template.context import ReadContext
from template.errors import (
    AskedTooLate,
    NodeTrouble,
    NotFound,
    RecordError,
    StoreError,
    SubnetError,
    TooLarge,
    Unavailable,
)
from template.peers.arrival import Arrival, Watch, least_rate
from template.peers.fetching import FETCH_THREADS, Fetching, never_late
from template.peers.stores import OpenStores
from template.peers.threads import start
from template.protocol.keys import blob_key, payload_key
from template.protocol.record import Access, Record
from template.protocol.root import Member
from template.protocol.strangers import shown
from template.retry import retry
from template.store import Store

T = TypeVar("T")

log = logging.getLogger(__name__)

FETCH_POLL_S = 0.05
MAX_NAMED_ERRORS = 8
"""Buckets named in the message about a blob in no bucket; further buckets are counted."""
HEDGE_S = 2.0
"""Seconds of silence before the next holder of an accepted payload is asked too.

Silence is a rate below `least_rate`: while bytes come, however many are left, no other
holder is asked. A shorter time loads holders needlessly; a longer time waits for dead buckets. The
time doubles after each silence, up to `MAX_HEDGE_GROWTH` times: silence all around is this node's
slow network.
"""
MAX_HEDGE_GROWTH = 4
MAX_RATES = 32


NODE_PATIENCE_S = 20.0
"""Longest wait of a request for a passing failure of this node; idle connections are given up."""


def ignore_payload(_member: Member, _data: bytes) -> None:
    """The `on_come` of a caller that takes all payloads at the end."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A bucket asked for a payload: what came, and what had come at the last look."""

    arrival: Arrival = field(default_factory=Arrival)
    watch: Watch = field(default_factory=Watch)


class PeerBucket:
    """A peer's bucket by the access record of the moment; read only, and holds nothing open."""

    def __init__(self, peers: "Peers", hotkey: str) -> None:
        self._peers, self._hotkey = peers, hotkey

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """As `Store.get`; RecordError if the access record has gone."""
        return self._peers.ask(self._hotkey, lambda store: store.get(key, max_bytes=max_bytes))

    def fetch(self, key: str, arrival: Arrival, *, max_bytes: int) -> bytes:
        """As `get`, through an arrival, which goes on where it is after a failure of this node."""
        self._peers.ask(
            self._hotkey,
            lambda store: store.stream(
                key, arrival.take, start=arrival.num_bytes, max_bytes=max_bytes
            ),
        )
        return arrival.data()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """As `Store.get_range`; RecordError if the access record has gone."""
        return self._peers.ask(self._hotkey, lambda store: store.get_range(key, start, length))

    def size(self, key: str) -> int:
        """As `Store.size`; RecordError if the access record has gone."""
        return self._peers.ask(self._hotkey, lambda store: store.size(key))


class Peers:
    """Peers' buckets, each opened once per access record. Fetching is thread-safe.

    A failure of this node (NodeTrouble) is waited for, `node_patience_s` at most, logged once
    while the failure lasts, and never counts against a bucket.
    """

    def __init__(
        self,
        context: ReadContext,
        *,
        node_patience_s: float = NODE_PATIENCE_S,
        hedge_s: float = HEDGE_S,
    ) -> None:
        self._context = context
        self._hedge_s = hedge_s
        self._node_patience_s = node_patience_s
        self._records: Mapping[str, Record] = {}
        self._stores = OpenStores(context.open_bucket)
        self._rates: tuple[float, ...] = ()
        """Bytes a second of the accepted payloads that came last."""
        self._troubled: set[str] = set()
        self._misleading: set[str] = set()
        self._node_troubles: dict[str, NodeTrouble] = {}
        self._is_trouble_logged = False
        self._told_window, self._told = -1, set[tuple[int, str]]()

    def refresh(self) -> None:
        """Read the access records at the last finalised block."""
        chain = self._context.chain
        self._records = read_records_of_any_run(chain, chain.finalized())
        found = ((hotkey, record.access) for hotkey, record in self._records.items())
        self._stores.keep_only({h: access for h, access in found if access is not None})

    def bucket(self, hotkey: str) -> PeerBucket:
        """A peer's bucket; RecordError if it has no access record or a forbidden endpoint."""
        self.ask(hotkey, lambda _store: None)
        return PeerBucket(self, hotkey)

    def ask(self, hotkey: str, ask: Callable[[Store], T]) -> T:
        """`ask` with a peer's open store. Raises what `bucket` and `ask` raise."""

        def attempt() -> T:
            try:
                return self._stores.call(hotkey, self._access(hotkey), ask)
            except NodeTrouble as error:
                self._node_troubles[hotkey] = error
                self._stores.close_idle()
                raise

        try:
            return retry(attempt, on=(NodeTrouble,), deadline_s=self._node_patience_s)
        finally:
            self._node_troubles.pop(hotkey, None)

    def _access(self, hotkey: str) -> Access:
        record = self._records.get(hotkey)
        if record is None or record.access is None:
            raise RecordError(f"{hotkey} has no access record on chain: its bucket is unknown")
        return record.access

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
        on_come: Callable[[Member, bytes], None] = ignore_payload,
        followed_by: Fetching | None = None,
    ) -> dict[int, bytes | SubnetError]:
        """As `fetch_payloads`, of requests under way. `by_window`: the window being scored.

        `on_come` gets each payload while others are still on their way. `followed_by` begins once
        every bucket of `fetching` has been asked.
        """
        last_block = self._context.schedule.vote_block(window if by_window is None else by_window)
        what = f"payloads of window {window} from slow buckets, until the votes at the latest"
        while not fetching.wait(FETCH_POLL_S) and not stop():
            for member, data in fetching.newly_come():
                on_come(member, data)
            if followed_by is not None and fetching.is_begun:
                followed_by.advance()
            self._context.waiter.pause(what, by_block=last_block)
        fetching.close()
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
        num_bytes = self._context.form.num_bytes
        fetching = Fetching(self._node_troubles, num_bytes=num_bytes, is_late=is_late)
        for member in members:
            key = payload_key(self._context.spec.run_id, window, member.digest)
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
        key = payload_key(self._context.spec.run_id, window, member.digest)
        began_s = time.monotonic()
        try:
            data = self.bucket(hotkey).fetch(key, arrival, max_bytes=self._context.form.num_bytes)
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

    def fetch_blob(
        self, hotkeys: Iterable[str], digest: bytes, max_bytes: int, *, exact: bool = False
    ) -> bytes:
        """Verified bytes with a SHA-256 from the first bucket with the blob.

        Skips a bucket with other bytes; with `exact`, also a bucket with another length than
        `max_bytes`, before the download. `hotkeys` is read one hotkey at a time. Raises NotFound
        if every bucket lacks the blob, Unavailable if another try may help; the message names
        the first buckets and their errors. NodeTrouble at once if this node cannot ask.
        """
        read = partial(self._read_blob, digest=digest, max_bytes=max_bytes, exact=exact)
        return self._read_from_first(hotkeys, digest.hex(), read)

    def fetch_range(
        self,
        hotkeys: Iterable[str],
        key: str,
        start: int,
        length: int,
        is_right: Callable[[bytes], bool],
    ) -> bytes:
        """Bytes [start, start + length), for which `is_right` holds; raises as `fetch_blob`."""

        def read(hotkey: str) -> bytes:
            data = self.bucket(hotkey).get_range(key, start, length)
            if not is_right(data):
                raise self._report_wrong_bytes(hotkey, key, "other bytes")
            return data

        return self._read_from_first(hotkeys, key, read)

    def _read_from_first(
        self, hotkeys: Iterable[str], what: str, read: Callable[[str], bytes]
    ) -> bytes:
        """`read` of the first hotkey that does not raise; raises as `fetch_blob`."""
        errors, may_help = [], False
        for hotkey in hotkeys:
            try:
                data = read(hotkey)
            except NodeTrouble:
                raise
            except SubnetError as error:
                may_help |= not isinstance(error, (RecordError, NotFound))
                if isinstance(error, (Unavailable, TooLarge)):
                    self._troubled.add(hotkey)
                errors.append(f"{self._describe_bucket(hotkey)}: {error}")
                continue
            self._troubled.discard(hotkey)
            return data
        kind = Unavailable if may_help else NotFound
        more = len(errors) - MAX_NAMED_ERRORS
        named = errors[:MAX_NAMED_ERRORS] + ([f"and {more} more"] if more > 0 else [])
        raise kind(f"no bucket has {what}: {'; '.join(named)}")

    def is_troubled(self, hotkey: str) -> bool:
        """Whether this bucket wasted time when it was last asked for a blob."""
        return hotkey in self._troubled

    def ask_last(self, hotkey: str) -> None:
        """Move a hotkey to the end of `in_order`: no answer, or one away from the voted root."""
        self._misleading.add(hotkey)

    def in_order(self, hotkeys: Iterable[str]) -> list[str]:
        """The hotkeys in their order, with misleading and silent hotkeys at the end."""
        return sorted(hotkeys, key=self._misleading.__contains__)

    def _read_blob(self, hotkey: str, digest: bytes, max_bytes: int, exact: bool) -> bytes:
        bucket, key = self.bucket(hotkey), blob_key(digest)
        if exact and (num_bytes := bucket.size(key)) != max_bytes:
            found = f"{num_bytes} bytes, not {max_bytes},"
            raise self._report_wrong_bytes(hotkey, digest.hex(), found)
        arrival = Arrival()
        data = bucket.fetch(key, arrival, max_bytes=max_bytes)
        if arrival.digest != digest:
            raise self._report_wrong_bytes(hotkey, digest.hex(), "other bytes")
        return data

    def _report_wrong_bytes(self, hotkey: str, name: str, found: str) -> Unavailable:
        log.warning(
            "%s: %s under digest %s; skipped this bucket: tell its owner",
            self._describe_bucket(hotkey),
            found,
            name,
        )
        return Unavailable(f"{found} under this digest")

    def _describe_bucket(self, hotkey: str) -> str:
        """Hotkey and endpoint, for messages."""
        record = self._records.get(hotkey)
        if record is None or record.access is None:
            return hotkey
        return f"{hotkey} at {shown(record.access.endpoint_url)}"


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
