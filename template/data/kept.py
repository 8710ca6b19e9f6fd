"""Files kept in a folder under the SHA-256 of their bytes.

Owns names, whole writes and the check of what `get` reads back; a file accepted as a whole is the
caller's to read. A file's name is the digest and a suffix of ours, so a stranger's name never
reaches the file system. The origin and the meaning of the bytes belong to the caller. A bounded
folder loses the files that were used longest ago.
"""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock

from template.errors import disk_trouble, unreadable

COMING = ".coming"
"""Behind the name of a file that is not whole."""
_HEX_CHARS = 64
_HEX = re.compile(f"[0-9a-f]{{{_HEX_CHARS}}}")
_READ_BYTES = 1 << 20
_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP})
"""Why a file system makes no second name for a file."""
_SWEEP_TO = 0.9
"""Share of the bound left by a removal, so that not every file costs a look at the folder."""


class KeptFiles:
    """A folder, created with the first file. Writes are whole, so processes may share a folder.

    `max_bytes`: bound on the files of this suffix, however many processes write; None is none.
    Safe from any number of threads. StateError if the folder cannot be read or written.
    """

    def __init__(self, folder: Path, suffix: str, *, max_bytes: int | None = None) -> None:
        self._folder = folder
        self._suffix = suffix
        self._pattern = f"{'?' * _HEX_CHARS}{suffix}"
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._room_bytes = 0
        """Bytes that may be written before the folder is looked at again."""

    def get(self, digest: bytes, num_bytes: int) -> bytes | None:
        """The bytes of this digest and length; None if the file is missing or damaged."""
        path = self.path(digest)
        data = _read(path, num_bytes)
        if data is None or len(data) != num_bytes or hashlib.sha256(data).digest() != digest:
            return None
        if self._max_bytes is not None:
            with suppress(OSError):  # another process may have removed the file, or own it
                os.utime(path)
        return data

    def find(self, digest: bytes, num_bytes: int) -> Path | None:
        """As `get`: the file, with only a piece of it in memory at a time."""
        path, found = self.path(digest), hashlib.sha256()
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != num_bytes:
                    return None
                while piece := file.read(_READ_BYTES):
                    found.update(piece)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        return path if found.digest() == digest else None

    def coming(self, digest: bytes) -> Path:
        """Where a download of these bytes is written until it is whole; the folder exists."""
        path = self.path(digest)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_trouble(path, error) from error
        return path.with_name(path.name + COMING)

    def accept(self, digest: bytes) -> Path:
        """The download is whole, and the caller has compared its digest: keep the file."""
        path, coming = self.path(digest), self.coming(digest)
        try:
            coming.replace(path)
        except OSError as error:
            raise disk_trouble(path, error) from error
        return path

    def link(self, digest: bytes, path: Path) -> Path:
        """Keep another folder's file, which never changes, without a copy where the disk can."""
        own = self.path(digest)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            own.unlink(missing_ok=True)
            try:
                own.hardlink_to(path)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                shutil.copyfile(path, own)
        except OSError as error:
            raise disk_trouble(own, error) from error
        return own

    def digests(self) -> list[bytes]:
        """The digests of the files, by their names, in ascending order."""
        try:
            names = sorted(path.name for path in self._folder.glob(self._pattern))
        except OSError as error:
            raise unreadable(self._folder, error) from error
        found = (name[:_HEX_CHARS] for name in names)
        return [bytes.fromhex(text) for text in found if _HEX.fullmatch(text)]

    def remove(self, digest: bytes) -> None:
        """Remove a file; a missing file is no error."""
        path = self.path(digest)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_trouble(path, error) from error

    def has(self, digest: bytes, num_bytes: int) -> bool:
        """Whether a file of this digest and length is there; its bytes may be damaged."""
        try:
            return self.path(digest).stat().st_size == num_bytes
        except OSError:
            return False

    def put(self, digest: bytes, data: bytes) -> None:
        """Write whole or not at all; no fsync, since every read is verified."""
        path = self.path(digest)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # A directory of its own, so that no half-written file outlives an error.
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=".part-") as scratch:
                part = Path(scratch) / path.name
                part.write_bytes(data)
                part.replace(path)
        except OSError as error:
            raise disk_trouble(path, error) from error
        if self._max_bytes is not None:
            self._make_room(len(data), self._max_bytes)

    def _make_room(self, num_bytes: int, max_bytes: int) -> None:
        """Remove the files used longest ago, if the bound may be passed."""
        with self._lock:
            self._room_bytes -= num_bytes
            if self._room_bytes >= 0:
                return
            found = sorted(self._used())
            total_bytes = sum(size for _, size, _ in found)
            if total_bytes > max_bytes:
                for _, size, path in found:
                    if total_bytes <= _SWEEP_TO * max_bytes:
                        break
                    path.unlink(missing_ok=True)
                    total_bytes -= size
            self._room_bytes = max(0, max_bytes - total_bytes)

    def _used(self) -> Iterator[tuple[int, int, Path]]:
        """(time of last use, length, path) of each file of this suffix."""
        for path in self._folder.glob(self._pattern):
            with suppress(FileNotFoundError):
                stat = path.stat()
                yield stat.st_mtime_ns, stat.st_size, path

    def keep_only(self, digests: Collection[bytes]) -> None:
        """Remove every file of this suffix except `digests`, and other downloads under way.

        A missing folder is no error.
        """
        wanted = {self.path(digest).name for digest in digests}
        try:
            for pattern in (self._pattern, self._pattern + COMING):
                for path in self._folder.glob(pattern):
                    if path.name.removesuffix(COMING) not in wanted:
                        path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_trouble(self._folder, error) from error

    def path(self, digest: bytes) -> Path:
        """Where the bytes of this digest are, if they are here."""
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
