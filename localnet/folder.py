"""The folder of a localnet's results: emptied only if it is one, and locked while in use.

Also the file in it that tells other programs where the chain is.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from template.errors import ConfigError

MARKER = ".localnet"
ENDPOINT = "endpoint"


def prepare_folder(out: Path) -> IO[str]:
    """Empty an earlier result, but nothing else; the SDK's caches go there, not to the home.

    Returns the open marker, locked as long as it stays open: two localnets cannot share a folder.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; name a folder")
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        raise ConfigError(f"--out {out}: not empty and not a localnet's; name another folder")
    if out.exists():
        if (out / MARKER).exists():
            _lock(out).close()
        shutil.rmtree(out)
    (out / "home").mkdir(parents=True)
    os.environ["HOME"] = str(out / "home")
    return _lock(out)


@contextmanager
def endpoint_file(out: Path, url: str) -> Iterator[None]:
    """The chain's address is in a file as long as the `with` block lasts, whole at any moment."""
    path = out / ENDPOINT
    new = path.with_name(path.name + ".new")
    new.write_text(f"{url}\n", encoding="ascii")
    os.replace(new, path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _lock(out: Path) -> IO[str]:
    marker = (out / MARKER).open("a", encoding="utf-8")
    try:
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        marker.close()
        raise ConfigError(f"--out {out}: another localnet runs there; name another") from error
    return marker
