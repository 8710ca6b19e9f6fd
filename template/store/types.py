"""The `Store` protocol: what every bucket can do, and how it fails."""

from typing import Protocol


class Store(Protocol):
    """One bucket seen with one credential. Keys are ASCII, at most 1,024 bytes.

    Every method may raise Unavailable (no usable answer before the deadline) and Denied
    (credentials refused). No timestamp of a bucket is exposed: none may decide anything.
    """

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole or not at all, replacing what was there."""

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """The object's bytes. NotFound; TooLarge if it is longer, before its body is read."""

    def size(self, key: str) -> int:
        """The object's length in bytes. NotFound."""

    def list(self, prefix: str) -> list[str]:
        """Keys under a prefix, sorted. For a node's own bucket only: peers' keys are known."""

    def delete(self, key: str) -> None:
        """Remove an object; removing what is not there is no error."""
