"""Whole swarms in one process: real neurons, each in a thread, on a world in memory."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from template.chain import Neuron
from template.commands.plan import PreparedRun, RunChoices, load_plan, prepare_run, upload
from template.data.corpus import Corpus, Document
from template.protocol.record import Record, encode_record
from tests.support.fakes import World, hotkey_of

ROOT = Path(__file__).resolve().parents[2]
RAO = 10**9

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
    "evaluation__naming_z": 0.0,
    "schedule__blocks_per_window": 16,
    "schedule__upload_blocks": 2,
    "schedule__scoring_blocks": 10,
    "schedule__finality_lag_blocks": 3,
    "schedule__tempo_blocks": 40,
}
"""Overrides of `small_plan`: about as little as a run can be whose payloads lower the loss."""

Node = Callable[[], None]
AnyWorld = TypeVar("AnyWorld", bound=World)


def synthetic_corpus(num_bytes: int = 120_000) -> Corpus:
    """Text with something to learn: words of a small vocabulary in a fixed random order."""
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


def small_plan(**overrides: object) -> dict:
    """The localnet's plan with a smaller model and shorter windows; keys as section__key."""
    plan = load_plan(ROOT / "runs" / "localnet.toml")
    plan["model"] |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    plan["data"] |= {"page_tokens": 32}
    plan["training"] |= {
        "inner_steps": 6,
        "batch_pages": 4,
        "warmup_windows": 0.5,
        "warm_start_steps": 0,
    }
    plan["evaluation"] |= {
        "held_out_pages": 24,
        "curve_pages": 64,
        "assignment_windows": 3,
        "claimed_pages": 0,  # words at random: their pages have nothing of their own to learn
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


def build_world(names: dict[str, int], **overrides: object) -> World:
    """A world whose uids are the names in order (name -> stake in TAO), the owner first."""
    return open_world(World, neurons_of(names), small_run(names, **overrides))


def neurons_of(names: dict[str, int]) -> tuple[Neuron, ...]:
    return tuple(neuron(uid, name, stake_tao=s) for uid, (name, s) in enumerate(names.items()))


def small_run(names: dict[str, int], **overrides: object) -> PreparedRun:
    """A run of the first name; many worlds may be opened with one."""
    return prepare_run(
        small_plan(**overrides),
        synthetic_corpus(),
        RunChoices(owner_hotkey=hotkey_of(next(iter(names))), start_block=16),
    )


def open_world(kind: type[AnyWorld], neurons: tuple[Neuron, ...], run: PreparedRun) -> AnyWorld:
    """A world of a kind at the block at which its run can be joined."""
    world = kind(run.spec, neurons)
    owner = neurons[0].hotkey
    upload(run, world.buckets[owner])
    world.chain(owner).publish(encode_record(Record(access=world.access(owner))))
    world.time.block = 4
    return world


def run_swarm(world: World, nodes: list[Node]) -> list[BaseException | None]:
    """Run every node in a thread to its end; returns what each raised, or None."""
    failures: list[BaseException | None] = [None] * len(nodes)

    def body(index: int) -> None:
        try:
            nodes[index]()
        except BaseException as error:  # noqa: BLE001  handed to the test
            failures[index] = error
        finally:
            world.time.leave()

    threads = [threading.Thread(target=body, args=(i,), daemon=True) for i in range(len(nodes))]
    for _ in threads:
        world.time.enter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures
