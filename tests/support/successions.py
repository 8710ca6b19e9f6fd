"""Specs that continue a run."""

from dataclasses import replace
from typing import Any

from template.protocol.spec import ContinuesSpec, RunSpec

ROOT = "ab" * 16


def successor(before: RunSpec, window: int, **fields: Any) -> RunSpec:
    """A spec from `window` on, with fields by `table__key`, the old root of the tests."""
    tables: dict[str, dict[str, Any]] = {}
    for path, value in fields.items():
        table, _, key = path.partition("__")
        tables.setdefault(table, {})[key] = value
    least_version = tables.pop("continues", {}).pop("least_version", "0.0.0")
    changed = {name: replace(getattr(before, name), **some) for name, some in tables.items()}
    link = ContinuesSpec(
        run_id=before.run_id.hex(),
        spec=before.spec_id.hex(),
        window=window,
        root=ROOT,
        least_version=least_version,
    )
    return replace(before, **changed, continues=link)
