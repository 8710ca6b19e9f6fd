"""Running named neurons of a world to their ends, and what the tests ask of them afterwards."""

from collections.abc import Callable, Mapping
from pathlib import Path

from template.base.miner import Miner
from template.base.supervisor import supervise
from template.base.validator import Validator
from template.base.work import WorkFactory
from template.context import NodeContext
from template.protocol.root import tensors_digest
from tests.support.fakes import RecordingMetrics, World, hotkey_of
from tests.support.swarm import run_swarm

FOUR = ("val-a", "val-b", "m0", "m1")
STAKES_TAO = {"owner": 0, "val-a": 1000, "val-b": 900, "m0": 0, "m1": 0}
"""Whose uids are in this order; the owner runs no neuron."""

Kind = Callable[[NodeContext], object]
Drive = Callable[[World, NodeContext], object]
"""Builds a neuron and runs it to its end, however it pleases; returns the last one built."""


def miner_with(work: WorkFactory) -> Kind:
    """A miner with another `Work`."""
    return lambda context: Miner(context, work=work)


def to_the_end(kind: Kind) -> Drive:
    """Build a neuron and repeat its step until it is done; the first error ends the test."""

    def drive(_world: World, context: NodeContext) -> object:
        node = kind(context)
        supervise(node.step, max_failures=1)
        return node

    return drive


def run(world: World, drives: Mapping[str, Drive], tmp_path: Path) -> dict[str, object]:
    """Run the neurons named; the ones they ended as, by name. No error may reach a thread."""
    last = {}

    def node(name: str, drive: Drive):
        def body() -> None:
            last[name] = drive(world, world.context(hotkey_of(name), tmp_path / name))

        return body

    failures = run_swarm(world, [node(name, drive) for name, drive in drives.items()])
    assert failures == [None] * len(drives), failures
    return last


def honest(*names: str) -> dict[str, Drive]:
    """Honest neurons to their ends: a validator where the name says so, else a miner."""
    return {n: to_the_end(Validator if n.startswith("val") else Miner) for n in names}


def metrics(node) -> RecordingMetrics:
    return node.context.metrics


def digests(nodes: Mapping[str, object], *names: str) -> set[tuple[int, bytes, bytes]]:
    """Where the nodes stand: window, root and tensors; one element if they agree."""
    states = [nodes[name].follower.state for name in names or nodes]
    return {(s.window, s.root, tensors_digest(s.params)) for s in states}


def accepted(node) -> dict[int, set[int]]:
    """window -> uids, as the node followed them."""
    series = metrics(node).series("accepted_uids")
    return {w: {int(uid) for uid in text.split(",") if uid} for w, text in series.items()}


def uid_of(world: World, name: str) -> int:
    return next(n.uid for n in world.ledger.neurons if n.hotkey == hotkey_of(name))
