"""Files kept in a folder under the SHA-256 of their bytes.

Owns names, whole writes and the check of every byte read back. A file's name is the digest and a
suffix of ours, so a stranger's name never reaches the file system. The origin and the meaning of
the bytes belong to the caller.
"""

import hashlib
import tempfile
from collections.abc import Collection
from pathlib import Path

from template.errors import disk_trouble, unreadable

_HEX_CHARS = 64


class KeptFiles:
    """A folder, created with the first file. Writes are whole, so processes may share a folder.

    StateError if the folder cannot be read or written.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder = folder
        self._suffix = suffix

    def get(self, digest: bytes, num_bytes: int) -> bytes | None:
        """The bytes of this digest and length; None if the file is missing or damaged."""
        data = _read(self._path(digest), num_bytes)
        if data is None or len(data) != num_bytes or hashlib.sha256(data).digest() != digest:
            return None
        return data

    def put(self, digest: bytes, data: bytes) -> None:
        """Write whole or not at all; no fsync, since every read is verified."""
        path = self._path(digest)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # A directory of its own, so that no half-written file outlives an error.
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=".part-") as scratch:
                part = Path(scratch) / path.name
                part.write_bytes(data)
                part.replace(path)
        except OSError as error:
            raise disk_trouble(path, error) from error

    def keep_only(self, digests: Collection[bytes]) -> None:
        """Remove every file of this suffix except `digests`. A missing folder is no error."""
        wanted = {self._path(digest) for digest in digests}
        try:
            for path in self._folder.glob(f"{'?' * _HEX_CHARS}{self._suffix}"):
                if path not in wanted:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_trouble(self._folder, error) from error

    def _path(self, digest: bytes) -> Path:
        if 2 * len(digest) != _HEX_CHARS:
            raise ValueError(f"a SHA-256 has 32 bytes, not {len(digest)}")
        return self._folder / f"{digest.hex()}{self._suffix}"


def _read(path: Path, num_bytes: int) -> bytes | None:
    """The first `num_bytes` + 1 bytes (the last shows a file too long); None without a file."""
    try:
        with path.open("rb") as file:
            return file.read(num_bytes + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from error
