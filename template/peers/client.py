"""Clients of peers' buckets, opened by the access records on chain."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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
from template.peers.stores import OpenStores
from template.peers.threads import start
from template.protocol.keys import blob_key, payload_key
from template.protocol.payload import payload_digest
from template.protocol.record import Access, Record
from template.protocol.root import Member
from template.protocol.strangers import shown
from template.retry import retry
from template.store import Store

T = TypeVar("T")

log = logging.getLogger(__name__)

FETCH_THREADS = 256
FETCH_POLL_S = 0.05
MAX_NAMED_ERRORS = 8
"""Buckets named in the message about a blob in no bucket; further buckets are counted."""
HEDGE_S = 2.0
"""Seconds without an answer before the next holder of an accepted payload is asked too.

A shorter time loads holders needlessly; a longer time waits for dead buckets. The time doubles
after each silence, up to `MAX_HEDGE_GROWTH` times: silence all around is this node's slow network.
"""
MAX_HEDGE_GROWTH = 4


NODE_PATIENCE_S = 20.0
"""Longest wait of a request for a passing failure of this node; idle connections are given up."""


class PeerBucket:
    """A peer's bucket by the access record of the moment; read only, and holds nothing open."""

    def __init__(self, peers: "Peers", hotkey: str) -> None:
        self._peers, self._hotkey = peers, hotkey

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """As `Store.get`; RecordError if the access record has gone."""
        return self._peers.ask(self._hotkey, lambda store: store.get(key, max_bytes=max_bytes))

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
        began_late: bool = False,
    ) -> dict[int, bytes | SubnetError]:
        """uid -> payload from the miner's bucket, or the error.

        A payload without an answer when `stop()` is true counts as unavailable, or as NodeTrouble
        if this node could not ask until then. `began_late`: the buckets have too little time to
        answer, so a missing answer counts as AskedTooLate.
        """
        fetching = self.start_fetching(members, window, began_late=began_late)
        return self.finish_fetching(fetching, window, stop)

    def finish_fetching(
        self,
        fetching: "Fetching",
        window: int,
        stop: Callable[[], bool],
        *,
        by_window: int | None = None,
    ) -> dict[int, bytes | SubnetError]:
        """As `fetch_payloads`, of requests under way. `by_window`: the window being scored."""
        last_block = self._context.schedule.vote_block(window if by_window is None else by_window)
        what = f"payloads of window {window} from slow buckets, until the votes at the latest"
        while not fetching.wait(FETCH_POLL_S) and not stop():
            self._context.waiter.pause(what, by_block=last_block)
        fetching.close()
        found = {member.uid: found for member, found in fetching.outcomes()}
        self._log_trouble(window, found)
        return found

    def start_fetching(
        self, members: Sequence[Member], window: int, *, began_late: bool = False
    ) -> "Fetching":
        """Ask each member's own bucket for its payload of a window."""
        fetching = Fetching(self._node_troubles, began_late=began_late)
        for member in members:
            key = payload_key(self._context.spec.run_id, window, member.digest)
            bucket = PeerBucket(self, member.hotkey)
            fetching.add(member, partial(bucket.get, key, max_bytes=self._context.form.num_bytes))
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

        Holders are asked in turn; after a failure or a slow answer the next holder is asked too.
        NodeTrouble if no bucket gave the payload, and this node could not ask one of them.
        """
        waiting = iter(dict.fromkeys((member.hotkey, *namers)))
        pool = ThreadPoolExecutor(max_workers=1 + len(namers), thread_name_prefix="holder")
        asked: set[Future[bytes | None]] = set()
        trouble: NodeTrouble | None = None
        hedge_s = self._hedge_s
        try:
            while True:
                hotkey = next(waiting, None)
                if hotkey is not None:
                    asked.add(start(pool, partial(self._payload_of, member, window, hotkey)))
                if not asked:
                    break
                timeout_s = None if hotkey is None else hedge_s
                done, asked = wait(asked, timeout=timeout_s, return_when=FIRST_COMPLETED)
                if not done:
                    hedge_s = min(2 * hedge_s, MAX_HEDGE_GROWTH * self._hedge_s)
                for found in map(_trouble_as_value, done):
                    if isinstance(found, bytes):
                        return found
                    trouble = found or trouble
        finally:
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

    def _payload_of(self, member: Member, window: int, hotkey: str) -> bytes | None:
        """A member's payload from one bucket, or None. NodeTrouble if this node could not ask.

        Bytes with another digest count as a missing payload: a miner may serve the committed
        bytes until the vote and other bytes afterwards.
        """
        key = payload_key(self._context.spec.run_id, window, member.digest)
        try:
            data = self.bucket(hotkey).get(key, max_bytes=self._context.form.num_bytes)
        except NodeTrouble:
            raise
        except (StoreError, RecordError) as error:
            fault = f"no payload from {self._describe_bucket(hotkey)}: {error}"
            self._tell_once(logging.INFO, window, member.uid, hotkey, fault)
            return None
        if payload_digest(data) == member.digest:
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

        def read(hotkey: str) -> bytes:
            return self._read_blob(hotkey, digest, max_bytes, exact)

        return self._read_from_first(hotkeys, digest.hex(), read)

    def fetch_range(
        self,
        hotkeys: Iterable[str],
        key: str,
        start: int,
        length: int,
        is_right: Callable[[bytes], bool],
    ) -> bytes:
        """Bytes [start, start + length) under a key, for which `is_right` holds.

        From the first bucket that has them; raises as `fetch_blob`.
        """

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
        data = bucket.get(key, max_bytes=max_bytes)
        if hashlib.sha256(data).digest() != digest:
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


class Fetching:
    """Payloads being fetched, with a thread per bucket: a slow bucket delays only itself.

    `node_troubles`: hotkey -> the failure of this node that a running request waits for.
    `began_late`: the time is too short to hold a missing answer against a bucket.
    """

    def __init__(
        self, node_troubles: Mapping[str, NodeTrouble], *, began_late: bool = False
    ) -> None:
        self._node_troubles = node_troubles
        self._began_late = began_late
        self._pool = ThreadPoolExecutor(max_workers=FETCH_THREADS, thread_name_prefix="fetch")
        self._running: list[tuple[Member, Future[bytes]]] = []

    def add(self, member: Member, get: Callable[[], bytes]) -> None:
        self._running.append((member, start(self._pool, get)))

    @property
    def num_waiting(self) -> int:
        """Buckets without an answer."""
        return sum(not future.done() for _, future in self._running)

    def wait(self, timeout_s: float) -> bool:
        """Whether every bucket has answered within `timeout_s`."""
        return not wait([future for _, future in self._running], timeout=timeout_s).not_done

    def outcomes(self) -> list[tuple[Member, bytes | SubnetError]]:
        """Each member's payload, or the error."""
        return [(member, self._outcome(member, future)) for member, future in self._running]

    def close(self) -> None:
        """Cancel waiting requests, without waiting for running requests."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _outcome(self, member: Member, future: Future[bytes]) -> bytes | SubnetError:
        if future.cancelled():
            return NodeTrouble("this node had no thread to ask in time")
        if not future.done():
            late = Unavailable("no answer in time")
            if self._began_late:
                late = AskedTooLate("this node asked too late for an answer in time")
            return self._node_troubles.get(member.hotkey, late)
        try:
            return future.result()
        except SubnetError as error:
            return error


def _trouble_as_value(future: Future[bytes | None]) -> bytes | NodeTrouble | None:
    try:
        return future.result()
    except NodeTrouble as error:
        return error
