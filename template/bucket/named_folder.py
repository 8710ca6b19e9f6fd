"""Named payloads on disk, a folder for each window: frames by digest, and who serves them.

A frame is whole or absent, and an index follows the frames: what an index names was there before
the vote. Owns the files and no look at anybody's bucket.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from template.data.kept import KeptFiles
from template.errors import disk_trouble, unreadable
from template.protocol.holders import HOLDERS

log = logging.getLogger(__name__)

NAMED_FOLDER: Final = "named"
"""In the state folder."""
_INDEX: Final = "window.json"
_FOLDER = re.compile(r"[0-9]{8,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptPayload:
    """A payload on disk. `line`: validators in the order in which they serve it, this one too."""

    window: int
    digest: bytes
    author: str
    line: tuple[str, ...]


class NamedFolder:
    """The payloads that this node named and did not put; StateError if the disk refuses.

    One thread adds. Another reads and removes, and it alone does: no look finds its file gone.
    """

    def __init__(self, state_dir: Path, hotkey: str) -> None:
        self._folder = state_dir / NAMED_FOLDER
        self._lock = Lock()
        self._first = -1
        self._kept = {payload.digest: payload for payload in self._read(hotkey)}

    def add(self, payloads: Iterable[tuple[KeptPayload, bytes]]) -> None:
        """Write frames of one window, and then what is known of them."""
        added = list(payloads)
        for payload, frame in added:
            self.files(payload.window).put(payload.digest, frame)
        with self._lock:
            self._kept |= {payload.digest: payload for payload, _ in added}
            for window in {payload.window for payload, _ in added}:
                self._write_index(window)

    def payloads(self) -> list[KeptPayload]:
        """The newest first: they are asked for most."""
        with self._lock:
            return sorted(self._kept.values(), key=lambda p: (-p.window, p.digest))

    def remove(self, payload: KeptPayload) -> None:
        """Forget a payload that is served elsewhere, or damaged."""
        with self._lock:
            self._kept.pop(payload.digest, None)
            self._write_index(payload.window)
        self.files(payload.window).remove(payload.digest)

    def drop_before(self, window: int) -> None:
        """Let the next `drop_old` remove the payloads of all windows before; from any thread."""
        self._first = max(self._first, window)

    def drop_old(self) -> None:
        """Remove what `drop_before` named."""
        first, self._first = self._first, -1
        if first < 0:
            return
        with self._lock:
            self._kept = {d: p for d, p in self._kept.items() if p.window >= first}
        for folder in self._list():
            if int(folder.name) < first:
                _remove(folder)

    def files(self, window: int) -> KeptFiles:
        """The frames of a window."""
        return KeptFiles(self._window_folder(window), ".payload")

    def read(self, payload: KeptPayload, start: int, length: int) -> bytes:
        """A stretch of a frame, as it lies on the disk."""
        path = self.files(payload.window).path(payload.digest)
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise unreadable(path, error) from error

    def _window_folder(self, window: int) -> Path:
        return self._folder / f"{window:08d}"

    def _write_index(self, window: int) -> None:
        """Who made and who serves each payload of a window: the chain tells it for hours only."""
        rows = {
            payload.digest.hex(): {"author": payload.author, "line": payload.line}
            for payload in self._kept.values()
            if payload.window == window
        }
        path = self._window_folder(window) / _INDEX
        partial = path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(rows))
            partial.replace(path)
        except OSError as error:
            raise disk_trouble(path, error) from error

    def _list(self) -> list[Path]:
        try:
            return sorted(f for f in self._folder.iterdir() if _FOLDER.fullmatch(f.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unreadable(self._folder, error) from error

    def _read(self, own: str) -> Iterator[KeptPayload]:
        """What a process before kept. A folder without a whole index was never voted for."""
        for folder in self._list():
            try:
                yield from _parse_index((folder / _INDEX).read_text(), int(folder.name), own)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("%s is unreadable and removed: %s", folder, error)
                _remove(folder)


def _parse_index(text: str, window: int, own: str) -> list[KeptPayload]:
    """The payloads of an index; errors of `json` and of missing values for other text."""
    found = [
        KeptPayload(
            window=window,
            digest=bytes.fromhex(digest),
            author=str(row["author"]),
            line=tuple(map(str, row["line"])),
        )
        for digest, row in json.loads(text).items()
    ]
    if any(own not in payload.line[HOLDERS:] for payload in found):
        raise ValueError("not the index of this hotkey")
    return found


def _remove(folder: Path) -> None:
    try:
        if os.path.lexists(folder):
            shutil.rmtree(folder)
    except OSError as error:
        raise disk_trouble(folder, error) from error
