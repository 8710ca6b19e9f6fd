"""Changes of the run while it goes on, as `--changes` names them. Loads no torch and no SDK."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from template.cli.flags import folder_path, whole_number
from template.cli.succession_flags import file_changes
from template.errors import ConfigError
from template.protocol.quorum import LEAD_WINDOWS
from template.protocol.spec.timing import MAX_WINDOWS
from template.protocol.strangers import shown

FIRST: Final = LEAD_WINDOWS + 2
"""The first window that may change: a proposal is made before the votes on window 2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """From `window` on the run follows the keys of `file`, in `table`. `data`: a prepared dataset,
    if that changes too.
    """

    window: int
    file: Path
    table: Mapping[str, Any]
    data: Path | None = None


def parse_changes(text: str, num_windows: int) -> tuple[Change, ...]:
    """`8:rates.toml,16:anneal.toml:mixture`: changes by ascending window. ConfigError if wrong."""
    found = [
        _change(part, num_windows)
        for part in filter(None, (piece.strip() for piece in text.split(",")))
    ]
    for before, after in pairwise(found):
        if after.window <= before.window:
            raise ConfigError(f"--changes {text}: name the windows in ascending order, each once")
    return tuple(found)


def _change(part: str, num_windows: int) -> Change:
    number, _, rest = part.partition(":")
    name, _, data = rest.partition(":")
    window = whole_number(number, 0, MAX_WINDOWS)
    if window is None or not name:
        raise ConfigError(f"--changes {shown(part)}: write WINDOW:FILE, or WINDOW:FILE:DATASET")
    if not FIRST <= window < num_windows:
        raise ConfigError(
            f"--changes {part}: window {window}: the run can change in windows {FIRST} to "
            f"{num_windows - 1}: the votes {LEAD_WINDOWS} windows before decide"
        )
    table = file_changes(Path(name))
    if "schedule" in table:
        raise ConfigError(
            f"--changes {part}: the table schedule: this launcher paces the chain by the plan's "
            "schedule; every other table may change"
        )
    return Change(
        window=window, file=Path(name), table=table, data=_folder(part, data) if data else None
    )


def _folder(part: str, text: str) -> Path:
    folder = folder_path(text)
    if not folder.is_dir():
        raise ConfigError(f"--changes {part}: no folder {folder}; `tessera data prepare` makes one")
    return folder
