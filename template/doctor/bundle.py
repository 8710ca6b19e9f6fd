"""The support archive: what somebody else needs to help, without a secret in it.

Each text is cleaned of the known secrets and of the hidden parts of URLs, and the archive's content
is searched once more before it is written: one find, and no archive is written.
"""

import errno
import gzip
import io
import json
import os
import stat
import tarfile
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from template.chain.health import redact_urls
from template.doctor.redaction import Censor
from template.errors import ConfigError
from template.files import reason, remedy

MAX_TAIL_BYTES: Final = 400_000
MAX_TAIL_LINES: Final = 2_000
MAX_FILE_BYTES: Final = 4_000_000
FOLDER: Final = "tessera-support"
_FILE_MODE: Final = 0o600


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A file of the archive; `name` is its path below the archive's folder."""

    name: str
    text: str


def tail(path: Path, *, max_bytes: int = MAX_TAIL_BYTES, max_lines: int = MAX_TAIL_LINES) -> str:
    """The last whole lines of a regular file; a sentence in place of what cannot be read.

    A link is not followed.
    """
    try:
        with _open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            data = file.read(max_bytes)
    except OSError as error:
        return f"({path.name}: {reason(error)})\n"
    if size > max_bytes:
        data = data.partition(b"\n")[2]
    lines = deque(data.decode("utf-8", "replace").splitlines(keepends=True), maxlen=max_lines)
    return "".join(lines)


def _open_regular(path: Path) -> BinaryIO:
    """A file to read; OSError for a link, which may lead to a secret, and for a pipe or a device.

    Without O_NONBLOCK, opening a pipe would wait for a writer.
    """
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return os.fdopen(number, "rb")


def listing(folder: Path, *, max_entries: int = 500) -> str:
    """Names, sizes and modes in a folder, one a line; no content."""
    lines = []
    for path in _walk(folder, max_entries):
        try:
            found = path.lstat()
        except OSError as error:
            lines.append(f"? {path.relative_to(folder)} ({reason(error)})")
            continue
        mode = f"{found.st_mode & 0o7777:04o}"
        lines.append(f"{mode} {found.st_uid:6d} {found.st_size:14,d} {path.relative_to(folder)}")
    return "\n".join(lines) + "\n"


def _walk(folder: Path, max_entries: int) -> Iterator[Path]:
    count = 0
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if count >= max_entries:
                return
            count += 1
            yield Path(root) / name


def as_json(name: str, value: Mapping[str, object]) -> Member:
    """A value as an indented file."""
    return Member(name=name, text=json.dumps(value, indent=1) + "\n")


def pack(members: list[Member], censor: Censor) -> bytes:
    """The archive's bytes (tar.gz); ConfigError if a secret is left in any name or text.

    URLs keep scheme, host and port; a text longer than `MAX_FILE_BYTES` keeps its end.
    """
    buffer = io.BytesIO()
    # Without a time of its own, equal contents make equal archives.
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for member in members:
            # A file name that is no UTF-8 has characters that UTF-8 cannot write.
            text = censor.clean(redact_urls(member.text))
            data = text.encode("utf-8", "backslashreplace")[-MAX_FILE_BYTES:]
            shown = censor.clean(member.name).encode("utf-8", "backslashreplace")
            name = shown.decode("utf-8")
            if censor.holds_secret(data) or censor.holds_secret(shown):
                raise ConfigError(
                    f"--bundle: {name} would hold a secret, so no archive is written: report this "
                    "as a fault of the doctor, without the file"
                )
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size, entry.mode = len(data), _FILE_MODE
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def write_archive(path: Path, data: bytes) -> None:
    """Write the archive, readable by this user alone; ConfigError if it cannot be written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        number = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        with os.fdopen(number, "wb") as file:
            file.write(data)
        partial.replace(path)
    except OSError as error:
        raise ConfigError(
            f"--bundle {path}: cannot be written ({reason(error)}); {remedy(path, error)}"
        ) from error
