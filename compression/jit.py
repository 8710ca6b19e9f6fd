"""Compile the codec's loops to machine code.

Numba compiles a function on first use and keeps the result for the next process. The kept files
are pickles, so whoever may write them runs code in this process: they are used only where nobody
but this user (or root) may write. The cache notices changes in the function's own file alone. A
compiled function may therefore call only functions, and use only constants, from the same file; a
change of the options below must touch every file with compiled functions too.

Arithmetic is strict (Numba's default): no reassociation and no fused multiply-add, so a
product rounds before a sum does, on every machine.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

config: Any = numba.config
"""Numba's settings, read from NUMBA_* variables; attributes that no type checker knows."""

OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_own_folders: set[Path] = set()
_shared_folders: set[Path] = set()


def compiled(function: Function) -> Function:
    """The function as machine code, running without the interpreter lock.

    Kept in the first folder of this user's own: Numba's choice (NUMBA_CACHE_DIR if set and
    writable, `compression/__pycache__`, or Numba's folder in the user's cache), else
    `private_folder` unless NUMBA_CACHE_DIR is set. Without one, every process compiles anew.
    """
    if config.DISABLE_JIT:
        return function
    given = [Path(config.CACHE_DIR)] if config.CACHE_DIR else [None, private_folder()]
    for folder in given:
        made = _kept(function, folder)
        if made is not None:
            return made
    return cast(Function, njit(nogil=True)(function))


def shared_folders() -> frozenset[Path]:
    """Folders of kept code that were passed over, because others may write there."""
    return frozenset(_shared_folders)


def is_kept() -> bool:
    """Whether the next process finds the code compiled by this one."""
    return bool(_own_folders)


def private_folder() -> Path | None:
    """This user's folder for compiled code; None for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "tessera" / "codec"
    except RuntimeError:
        return None


def others_may_write(folder: Path) -> bool:
    """Whether another user, root aside, may put a file into the folder or exchange the folder."""
    found, above = folder.stat(), folder.parent.stat()
    ours = (0, os.geteuid())
    is_fixed = not above.st_mode & OTHERS_WRITE or above.st_mode & stat.S_ISVTX
    return found.st_uid not in ours or bool(found.st_mode & OTHERS_WRITE) or not is_fixed


def _kept(function: Function, folder: Path | None) -> Function | None:
    """The function, kept in `folder` (None: Numba's choice); None unless it is this user's."""
    before = config.CACHE_DIR
    try:
        with _private_files():
            config.CACHE_DIR = before if folder is None else str(folder)
            made = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # Numba's word for: no folder can be written.
        return None
    finally:
        config.CACHE_DIR = before
    path = Path(str(made.stats.cache_path))
    if others_may_write(path):
        _shared_folders.add(path)
        return None
    _own_folders.add(path)
    return cast(Function, made)


@contextmanager
def _private_files() -> Iterator[None]:
    """A folder made within the `with` block is this user's alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
