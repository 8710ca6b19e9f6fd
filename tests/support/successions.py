"""Specs that continue a run."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulation.world import World, hotkey_of
from template.base.supporting import SUPPORT_FILE
from template.peers.client import Peers
from template.protocol.spec import ContinuesSpec, RunSpec, spec_to_toml
from template.sync.dataset import fetch_theta0
from template.training.outer import first_state

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


def first_root_of(world: World, folder: Path) -> str:
    context = world.context(hotkey_of("m0"), folder / "probe")
    peers = Peers(context)
    peers.refresh()
    return first_state(fetch_theta0(context, peers), world.spec.run_id).root[:16].hex()


def proposed(world: World, folder: Path, window: int, **fields: Any) -> RunSpec:
    after = successor(world.spec, window, **fields)
    assert after.continues is not None
    return replace(after, continues=replace(after.continues, root=first_root_of(world, folder)))


def supporting(folder: Path, names: Iterable[str], spec: RunSpec) -> None:
    """The operators' files, as `tessera succession support` writes them."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / SUPPORT_FILE).write_text(spec_to_toml(spec))
