"""The `Store` protocol: the operations and failures common to all buckets."""

from typing import Protocol


class Store(Protocol):
    """A bucket seen with a credential. Keys are ASCII, at most 1,024 bytes.

    Every method may raise Unavailable (no usable answer before the deadline; as NodeTrouble if
    this node could not ask) and Denied (credentials refused). A bucket's timestamps are hidden,
    because no decision may depend on a server's clock.
    """

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole or not at all, replacing an older object."""

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """The object's bytes. NotFound; TooLarge above `max_bytes`."""

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
