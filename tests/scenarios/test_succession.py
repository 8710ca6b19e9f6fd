"""A run that changes its spec at a window, by the voting stake, while nobody stops."""

from dataclasses import replace
from pathlib import Path

from simulation.swarm import TINY, build_world, digests, hotkey_of, metrics, run, to_the_end
from simulation.world import World
from template.base.miner import Miner
from template.base.supporting import SUPPORT_FILE
from template.base.validator import Validator
from template.peers.client import Peers
from template.protocol.spec import RunSpec, spec_to_toml
from template.sync.dataset import fetch_theta0
from template.training.outer import first_state
from tests.support.successions import successor

NAMES = {"owner": 0, "val-a": 1000, "val-b": 900, "val-c": 800, "m0": 0, "m1": 0}
SWITCH = 8
WINDOWS = 11


def first_root_of(world: World, folder: Path) -> str:
    context = world.context(hotkey_of("m0"), folder / "probe")
    peers = Peers(context)
    peers.refresh()
    return first_state(fetch_theta0(context, peers), world.spec.run_id).root[:16].hex()


def proposal(world: World, folder: Path, window: int = SWITCH, **fields) -> RunSpec:
    after = successor(world.spec, window, **fields)
    assert after.continues is not None
    return replace(after, continues=replace(after.continues, root=first_root_of(world, folder)))


def supporting(folder: Path, names, spec: RunSpec) -> None:
    """The operators' files, as `tessera succession support` writes them."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / SUPPORT_FILE).write_text(spec_to_toml(spec))


def drives(world: World):
    return {
        name: to_the_end(Validator if name.startswith("val") else Miner)
        for name in NAMES
        if name != "owner"
    }


def test_a_majority_changes_the_run_and_nobody_stops(tmp_path) -> None:
    world = build_world(NAMES, **{**TINY, "schedule__num_windows": WINDOWS})
    after = proposal(
        world,
        tmp_path,
        compression__top_k=32,
        outer__outer_lr=world.spec.outer.outer_lr / 2,
        training__inner_steps=3,
        checkpoint__every_windows=3,
    )
    supporting(tmp_path, ("val-a", "val-c"), after)
    nodes = run(world, drives(world), tmp_path)
    assert len(digests(nodes)) == 1
    for name, node in nodes.items():
        assert [spec.spec_id for spec in node.context.run] == [world.spec.spec_id, after.spec_id]
        sent = metrics(node).series("inner_steps")
        if name.startswith("m"):
            assert {sent[w] for w in sent if w < SWITCH} == {world.spec.training.inner_steps}
            assert {sent[w] for w in sent if w >= SWITCH} == {3}
        applied = metrics(node).series("accepted_uids")
        assert all(applied[w] for w in range(SWITCH, WINDOWS - 1)), applied
