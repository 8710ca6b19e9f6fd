"""Peers' buckets, opened by the access records on chain, and bytes from whichever has them."""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from template.chain.ballots import read_records_of_any_run
from template.context import ReadContext
from template.errors import (
    NodeTrouble,
    NotFound,
    RecordError,
    StateError,
    SubnetError,
    TooLarge,
    Unavailable,
)
from template.peers.arrival import Arrival, Coming, FileArrival
from template.peers.stores import OpenStores
from template.protocol.keys import blob_key
from template.protocol.record import Access, Record
from template.protocol.strangers import shown
from template.retry import retry
from template.store import Store

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_NAMED_ERRORS = 8
"""Buckets named in the message about a blob in no bucket; further buckets are counted."""
NODE_PATIENCE_S = 20.0
"""Longest wait of a request for a passing failure of this node; idle connections are given up."""


class PeerBucket:
    """A peer's bucket by the access record of the moment; read only, and holds nothing open."""

    def __init__(self, peers: "PeerBuckets", hotkey: str) -> None:
        self._peers, self._hotkey = peers, hotkey

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """As `Store.get`; RecordError if the access record has gone."""
        return self._peers.ask(self._hotkey, lambda store: store.get(key, max_bytes=max_bytes))

    def fetch(self, key: str, arrival: Arrival, *, max_bytes: int) -> bytes:
        """As `get`, through an arrival."""
        self.stream(key, arrival, max_bytes=max_bytes)
        return arrival.data()

    def stream(self, key: str, coming: Coming, *, max_bytes: int) -> None:
        """As `Store.stream`, on from where the object is, also after a failure of this node."""
        self._peers.ask(
            self._hotkey,
            lambda store: store.stream(
                key, coming.take, start=coming.num_bytes, max_bytes=max_bytes
            ),
        )

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """As `Store.get_range`; RecordError if the access record has gone."""
        return self._peers.ask(self._hotkey, lambda store: store.get_range(key, start, length))

    def size(self, key: str) -> int:
        """As `Store.size`; RecordError if the access record has gone."""
        return self._peers.ask(self._hotkey, lambda store: store.size(key))


class PeerBuckets:
    """Peers' buckets, each opened once per access record. Asking is thread-safe.

    A failure of this node (NodeTrouble) is waited for, `node_patience_s` at most, and never counts
    against a bucket.
    """

    def __init__(self, context: ReadContext, *, node_patience_s: float = NODE_PATIENCE_S) -> None:
        self._context = context
        self._node_patience_s = node_patience_s
        self._records: Mapping[str, Record] = {}
        self._stores = OpenStores(context.open_bucket)
        self._troubled: set[str] = set()
        self._misleading: set[str] = set()
        self._node_troubles: dict[str, NodeTrouble] = {}

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

    def fetch_blob_into(
        self, hotkeys: Iterable[str], digest: bytes, num_bytes: int, path: Path
    ) -> None:
        """As `fetch_blob` with `exact`, into a file: on behind the bytes that the file has.

        The next bucket, and the next process, go on where the one before broke off. Bytes of
        another digest are thrown away; nobody knows whose they were if they came from two. The
        file stays after an error. StateError if the disk refuses.
        """
        arrival = FileArrival(path)
        try:
            self._read_from_first(
                hotkeys,
                digest.hex(),
                lambda hotkey: self._read_into(hotkey, digest, num_bytes, arrival),
            )
        finally:
            arrival.close()

    def _read_into(self, hotkey: str, digest: bytes, num_bytes: int, arrival: FileArrival) -> None:
        if arrival.num_bytes >= num_bytes:
            if arrival.num_bytes == num_bytes and arrival.digest == digest:
                return  # whole, before a process ended
            arrival.restart()
        bucket, key = self.bucket(hotkey), blob_key(digest)
        self._demand_length(bucket, hotkey, digest, num_bytes)
        if begun := arrival.num_bytes:
            log.info("blob %s: %d of %d bytes are here", digest.hex(), begun, num_bytes)
            bucket.stream(key, arrival, max_bytes=num_bytes)
            if arrival.digest == digest:
                return
            log.warning("blob %s: its bytes do not fit together; beginning anew", digest.hex())
            arrival.restart()
        bucket.stream(key, arrival, max_bytes=num_bytes)
        if arrival.digest != digest:
            arrival.restart()
            raise self._report_wrong_bytes(hotkey, digest.hex(), "other bytes")

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

    def _read_from_first(self, hotkeys: Iterable[str], what: str, read: Callable[[str], T]) -> T:
        """`read` of the first hotkey that does not raise; raises as `fetch_blob`."""
        errors, may_help = [], False
        for hotkey in hotkeys:
            try:
                data = read(hotkey)
            except (NodeTrouble, StateError):
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
        if exact:
            self._demand_length(bucket, hotkey, digest, max_bytes)
        arrival = Arrival()
        data = bucket.fetch(key, arrival, max_bytes=max_bytes)
        if arrival.digest != digest:
            raise self._report_wrong_bytes(hotkey, digest.hex(), "other bytes")
        return data

    def _demand_length(
        self, bucket: PeerBucket, hotkey: str, digest: bytes, num_bytes: int
    ) -> None:
        if (found := bucket.size(blob_key(digest))) != num_bytes:
            said = f"{found} bytes, not {num_bytes},"
            raise self._report_wrong_bytes(hotkey, digest.hex(), said)

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
