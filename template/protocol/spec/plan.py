"""A plan: a run spec without the derived values, read from a file and checked.

Derived are the owner's mirror, the digests of the dataset and of theta_0, and the start block.
Loads neither torch nor the SDK: a command refuses a wrong plan before its libraries load.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from template.errors import ConfigError
from template.protocol.spec.files import read_toml
from template.protocol.spec.run import RunSpec
from template.protocol.toml import from_table

DERIVED = (
    ("data", "manifest_digest"),
    ("data", "mirrors"),
    ("schedule", "start_block"),
    ("checkpoint", "theta0_digest"),
)
"""Section and key of what a plan leaves open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunChoices:
    """Choices left open by the plan. `seed` draws theta_0; `num_windows` None keeps the plan's.

    `max_hotkeys`: the dataset must bear so many miners.
    """

    owner_hotkey: str
    start_block: int
    seed: int = 0
    num_windows: int | None = None
    max_hotkeys: int = 1


def load_plan(path: Path) -> dict[str, Any]:
    """A plan from a TOML file; ConfigError for an unreadable file or a derived key."""
    plan = read_toml(path, f"--plan {path}")
    for section, key in DERIVED:
        if key in _section(plan, section):
            raise ConfigError(f"--plan {path}: {section}.{key} is derived; leave it out")
    return plan


def check_plan(path: Path, plan: Mapping[str, Any], choices: RunChoices) -> RunSpec:
    """The future spec of a plan, without digests; ConfigError names plan and key."""
    try:
        return draft_spec(plan, choices)
    except ConfigError as error:
        raise ConfigError(f"--plan {path}: {error}") from error


def draft_spec(plan: Mapping[str, Any], choices: RunChoices) -> RunSpec:
    """The spec of a plan and choices, with zeros for the digests; ConfigError names a key."""
    return from_table(RunSpec, _fill(plan, choices))


def _fill(plan: Mapping[str, Any], choices: RunChoices) -> dict[str, Any]:
    unknown = "00" * 32
    schedule = {**_section(plan, "schedule"), "start_block": choices.start_block}
    if choices.num_windows is not None:
        schedule["num_windows"] = choices.num_windows
    data = {"manifest_digest": unknown, "mirrors": [choices.owner_hotkey]}
    return {
        **plan,
        "data": {**_section(plan, "data"), **data},
        "schedule": schedule,
        "checkpoint": {**_section(plan, "checkpoint"), "theta0_digest": unknown},
    }


def _section(plan: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = plan.get(name, {})
    if not isinstance(section, dict):
        raise ConfigError(f"{name}: must be a table")
    return section
