"""Bytes of an object as they come: kept, hashed, counted, and stopped by another thread.

`Arrival.num_bytes` shows a watcher whether a bucket is silent; whoever needs the rest no longer
calls `stop`, and the download ends with its next byte.
"""

import hashlib
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

from template.errors import Unavailable, disk_trouble

LEAST_BYTES_PER_S: Final = 1e5
"""A bucket that gives less counts as silent: at this rate the payload of a large model never comes
in time, and a byte a second must not keep the next holder from being asked."""
_READ_BYTES: Final = 1 << 20
SLOW_SHARE: Final = 0.25
"""Part of the median rate of those that came, below which a bucket is slow by itself."""


class Coming(ABC):
    """One object on its way; written by one thread, watched by others."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.num_bytes = 0
        self._is_stopped = False

    @abstractmethod
    def _keep(self, piece: bytes) -> None:
        """Put the next bytes behind those before."""

    def take(self, piece: bytes) -> None:
        """Receive the next bytes. Unavailable once stopped."""
        if self._is_stopped:
            raise Unavailable("the download is no longer needed")
        self._keep(piece)
        self._hash.update(piece)
        self.num_bytes += len(piece)

    def stop(self) -> None:
        """Let the next byte be the last."""
        self._is_stopped = True

    @property
    def digest(self) -> bytes:
        """SHA-256 of the bytes so far."""
        return self._hash.digest()


class FileArrival(Coming):
    """An object on its way into a file, behind the bytes that the file has: for large objects.

    A process that ends leaves a shorter file, and the next goes on there. Nobody vouches for the
    bytes before the digest of all of them. StateError if the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file: FileIO | None = None
        try:
            if path.exists():
                self._file = path.open("r+b", buffering=0)
                while piece := self._file.read(_READ_BYTES):
                    self._hash.update(piece)
                    self.num_bytes += len(piece)
        except OSError as error:
            raise disk_trouble(path, error) from error

    def restart(self) -> None:
        """Throw away what came."""
        self.close()
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_trouble(self._path, error) from error
        self._hash, self.num_bytes = hashlib.sha256(), 0

    def close(self) -> None:
        """Leave the file as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _keep(self, piece: bytes) -> None:
        # A store would take an OSError for a fault of the bucket.
        try:
            if self._file is None:
                self._file = self._path.open("wb", buffering=0)
            rest = memoryview(piece)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise disk_trouble(self._path, error) from error


class Arrival(Coming):
    """An object on its way into memory."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def _keep(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def data(self) -> bytes:
        """The bytes so far; the pieces are given up."""
        data = b"".join(self._pieces)
        self._pieces = [data]
        return data


class Watch:
    """Whether bytes keep coming: the bytes of a moment against those of the look before."""

    def __init__(self) -> None:
        self._seen_bytes = 0

    def is_moving(self, num_bytes: int, since_s: float, least_bytes_per_s: float) -> bool:
        """Whether bytes came at this rate or faster in `since_s` seconds, since the last look."""
        came, self._seen_bytes = num_bytes - self._seen_bytes, num_bytes
        return came > 0 and came >= least_bytes_per_s * since_s


def least_rate(bytes_per_s: Sequence[float]) -> float:
    """Bytes a second below which a bucket counts as silent, from the rates of what has come.

    A fixed rate alone would let a bucket give just more, and hold a large object for hours.
    """
    typical = statistics.median(bytes_per_s) if bytes_per_s else 0.0
    return max(LEAST_BYTES_PER_S, SLOW_SHARE * typical)


Fetch = Callable[[Arrival], bytes]
"""Fetches an object through an arrival; returns the whole."""
