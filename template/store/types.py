"""The `Store` protocol: the operations and failures common to all buckets."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Source(Protocol):
    """Bytes of known length, read from any thread."""

    @property
    def num_bytes(self) -> int: ...

    def read(self, start: int, num_bytes: int) -> bytes:
        """Exactly these bytes."""


Take = Callable[[bytes], None]
"""Receives an object's next bytes. An exception ends the download and reaches the caller."""


class Store(Protocol):
    """A bucket seen with a credential. Keys are ASCII, at most 1,024 bytes.

    Every method may raise Unavailable (no usable answer before the deadline; as NodeTrouble if
    this node could not ask) and Denied (credentials refused). A bucket's timestamps are hidden,
    because no decision may depend on a server's clock.
    """

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole or not at all, replacing an older object.

        A failed upload of a large object leaves parts behind, and the next call goes on from there.
        """

    def put_file(self, key: str, path: Path) -> None:
        """As `put`, of a file's bytes, never all in memory. StateError if it cannot be read."""

    def put_source(self, key: str, source: Source) -> None:
        """As `put`, of bytes that are made when read, a part at a time and from any thread."""

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """The object's bytes. NotFound; TooLarge above `max_bytes`."""

    def stream(self, key: str, take: Take, *, start: int = 0, max_bytes: int) -> None:
        """Hand an object's bytes from `start` to the end to `take` as they come.

        What came is kept: after a cut the download goes on behind it, and after an error the caller
        may call again with a later `start`. NotFound; TooLarge, before any byte, for an object
        above `max_bytes`; Unavailable for one that ends before `start`, or changed meanwhile.
        """

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length) of an object, `length` >= 1, without the rest.

        NotFound; TooLarge if the answer is longer, Unavailable if the object ends earlier.
        """

    def size(self, key: str) -> int:
        """The object's length in bytes. NotFound."""

    def list(self, prefix: str) -> list[str]:
        """Keys under a prefix, sorted. Only for a node's own bucket: keys of peers are known."""

    def delete(self, key: str) -> None:
        """Remove an object; a missing object is no error."""

    def close(self) -> None:
        """Close idle connections; the store must not be used afterwards."""
