"""Subnets in a single process: small runs, and the real neurons, each in a thread of its own.

Owns how a run small enough for a test is made, how a world is opened at its start, and how
neurons run to their ends. Chain, clock and buckets come from `simulation.world`.
"""

import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from simulation.world import RecordingMetrics, World, hotkey_of
from template.base.conduct import WorkFactory
from template.base.miner import Miner
from template.base.supervisor import supervise
from template.base.validator import Validator
from template.chain import Neuron
from template.commands.plan import PreparedRun, RunChoices, load_plan, prepare_run, upload
from template.context import NodeContext
from template.data.corpus import Corpus, Document
from template.protocol.record import Record, encode_record
from template.protocol.root import tensors_digest

ROOT = Path(__file__).resolve().parents[1]
RAO = 10**9

FOUR = ("val-a", "val-b", "m0", "m1")
STAKES_TAO = {"owner": 0, "val-a": 1000, "val-b": 900, "m0": 0, "m1": 0}
"""Name -> stake; uids are in this order, and the owner runs no neuron."""

TINY: Mapping[str, object] = {
    "model__hidden_size": 8,
    "model__intermediate_size": 16,
    "data__page_tokens": 8,
    "training__inner_steps": 1,
    "training__batch_pages": 2,
    "training__inner_lr": 0.02,
    "training__warmup_windows": 0.0,
    "evaluation__held_out_pages": 16,
    "evaluation__curve_pages": 2,
    "evaluation__min_relative_gain": 0.0,
    "evaluation__naming_gain": 0.1,
    "evaluation__naming_error": 0.49,
    "evaluation__naming_z": 0.0,
    "schedule__blocks_per_window": 16,
    "schedule__upload_blocks": 2,
    "schedule__scoring_blocks": 10,
    "schedule__finality_lag_blocks": 3,
    "schedule__tempo_blocks": 40,
}
"""Overrides of `small_plan`: nearly the smallest run whose payloads still lower the loss."""

Drive = Callable[[Any, NodeContext], object]
"""Builds a neuron on a world and runs it to its end; returns the last neuron built."""
Kind = Callable[[NodeContext], Any]
"""Builds a neuron: a class of neurons, or a function with a neuron as result."""
AnyWorld = TypeVar("AnyWorld", bound=World)


@cache
def synthetic_corpus(num_bytes: int = 120_000) -> Corpus:
    """Text for a model to learn: words of a small vocabulary in a fixed random order."""
    generator = np.random.default_rng(7)
    words = [bytes(generator.integers(97, 123, size=n).tolist()) for n in range(2, 9)]

    def document(name: str, size: int) -> Document:
        picks = generator.zipf(1.6, size=size // 3) % len(words)
        text = b" ".join(words[i] for i in picks)[:size] + b"\n"
        return Document(name=name, work=name, text=text)

    return Corpus(
        train=(document("train", num_bytes),), held_out=(document("held", num_bytes // 8),)
    )


def neuron(uid: int, name: str, *, stake_tao: int = 0) -> Neuron:
    """A registered neuron; a validator permit comes with any stake."""
    return Neuron(
        uid=uid,
        hotkey=hotkey_of(name),
        coldkey=hotkey_of(name + "-cold"),
        validator_permit=stake_tao > 0,
        total_stake_rao=stake_tao * RAO,
        alpha_stake_rao=stake_tao * RAO,
        block_at_registration=0,
        last_update=0,
        incentive=0.0,
        dividends=0.0,
        emission_rao=0,
    )


def small_plan(**overrides: object) -> dict[str, Any]:
    """The localnet's plan with a smaller model and shorter windows; keys as section__key."""
    plan = load_plan(ROOT / "runs" / "localnet.toml")
    plan["model"] |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    plan["data"] |= {"page_tokens": 32, "segment_pages": 8}
    plan["training"] |= {
        "inner_steps": 6,
        "batch_pages": 4,
        "warmup_windows": 0.5,
        "warm_start_steps": 0,
        "max_width": 1,
        "max_parts": 1,
    }
    plan["outer"] |= {"max_staleness": 2, "staleness_decay": 0.5}
    plan["evaluation"] |= {
        "held_out_pages": 24,
        "curve_pages": 64,
        "assignment_windows": 3,
        "claimed_pages": 0,  # in words at random, a page has nothing of its own to learn
        # From random parameters gains rise and fall manyfold within the few windows of a test.
        "naming_gain": 0.2,
        "naming_error": 0.45,
    }
    plan["schedule"] |= {
        "blocks_per_window": 16,
        "upload_blocks": 3,
        "scoring_blocks": 8,
        "vote_margin_blocks": 4,
        "tempo_blocks": 31,
        "num_windows": 8,
    }
    for key, value in overrides.items():
        section, _, name = key.partition("__")
        plan[section][name] = value
    return plan


def small_run(names: Mapping[str, int], **overrides: object) -> PreparedRun:
    """A small run owned by the first name; many worlds may share a run."""
    return prepare_run(
        small_plan(**overrides),
        synthetic_corpus(),
        RunChoices(owner_hotkey=hotkey_of(next(iter(names))), start_block=16),
    )


def neurons_of(names: Mapping[str, int]) -> tuple[Neuron, ...]:
    """Neurons with uids in the order of the names (name -> stake in TAO)."""
    return tuple(neuron(uid, name, stake_tao=s) for uid, (name, s) in enumerate(names.items()))


def build_world(names: Mapping[str, int], **overrides: object) -> World:
    """A world with a small run for these names (name -> stake in TAO), the owner first."""
    return open_world(World, neurons_of(names), small_run(names, **overrides))


def open_world(
    kind: Callable[..., AnyWorld], neurons: tuple[Neuron, ...], run: PreparedRun
) -> AnyWorld:
    """A world at the block where its run can be joined, with the run in the owner's bucket."""
    world = kind(run.spec, neurons)
    owner = neurons[0].hotkey
    upload(run, world.buckets[owner])
    world.chain(owner).publish(encode_record(Record(access=world.access(owner))))
    world.time.block = 4
    return world


def miner_with(work: WorkFactory) -> Kind:
    """A miner with another `Work`."""
    return lambda context: Miner(context, work=work)


def to_the_end(kind: Kind) -> Drive:
    """Build a neuron and repeat its step until the run is over; raise its first error."""

    def drive(_world: World, context: NodeContext) -> object:
        node = kind(context)
        supervise(node.step, max_failures=1)
        return node

    return drive


def honest(*names: str) -> dict[str, Drive]:
    """Drives of honest neurons: validators for names that start with "val", else miners."""
    return {n: to_the_end(Validator if n.startswith("val") else Miner) for n in names}


def run(world: World, drives: Mapping[str, Drive], folder: Path) -> dict[str, Any]:
    """Run each named neuron in a thread to its end; returns the neurons by name.

    `folder` gets a state folder for each name. Raises BaseExceptionGroup with the errors of
    all threads.
    """
    ended: dict[str, Any] = {}
    errors: list[BaseException] = []

    def body(name: str, drive: Drive) -> None:
        try:
            ended[name] = drive(world, world.context(hotkey_of(name), folder / name))
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            error.add_note(f"in the thread of {name}")
            errors.append(error)
        finally:
            world.time.leave()

    threads = [threading.Thread(target=body, args=item, daemon=True) for item in drives.items()]
    for _ in threads:
        world.time.enter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise BaseExceptionGroup("neurons of a swarm ended in an error", errors)
    return ended


def metrics(node: Any) -> RecordingMetrics:
    """The metrics that a neuron has recorded."""
    recorded: RecordingMetrics = node.context.metrics
    return recorded


def digests(nodes: Mapping[str, Any], *names: str) -> set[tuple[int, bytes, bytes]]:
    """Window, root and tensors' digest of each named node, of all without names.

    The set has a single element if the nodes agree.
    """
    states = [nodes[name].follower.state for name in names or nodes]
    return {(s.window, s.root, tensors_digest(s.params)) for s in states}


def accepted(node: Any) -> dict[int, set[int]]:
    """window -> accepted uids, as the node followed the run."""
    series = metrics(node).series("accepted_uids")
    return {w: {int(uid) for uid in str(t).split(",") if uid} for w, t in series.items()}


def uid_of(world: World, name: str) -> int:
    """The uid of a named neuron."""
    return next(n.uid for n in world.ledger.neurons if n.hotkey == hotkey_of(name))
