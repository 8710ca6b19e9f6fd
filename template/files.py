"""A failed operation on a file of this machine: the reason and the remedy, in words.

Every message on a local file ends with these words, so no local fault is told as a fault of the
chain, of a bucket or of the disk's free space.
"""

import errno
import os
import re
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Final

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No room: room may come back without an operator."""
LASTING: Final = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    }
)
"""The same call fails for ever: an operator has to change a file or a folder first."""
_CHUNK_BYTES: Final = 4096
_WRAPPED: Final = re.compile(r"\(os error (\d+)\)")


def errno_of(error: Exception) -> int | None:
    """The number of the system's error; safetensors wraps the number into a text."""
    if isinstance(error, OSError):
        return error.errno
    found = _WRAPPED.search(str(error))
    return int(found[1]) if found else None


def is_lasting(error: Exception) -> bool:
    """Whether a restart meets the same error."""
    return errno_of(error) in LASTING


def reason(error: Exception) -> str:
    """The system's words for an error."""
    number = errno_of(error)
    return str(error) if number is None else os.strerror(number)


def remedy(path: Path, error: Exception) -> str:
    """What an operator does about an error on `path`, without a final point.

    A file or folder named by the error itself stands in for `path`.
    """
    number = errno_of(error)
    return _REMEDIES.get(number or 0, _look)(_named(error) or path)


def _named(error: Exception) -> Path | None:
    """The file of an OSError; of a rename the target, where the name must be free."""
    names = (getattr(error, "filename2", None), getattr(error, "filename", None))
    return next((Path(name) for name in names if isinstance(name, str) and name), None)


def append_whole(path: Path, data: bytes) -> None:
    """Append lines whole or not at all; the file is made if needed. OSError if the disk refuses.

    A half line at the end, left by a kill or a full disk, is cut off first: the first of the new
    lines would be glued to the half line.
    """
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with open(number, "r+b", buffering=0) as file:
        end = _end_of_lines(file)
        file.truncate(end)
        file.seek(end)
        try:
            _write_all(file, data)
        except OSError:
            file.truncate(end)
            raise


def _write_all(file: FileIO, data: bytes) -> None:
    """A disk that fills up takes a part; the next try then raises."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _end_of_lines(file: FileIO) -> int:
    """The position behind the last line end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _CHUNK_BYTES)
        file.seek(start)
        newline = (file.read(end - start) or b"").rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _free(_path: Path) -> str:
    return "free the disk and start again"


def _mount(_path: Path) -> str:
    return "its file system is read-only: mount it for writing"


def _remove_folder(path: Path) -> str:
    return (
        f"{path} is a folder, and a file belongs there (a container's engine makes a folder "
        "for a mount that is missing): remove the folder"
    )


def _move_away(path: Path) -> str:
    return f"{_file_on_the_way(path)} is a file, and a folder belongs there: move it away"


def _create(path: Path) -> str:
    return f"{path} does not exist: name one that does, or create it"


def _mend_disk(_path: Path) -> str:
    return "the disk fails: look into the kernel's log (`dmesg`)"


def _raise_limit(_path: Path) -> str:
    return "no file descriptor is left: raise `ulimit -n` and start again"


def _look(_path: Path) -> str:
    return "look at this file and its file system, and start again"


def _remedy_of_owner(path: Path) -> str:
    """Whose the file, or the folder on the way to the file, is."""
    for place in (path, *path.parents):
        try:
            found = place.stat()
        except OSError:
            continue
        return (
            f"{place} belongs to uid {found.st_uid} with mode {found.st_mode & 0o7777:04o}, and "
            f"this process has uid {os.geteuid()}: give it to this user (`chown`, `chmod`), or "
            "start as its owner"
        )
    return "mend its permissions"


def _file_on_the_way(path: Path) -> Path:
    """The first part of the path that is there and is no folder."""
    for place in (*reversed(path.parents), path):
        if os.path.lexists(place) and not place.is_dir():
            return place
    return path


_REMEDIES: Final[Mapping[int, Callable[[Path], str]]] = {
    **dict.fromkeys(FULL, _free),
    errno.EACCES: _remedy_of_owner,
    errno.EPERM: _remedy_of_owner,
    errno.EROFS: _mount,
    errno.EISDIR: _remove_folder,
    errno.ENOTDIR: _move_away,
    errno.EEXIST: _move_away,
    errno.ENOENT: _create,
    errno.EIO: _mend_disk,
    errno.EMFILE: _raise_limit,
    errno.ENFILE: _raise_limit,
}
