"""Succession: a new spec for a run from a window on, decided by the voting stake. Pure.

A validator that supports a spec says so in its record. The ballot of window `W - LEAD_WINDOWS`
decides: a spec with first window W that more than half of the reference stake supports there is
adopted, and every node switches at W. What was adopted is part of the root.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from template.errors import ConfigError
from template.protocol.quorum import LEAD_WINDOWS
from template.protocol.spec import RunSpec
from template.protocol.spec.run import spec_table
from template.protocol.strangers import shown

FIXED: Final = (
    "model.*",
    "data.page_tokens",
    "schedule.network",
    "schedule.start_block",
    "checkpoint.theta0_digest",
    "checkpoint.part_bytes",
)
"""Keys that a succession cannot change: the architecture, the past, and how theta is stored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A key that differs between two specs; None where a spec lacks the key."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.before)} -> {_shown(self.after)}"


def changes(before: RunSpec, after: RunSpec) -> list[Change]:
    """What a succession changes, by key, apart from the table `continues`."""
    old, new = dict(_keys(spec_table(before))), dict(_keys(spec_table(after)))
    return [
        Change(key=key, before=old.get(key), after=new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def check_successor(before: RunSpec, after: RunSpec) -> None:
    """ConfigError, naming a key and the remedy, unless `after` may follow `before`."""
    where = f"run spec {after.spec_id.hex()}"
    link = after.continues
    if link is None:
        raise ConfigError(f"{where}: continues no run: add the table [continues]")
    if bytes.fromhex(link.run_id) != before.run_id:
        raise ConfigError(
            f"{where}: continues.run_id: is {link.run_id}, must be {before.run_id.hex()}, the run's"
        )
    if bytes.fromhex(link.spec) != before.spec_id:
        raise ConfigError(
            f"{where}: continues.spec: is {link.spec}, must be {before.spec_id.hex()}, the id of "
            "the run's newest spec"
        )
    if link.window <= before.first_window:
        raise ConfigError(
            f"{where}: continues.window: is {link.window}, must be more than the first window of "
            f"the spec before, {before.first_window}"
        )
    end = before.schedule.num_windows
    if before.schedule.has_end and link.window > end:
        raise ConfigError(
            f"{where}: continues.window: is {link.window}, and the run ends before: "
            f"schedule.num_windows of the spec before is {end}; name window {end} at the latest"
        )
    for change in changes(before, after):
        if _is_fixed(change.key):
            raise ConfigError(
                f"{where}: {change.key}: a succession cannot change it: leave it at "
                f"{_shown(change.before)}"
            )


def first_adoption(window: int) -> int:
    """The window whose ballot adopts a spec with first window `window`; negative: too early."""
    return window - LEAD_WINDOWS


def _is_fixed(key: str) -> bool:
    return key in FIXED or f"{key.partition('.')[0]}.*" in FIXED


def _keys(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if name == "continues":
            continue
        if isinstance(value, Mapping):
            yield from ((f"{name}.{key}", each) for key, each in value.items())
        else:
            yield name, value


def _shown(value: Any) -> str:
    """In short: a stranger's spec may name hundreds of mirrors."""
    return "(default)" if value is None else shown(json.dumps(value))
