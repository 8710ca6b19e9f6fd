"""What the rows of `metrics.jsonl` say of each of the last windows. Pure.

The file is this node's own and may be torn or of another version: a row that is no object, or a
value of another type or without a finite number, says nothing.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

ACCEPTED: Final = "accepted"
REFUSED: Final = "not accepted"
UNDECIDED: Final = "undecided"
ABSENT: Final = "no payload"
MAX_WINDOWS: Final = 2**32
"""No run has more: a greater number is no window, and would stand before all that are."""

_NUMBERS: Final = {
    "inner_loss": "loss",
    "inner_steps": "steps",
    "inner_tokens": "tokens",
    "inner_tokens_per_s": "tokens_per_s",
    "inner_mfu": "mfu",
    "utilisation": "utilisation",
    "payload_bytes": "payload_bytes",
    "held_out_loss": "held_out_loss",
    "payloads": "payloads",
    "named": "named",
    "gain_mean": "gain_mean",
}
"""Key of a row -> name in the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSeen:
    """One window as this node saw it. `outcome`: of the own payload, or "" for a node without.

    `figures`: numbers by name; `refused`: reason -> payloads that this validator did not name.
    `accepted`: payloads of all miners in the step, None while the window is undecided.
    """

    window: int
    outcome: str
    accepted: int | None
    figures: Mapping[str, float]
    refused: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnRows:
    """The last windows, the newest first. `last_s`: time of the newest row, seconds since 1970.

    `weights_window`: the window in which it set weights last. `differs`: whether its parameters
    were not those of the stake majority when it last compared them.
    """

    windows: tuple[WindowSeen, ...]
    last_s: float | None
    state_window: int | None
    weights_window: int | None
    differs: bool


def parse_rows(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The rows of the file's lines; a line that is no row of metrics is left out."""
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # brackets without end are the second
            continue
        if isinstance(row, dict) and _is_window(row.get("window")):
            found.append(row)
    return found


def _is_window(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_WINDOWS


def read_rows(rows: Iterable[Mapping[str, Any]], role: str, *, num_windows: int) -> OwnRows:
    """The rows of a neuron, told by windows; `num_windows`: the newest to tell of."""
    merged: dict[int, dict[str, Any]] = {}
    last_s = state_window = weights_window = None
    differs = False
    for row in rows:
        merged.setdefault(row["window"], {}).update(row)
        last_s = _number(row.get("time_s"), last_s)
        state_window = _number(row.get("state_window"), state_window)
        if any(key.startswith("weight/") for key in row):
            weights_window = row["window"]
        if "differs_from_majority" in row:
            differs = bool(row["differs_from_majority"])
    newest = sorted(merged, reverse=True)[:num_windows]
    return OwnRows(
        windows=tuple(
            _window(window, merged[window], role, is_newest=window == newest[0])
            for window in newest
        ),
        last_s=last_s,
        state_window=None if state_window is None else int(state_window),
        weights_window=weights_window,
        differs=differs,
    )


def _window(window: int, row: Mapping[str, Any], role: str, *, is_newest: bool) -> WindowSeen:
    figures = {
        name: number
        for key, name in _NUMBERS.items()
        if (number := _number(row.get(key))) is not None
    }
    refused = {
        key.partition("/")[2]: int(number)
        for key, value in row.items()
        if key.startswith("refused/") and (number := _number(value)) is not None
    }
    accepted = row.get("accepted_uids")
    return WindowSeen(
        window=window,
        outcome=_outcome(row, is_newest=is_newest) if role == "miner" else "",
        accepted=len(accepted.split(",")) * bool(accepted) if isinstance(accepted, str) else None,
        figures=figures,
        refused=refused,
    )


def _outcome(row: Mapping[str, Any], *, is_newest: bool) -> str:
    if row.get("own_accepted") == 1:
        return ACCEPTED
    if "committed" not in row:
        # The newest window may still run: its payload comes at its end.
        is_decided = "own_accepted" in row or "accepted_uids" in row
        return UNDECIDED if is_newest and not is_decided else ABSENT
    return REFUSED if "own_accepted" in row else UNDECIDED


def _number(value: Any, otherwise: float | None = None) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return otherwise
    try:
        number = float(value)
    except OverflowError:  # an int beyond every float
        return otherwise
    return number if math.isfinite(number) else otherwise
