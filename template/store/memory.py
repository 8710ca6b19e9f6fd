"""A bucket in memory, for tests and for swarms in one process.

Keeps the promises of a real bucket: whole writes, bounded reads, read-only credentials. Does
not imitate latency, outages or rate limits.
"""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from template.errors import Denied, NotFound, TooLarge, Unavailable, unreadable
from template.store.keys import check_key, check_prefix, check_range
from template.store.types import Source, Take

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Shelf:
    """The objects of one bucket, shared by every view of it."""

    lock: Lock = field(default_factory=Lock)
    objects: dict[str, bytes] = field(default_factory=dict)


class MemoryStore:
    """A `Store` on a dict; safe from any number of threads."""

    def __init__(self) -> None:
        self._shelf = _Shelf()
        self._may_write = True

    def reader(self) -> "MemoryStore":
        """The same bucket seen with a read-only credential: writes raise Denied."""
        view = MemoryStore()
        view._shelf = self._shelf
        view._may_write = False
        return view

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        self._demand_write(key)
        with self._shelf.lock:
            self._shelf.objects[key] = bytes(data)

    def put_file(self, key: str, path: Path) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise unreadable(path, error) from error
        self.put(key, data)

    def put_source(self, key: str, source: Source) -> None:
        self.put(key, source.read(0, source.num_bytes))

    def get(self, key: str, *, max_bytes: int) -> bytes:
        data = self._find(key)
        if len(data) > max_bytes:
            raise TooLarge(f"object {key} has {len(data)} bytes, more than {max_bytes}")
        return data

    def stream(self, key: str, take: Take, *, start: int = 0, max_bytes: int) -> None:
        data = self.get(key, max_bytes=max_bytes)
        if start > len(data):
            raise Unavailable(f"object {key} ends before byte {start}")
        for place in range(start, len(data), PIECE_BYTES):
            take(data[place : place + PIECE_BYTES])

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        data = self._find(key)[start : start + length]
        if len(data) < length:
            raise Unavailable(f"object {key} ends before byte {start + length}")
        return data

    def size(self, key: str) -> int:
        return len(self._find(key))

    def list(self, prefix: str) -> list[str]:
        check_prefix(prefix)
        with self._shelf.lock:
            return sorted(key for key in self._shelf.objects if key.startswith(prefix))

    def delete(self, key: str) -> None:
        check_key(key)
        self._demand_write(key)
        with self._shelf.lock:
            self._shelf.objects.pop(key, None)

    def close(self) -> None:
        """Nothing to close: no connection is held."""

    def _find(self, key: str) -> bytes:
        check_key(key)
        with self._shelf.lock:
            data = self._shelf.objects.get(key)
        if data is None:
            raise NotFound(f"no object {key}: check the key, or wait until it is written")
        return data

    def _demand_write(self, key: str) -> None:
        if not self._may_write:
            raise Denied(f"cannot write {key}: this credential may only read")
