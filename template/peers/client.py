"""Peers' buckets: opening them by the access records on chain, and fetching from them."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from threading import Lock

from template.chain.ballots import read_records
from template.context import ReadContext
from template.errors import (
    NotFound,
    RecordError,
    StoreError,
    SubnetError,
    TooLarge,
    Unavailable,
)
from template.protocol.keys import blob_key, payload_key
from template.protocol.payload import payload_digest
from template.protocol.record import Access, Record
from template.protocol.root import Member
from template.store import Store

log = logging.getLogger(__name__)

FETCH_THREADS = 256
FETCH_POLL_S = 0.05
HEDGE_S = 2.0
"""Without an answer for so long, the next holder of an accepted payload is asked too. Shorter loads
holders for nothing, longer waits for buckets that are gone.
"""


class Peers:
    """Opens each peer's bucket once per access record. Fetching is thread-safe."""

    def __init__(self, context: ReadContext) -> None:
        self._context = context
        self._records: Mapping[str, Record] = {}
        self._open: dict[tuple[str, Access], Store] = {}
        self._troubled: set[str] = set()
        self._lock = Lock()

    def refresh(self) -> None:
        """Read the access records as they stand at the last finalised block."""
        chain = self._context.chain
        self._records = read_records(chain, chain.finalized())

    def bucket(self, hotkey: str) -> Store:
        """A peer's bucket; RecordError if it has no access record or a forbidden endpoint."""
        record = self._records.get(hotkey)
        if record is None or record.access is None:
            raise RecordError(f"{hotkey} has no access record on chain: its bucket is unknown")
        place = (hotkey, record.access)
        with self._lock:
            if place not in self._open:
                self._open[place] = self._context.open_bucket(hotkey, record.access)
            return self._open[place]

    def fetch_payloads(
        self, members: Sequence[Member], window: int, stop: Callable[[], bool]
    ) -> dict[int, bytes | SubnetError]:
        """uid -> its payload from its miner's bucket, or why there is none.

        What has not come when `stop()` is true counts as unavailable.
        """
        fetching = self.start_fetching(members, window)
        while not fetching.wait(FETCH_POLL_S) and not stop():
            self._context.waiter.pause()
        fetching.close()
        return {member.uid: found for member, found in fetching.outcomes()}

    def start_fetching(self, members: Sequence[Member], window: int) -> "Fetching":
        """Ask each member's own bucket for its payload of a window."""
        fetching = Fetching()
        for member in members:
            key = payload_key(self._context.spec.run_id, window, member.digest)
            try:
                bucket = self.bucket(member.hotkey)
            except RecordError as error:
                fetching.add_failure(member, error)
                continue
            fetching.add(member, partial(bucket.get, key, max_bytes=self._context.form.num_bytes))
        return fetching

    def fetch_named_payload(
        self, member: Member, window: int, namers: Sequence[str]
    ) -> bytes | None:
        """An accepted payload from its miner or whoever named it; None if none has it now.

        One is asked after the other, and the next at once when one fails or is slow.
        """
        waiting = iter(dict.fromkeys((member.hotkey, *namers)))
        pool = ThreadPoolExecutor(max_workers=1 + len(namers), thread_name_prefix="holder")
        asked: set[Future[bytes | None]] = set()
        try:
            while True:
                hotkey = next(waiting, None)
                if hotkey is not None:
                    asked.add(pool.submit(self._payload_of, member, window, hotkey))
                if not asked:
                    return None
                timeout_s = None if hotkey is None else HEDGE_S
                done, asked = wait(asked, timeout=timeout_s, return_when=FIRST_COMPLETED)
                found = [data for future in done if (data := future.result()) is not None]
                if found:
                    return found[0]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _payload_of(self, member: Member, window: int, hotkey: str) -> bytes | None:
        """A member's payload from one bucket, or None.

        A bucket that gives other bytes under the digest does not have it: a miner may serve
        the right ones until the vote and others afterwards.
        """
        key = payload_key(self._context.spec.run_id, window, member.digest)
        try:
            data = self.bucket(hotkey).get(key, max_bytes=self._context.form.num_bytes)
        except (StoreError, RecordError) as error:
            log.info("payload of uid %d not from %s: %s", member.uid, self._place(hotkey), error)
            return None
        if payload_digest(data) == member.digest:
            return data
        log.warning("payload of uid %d: %s gave other bytes", member.uid, hotkey)
        return None

    def fetch_blob(
        self, hotkeys: Iterable[str], digest: bytes, max_bytes: int, *, exact: bool = False
    ) -> bytes:
        """Bytes of a SHA-256 from the first of several buckets that has them, verified.

        A bucket that gives others is passed over like one that has none; `exact`: so is one that
        has not `max_bytes` of them, before it is read. The error names each bucket and what was
        wrong with it: NotFound if none of them has such an object, Unavailable if another try may
        help. Hotkeys are taken one by one, as they are needed.
        """
        errors, may_help = [], False
        for hotkey in hotkeys:
            try:
                data = self._read_blob(hotkey, digest, max_bytes, exact)
            except SubnetError as error:
                may_help |= not isinstance(error, (RecordError, NotFound))
                if isinstance(error, (Unavailable, TooLarge)):
                    self._troubled.add(hotkey)
                errors.append(f"{self._place(hotkey)}: {error}")
                continue
            self._troubled.discard(hotkey)
            return data
        kind = Unavailable if may_help else NotFound
        raise kind(f"no bucket has {digest.hex()}: {'; '.join(errors)}")

    def is_troubled(self, hotkey: str) -> bool:
        """Whether this bucket wasted time when it was last asked for a blob."""
        return hotkey in self._troubled

    def _read_blob(self, hotkey: str, digest: bytes, max_bytes: int, exact: bool) -> bytes:
        bucket, key = self.bucket(hotkey), blob_key(digest)
        if exact and (num_bytes := bucket.size(key)) != max_bytes:
            raise self._deceived(hotkey, digest, f"{num_bytes} bytes, not {max_bytes},")
        data = bucket.get(key, max_bytes=max_bytes)
        if hashlib.sha256(data).digest() != digest:
            raise self._deceived(hotkey, digest, "other bytes")
        return data

    def _deceived(self, hotkey: str, digest: bytes, found: str) -> Unavailable:
        log.warning(
            "%s: %s under digest %s; it is passed over, tell its owner",
            self._place(hotkey),
            found,
            digest.hex(),
        )
        return Unavailable(f"{found} under this digest")

    def _place(self, hotkey: str) -> str:
        """A peer and its endpoint, for messages."""
        record = self._records.get(hotkey)
        if record is None or record.access is None:
            return hotkey
        return f"{hotkey} at {record.access.endpoint_url}"


class Fetching:
    """Payloads on their way, each bucket in a thread of its own: none delays another."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=FETCH_THREADS, thread_name_prefix="fetch")
        self._running: list[tuple[Member, Future[bytes]]] = []
        self._failed: list[tuple[Member, SubnetError]] = []

    def add(self, member: Member, get: Callable[[], bytes]) -> None:
        self._running.append((member, self._pool.submit(get)))

    def add_failure(self, member: Member, error: SubnetError) -> None:
        self._failed.append((member, error))

    @property
    def num_waiting(self) -> int:
        """Buckets that have not answered."""
        return sum(not future.done() for _, future in self._running)

    def wait(self, timeout_s: float) -> bool:
        """Whether every bucket has answered by then."""
        return not wait([future for _, future in self._running], timeout=timeout_s).not_done

    def outcomes(self) -> list[tuple[Member, bytes | SubnetError]]:
        """Each member's payload as it has come, or why there is none."""
        return [*self._failed, *((member, _outcome(future)) for member, future in self._running)]

    def close(self) -> None:
        """Start no more requests and wait for none."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _outcome(future: Future[bytes]) -> bytes | SubnetError:
    if future.cancelled() or not future.done():
        return Unavailable("no answer in time")
    try:
        return future.result()
    except SubnetError as error:
        return error
