"""Uploads in parts: how an object is cut, sent side by side, and continued after a failure.

R2's rules are the strictest and hold everywhere: at most 10,000 parts, all but the last of equal
length and of 5 MiB or more. The cut follows from the object's length alone, so another process cuts
alike and finds the parts that are already there. Owns no connection: `template.store.s3` does.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from template.errors import Denied, NodeTrouble, NotFound, Unavailable, unreadable
from template.store.types import Source

log = logging.getLogger(__name__)

MIN_PART_BYTES = 5 << 20
MAX_PART_NUMBER = 10_000
PART_BYTES = 16 << 20
"""Length of a part, and the longest object in a single put. At 1 MB/s a part takes 17 s: little is
lost when it fails."""
PART_THREADS = 4
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class BytesSource:
    """Bytes in memory."""

    data: bytes

    @property
    def num_bytes(self) -> int:
        return len(self.data)

    def read(self, start: int, num_bytes: int) -> bytes:
        """As in `Source`; the whole is not copied."""
        return self.data[start : start + num_bytes]


class FileSource:
    """A file, which must not change meanwhile. StateError if it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb")
            self.num_bytes = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise unreadable(path, error) from error

    def __enter__(self) -> "FileSource":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def read(self, start: int, num_bytes: int) -> bytes:
        """As in `Source`."""
        pieces: list[bytes] = []
        left = num_bytes
        try:
            # One read of Linux ends at 2 GiB.
            while left and (piece := os.pread(self._file.fileno(), left, start + num_bytes - left)):
                pieces.append(piece)
                left -= len(piece)
            if left:
                raise OSError("the file became shorter during its upload")
        except OSError as error:
            raise unreadable(self._path, error) from error
        return b"".join(pieces)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A part that a bucket has."""

    etag: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A stretch of an object; the first part has number 1."""

    number: int
    start: int
    num_bytes: int


def split(num_bytes: int, part_bytes: int) -> list[Part]:
    """Parts of `part_bytes` each, or longer ones in whole MiB where `MAX_PART_NUMBER` are too few.

    The last part is shorter or equal.
    """
    least = -(-num_bytes // MAX_PART_NUMBER)
    if least > part_bytes:
        part_bytes = -(-least // MIB) * MIB
    starts = range(0, num_bytes, part_bytes)
    return [
        Part(number=number, start=start, num_bytes=min(part_bytes, num_bytes - start))
        for number, start in enumerate(starts, start=1)
    ]


class Upload(Protocol):
    """The calls of an upload in parts. Each raises a StoreError after its own retries."""

    @property
    def name(self) -> str: ...

    def find(self) -> str | None:
        """The id of an unfinished upload of this object, if any."""

    def begin(self) -> str:
        """The id of a new upload."""

    def listed(self, upload_id: str) -> dict[int, Listed]:
        """Part number -> what the bucket has of it."""

    def put_part(self, upload_id: str, number: int, data: bytes) -> str:
        """Send a part; the part's entity tag."""

    def complete(self, upload_id: str, etags: list[str]) -> None:
        """Make the parts, in order, the object."""

    def size(self) -> int:
        """The finished object's length."""


def upload_parts(upload: Upload, source: Source, parts: Sequence[Part]) -> None:
    """Send the parts that are missing, `PART_THREADS` at a time, and complete the object.

    After a failure everything sent stays in the bucket, and the next call goes on, in this process
    or another. A part counts as sent if its length and MD5 are those of the source. Raises the
    first StoreError of a part.
    """
    found = _find(upload)
    if found is not None:
        try:
            _send_and_complete(upload, found, source, parts, upload.listed(found))
            return
        except NotFound:
            # Completed or given up by another process, or expired.
            log.info("%s: the upload begun before is gone; starting anew", upload.name)
    _send_and_complete(upload, upload.begin(), source, parts, {})


def _find(upload: Upload) -> str | None:
    try:
        return upload.find()
    except NodeTrouble:
        raise
    except (Denied, Unavailable) as error:
        # A key without this right uploads all the same, and repeats parts after a restart.
        log.info("%s: cannot look for an upload begun before: %s", upload.name, error)
        return None


def _send_and_complete(
    upload: Upload,
    upload_id: str,
    source: Source,
    parts: Sequence[Part],
    listed: dict[int, Listed],
) -> None:
    def send(part: Part) -> str:
        data = source.read(part.start, part.num_bytes)
        there = listed.get(part.number)
        if there is not None and _is_same(there, data):
            return there.etag
        return upload.put_part(upload_id, part.number, data)

    if listed:
        log.info("%s: going on with an upload that has parts already", upload.name)
    etags = _each(send, parts)
    try:
        upload.complete(upload_id, etags)
    except NotFound:
        # The answer to an earlier try may have been lost on the way.
        if upload.size() != source.num_bytes:
            raise


def _is_same(there: Listed, data: bytes) -> bool:
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return there.num_bytes == len(data) and there.etag.strip('"') == md5


def _each(send: Callable[[Part], str], parts: Sequence[Part]) -> list[str]:
    """`send` of each part, side by side; the first failure stops what has not begun."""
    pool = ThreadPoolExecutor(PART_THREADS, thread_name_prefix="part")
    try:
        running = _begin(pool, send, parts)
        done, _ = wait(running, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        return [future.result() for future in running]
    finally:
        # Waits for the parts under way: what was sent is not sent again.
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(
    pool: ThreadPoolExecutor, send: Callable[[Part], str], parts: Sequence[Part]
) -> list[Future[str]]:
    try:
        return [pool.submit(send, part) for part in parts]
    except RuntimeError as error:
        raise NodeTrouble(f"this node could not start a thread ({error})") from error
