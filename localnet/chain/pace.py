"""The pace of a local chain: how long after a block the next one comes.

Without a pace file, the block time of the configuration. A pace file slows the chain down or
hurries it up while it runs: the chain looks at the file several times a second, and a restarted
chain reads the file again. Whoever can write the file paces the chain; no RPC method does.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from template.errors import ConfigError

MIN_BLOCK_S: Final = 0.01
MAX_BLOCK_S: Final = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """`block_time_s`: between two blocks. `hurry_to`: up to this block, none waits for its time."""

    block_time_s: float
    hurry_to: int = 0

    def __post_init__(self) -> None:
        if not MIN_BLOCK_S <= self.block_time_s <= MAX_BLOCK_S:
            raise ConfigError(
                f"block_time_s is {self.block_time_s}: choose {MIN_BLOCK_S} to {MAX_BLOCK_S:.0f}"
            )

    def after(self, head: int) -> float:
        """Seconds between block `head` and the next."""
        return 0.0 if head < self.hurry_to else self.block_time_s


def write_pace(path: Path, pace: Pace) -> None:
    """Write atomically: the chain finds either the old or the new pace."""
    new = path.with_name(path.name + ".new")
    values = {"block_time_s": pace.block_time_s, "hurry_to": pace.hurry_to}
    new.write_text(json.dumps(values), encoding="ascii")
    os.replace(new, path)


class PaceFile:
    """Reads a pace file anew whenever it has changed; `usual` counts while there is no file."""

    def __init__(self, path: Path | None, usual: Pace) -> None:
        self._path, self._usual = path, usual
        self._read: tuple[tuple[int, int], Pace] | None = None

    def current(self) -> Pace:
        """The pace as of now; ConfigError for a file that is no pace."""
        if self._path is None:
            return self._usual
        try:
            stat = self._path.stat()
            version = (stat.st_ino, stat.st_mtime_ns)
            if self._read is None or self._read[0] != version:
                self._read = version, _parse(self._path)
        except FileNotFoundError:
            return self._usual
        return self._read[1]


def _parse(path: Path) -> Pace:
    try:
        values = json.loads(path.read_text(encoding="ascii"))
        return Pace(block_time_s=float(values["block_time_s"]), hurry_to=int(values["hurry_to"]))
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise ConfigError(
            f'--pace {path}: {error}; write {{"block_time_s": SECONDS, "hurry_to": BLOCK}}, or '
            "remove the file"
        ) from error
