"""The folder of a localnet's results: emptied only with a localnet's marker, locked in use.

The folder's `endpoint` file tells other programs the chain's address.
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
    """Empty the folder of an earlier localnet, and set HOME inside for the SDK's caches.

    Returns the open marker file. The lock lasts until the file is closed, so that two localnets
    cannot share a folder. ConfigError for a file, a foreign folder or a folder in use.
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
    """Keep the chain's address in a file, written atomically, for the `with` block's time."""
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
