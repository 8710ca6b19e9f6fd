"""Clients of peers' buckets, opened by the access records on chain."""

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
from template.protocol.strangers import shown
from template.store import Store

log = logging.getLogger(__name__)

FETCH_THREADS = 256
FETCH_POLL_S = 0.05
MAX_NAMED_ERRORS = 8
"""Buckets named in the message about a blob in no bucket; further buckets are counted."""
HEDGE_S = 2.0
"""Seconds without an answer before the next holder of an accepted payload is asked too.

A shorter time loads holders needlessly; a longer time waits for dead buckets.
"""


class Peers:
    """Opens each peer's bucket once per access record. Fetching is thread-safe."""

    def __init__(self, context: ReadContext) -> None:
        self._context = context
        self._records: Mapping[str, Record] = {}
        self._open: dict[tuple[str, Access], Store] = {}
        self._troubled: set[str] = set()
        self._misleading: set[str] = set()
        self._lock = Lock()

    def refresh(self) -> None:
        """Read the access records at the last finalised block."""
        chain = self._context.chain
        self._records = read_records(chain, chain.finalized())

    def bucket(self, hotkey: str) -> Store:
        """A peer's bucket; RecordError if it has no access record or a forbidden endpoint."""
        record = self._records.get(hotkey)
        if record is None or record.access is None:
            raise RecordError(f"{hotkey} has no access record on chain: its bucket is unknown")
        opened_by = (hotkey, record.access)
        with self._lock:
            if opened_by not in self._open:
                self._open[opened_by] = self._context.open_bucket(hotkey, record.access)
            return self._open[opened_by]

    def fetch_payloads(
        self, members: Sequence[Member], window: int, stop: Callable[[], bool]
    ) -> dict[int, bytes | SubnetError]:
        """uid -> payload from the miner's bucket, or the error.

        A payload without an answer when `stop()` is true counts as unavailable.
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
        """An accepted payload from the miner or a naming validator; None if every bucket fails.

        Holders are asked in turn; after a failure or a slow answer the next holder is asked too.
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

        Bytes with another digest count as a missing payload: a miner may serve the committed
        bytes until the vote and other bytes afterwards.
        """
        key = payload_key(self._context.spec.run_id, window, member.digest)
        try:
            data = self.bucket(hotkey).get(key, max_bytes=self._context.form.num_bytes)
        except (StoreError, RecordError) as error:
            log.info(
                "window %d, uid %d: no payload from %s: %s",
                window,
                member.uid,
                self._describe_bucket(hotkey),
                error,
            )
            return None
        if payload_digest(data) == member.digest:
            return data
        log.warning("window %d, uid %d: %s served other bytes", window, member.uid, hotkey)
        return None

    def fetch_blob(
        self, hotkeys: Iterable[str], digest: bytes, max_bytes: int, *, exact: bool = False
    ) -> bytes:
        """Verified bytes with a SHA-256 from the first bucket with the blob.

        Skips a bucket with other bytes; with `exact`, also a bucket with another length than
        `max_bytes`, before the download. `hotkeys` is read one hotkey at a time. Raises NotFound
        if every bucket lacks the blob, Unavailable if another try may help; the message names
        the first buckets and their errors.
        """
        errors, may_help = [], False
        for hotkey in hotkeys:
            try:
                data = self._read_blob(hotkey, digest, max_bytes, exact)
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
        raise kind(f"no bucket has {digest.hex()}: {'; '.join(named)}")

    def is_troubled(self, hotkey: str) -> bool:
        """Whether this bucket wasted time when it was last asked for a blob."""
        return hotkey in self._troubled

    def ask_last(self, hotkey: str) -> None:
        """Move a hotkey to the end of `in_order`: its objects led away from the voted root."""
        self._misleading.add(hotkey)

    def in_order(self, hotkeys: Iterable[str]) -> list[str]:
        """The hotkeys in their order, with misleading hotkeys at the end."""
        return sorted(hotkeys, key=self._misleading.__contains__)

    def _read_blob(self, hotkey: str, digest: bytes, max_bytes: int, exact: bool) -> bytes:
        bucket, key = self.bucket(hotkey), blob_key(digest)
        if exact and (num_bytes := bucket.size(key)) != max_bytes:
            raise self._report_wrong_blob(hotkey, digest, f"{num_bytes} bytes, not {max_bytes},")
        data = bucket.get(key, max_bytes=max_bytes)
        if hashlib.sha256(data).digest() != digest:
            raise self._report_wrong_blob(hotkey, digest, "other bytes")
        return data

    def _report_wrong_blob(self, hotkey: str, digest: bytes, found: str) -> Unavailable:
        log.warning(
            "%s: %s under digest %s; skipped this bucket: tell its owner",
            self._describe_bucket(hotkey),
            found,
            digest.hex(),
        )
        return Unavailable(f"{found} under this digest")

    def _describe_bucket(self, hotkey: str) -> str:
        """Hotkey and endpoint, for messages."""
        record = self._records.get(hotkey)
        if record is None or record.access is None:
            return hotkey
        return f"{hotkey} at {shown(record.access.endpoint_url)}"


class Fetching:
    """Payloads being fetched, with a thread per bucket: a slow bucket delays only itself."""

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
        """Buckets without an answer."""
        return sum(not future.done() for _, future in self._running)

    def wait(self, timeout_s: float) -> bool:
        """Whether every bucket has answered within `timeout_s`."""
        return not wait([future for _, future in self._running], timeout=timeout_s).not_done

    def outcomes(self) -> list[tuple[Member, bytes | SubnetError]]:
        """Each member's payload, or the error."""
        return [*self._failed, *((member, _outcome(future)) for member, future in self._running)]

    def close(self) -> None:
        """Cancel waiting requests, without waiting for running requests."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _outcome(future: Future[bytes]) -> bytes | SubnetError:
    if future.cancelled() or not future.done():
        return Unavailable("no answer in time")
    try:
        return future.result()
    except SubnetError as error:
        return error
