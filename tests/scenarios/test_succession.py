"""A run that changes its spec at a window, by the voting stake, while nobody stops."""

from pathlib import Path

import pytest

from simulation.swarm import (
    TINY,
    build_world,
    digests,
    metrics,
    run,
    small_plan,
    synthetic_corpus,
    to_the_end,
)
from simulation.world import World, hotkey_of
from template.audit.replay import replay_run
from template.base import supporting as supporting_module
from template.base.miner import Miner
from template.base.supervisor import supervise
from template.base.validator import Validator
from template.commands.plan import prepare_run, upload
from template.errors import ConfigError
from template.peers.client import Peers
from template.protocol.root import tensors_digest
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.protocol.spec.plan import RunChoices
from template.sync.own_checkpoint import LOCAL_FILE
from template.sync.successions import restore_run
from template.training.checkpoint import load_local
from tests.support.audited import reader
from tests.support.successions import proposed, supporting

NAMES = {"owner": 0, "val-a": 1000, "val-b": 900, "val-c": 800, "m0": 0, "m1": 0}
SWITCH = 8
WINDOWS = 11


def proposal(world: World, folder: Path, **fields) -> RunSpec:
    return proposed(world, folder, SWITCH, **fields)


def first_block(world: World, after: RunSpec, window: int) -> int:
    return Run(world.spec, after).schedule.first_block(window)


def other_dataset(world: World) -> str:
    """The digest of another dataset, which lies in the owner's bucket."""
    text = synthetic_corpus(90_000)
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=16)
    other = prepare_run(small_plan(**TINY), text, choices)
    upload(other, world.buckets[hotkey_of("owner")])
    assert other.spec.data.manifest_digest != world.spec.data.manifest_digest
    return other.spec.data.manifest_digest


def drives():
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
    nodes = run(world, drives(), tmp_path)
    assert len(digests(nodes)) == 1
    for name, node in nodes.items():
        assert [spec.spec_id for spec in node.context.run] == [world.spec.spec_id, after.spec_id]
        sent = metrics(node).series("inner_steps")
        if name.startswith("m"):
            assert {sent[w] for w in sent if w < SWITCH} == {world.spec.training.inner_steps}
            assert {sent[w] for w in sent if w >= SWITCH} == {3}
        applied = metrics(node).series("accepted_uids")
        assert all(applied[w] for w in range(SWITCH, WINDOWS - 1)), applied


def test_every_part_of_a_run_may_change_across_a_kill_and_for_a_newcomer(tmp_path) -> None:
    """Window length, dataset, evaluation and pay; one validator is away across the switch, and a
    miner that knows the first spec alone joins after it. A replay walks both specs.
    """
    world = build_world(NAMES, **{**TINY, "schedule__num_windows": WINDOWS})
    data = other_dataset(world)
    after = proposal(
        world,
        tmp_path,
        data__manifest_digest=data,
        schedule__blocks_per_window=20,
        schedule__upload_blocks=4,
        schedule__scoring_blocks=10,
        schedule__tempo_blocks=39,
        schedule__num_windows=WINDOWS + 1,
        evaluation__held_out_pages=12,
        weights__history_windows=6,
    )
    supporting(tmp_path, ("val-a", "val-b"), after)

    def away(world: World, context) -> Validator:
        node = Validator(context)
        while node.follower.next_window < SWITCH - 2:
            node.step()
        context.waiter.until_head(first_block(world, after, SWITCH + 1), "a return")
        again = Validator(world.context(hotkey_of("val-c"), tmp_path / "val-c"))
        supervise(again.step, max_failures=1)
        return again

    def late(world: World, context) -> Miner:
        context.waiter.until_head(first_block(world, after, SWITCH + 1), "a return")
        node = Miner(context)
        supervise(node.step, max_failures=1)
        return node

    nodes = run(world, drives() | {"val-c": away, "m1": late}, tmp_path)
    assert len(digests(nodes)) == 1
    for node in nodes.values():
        assert node.context.run.num_windows == WINDOWS + 1
        assert node.context.run.newest.spec_id == after.spec_id
        assert node.context.schedule.blocks_of(SWITCH) == 20
        assert node.follower.state.window == WINDOWS + 2
    applied = metrics(nodes["m0"]).series("accepted_uids")
    assert sum(bool(applied[w]) for w in range(SWITCH, WINDOWS + 1)) >= 2, applied
    context = reader(world, tmp_path / "reader")
    restore_run(context, Peers(context))
    replayed = replay_run(context, Peers(context), 0, lambda _text: None)
    state = nodes["val-a"].follower.state
    assert replayed.state.root == state.root
    assert tensors_digest(replayed.state.params) == tensors_digest(state.params)


def test_a_minority_changes_nothing(tmp_path) -> None:
    world = build_world(NAMES, **{**TINY, "schedule__num_windows": WINDOWS})
    after = proposal(world, tmp_path, training__inner_steps=3)
    supporting(tmp_path, ("val-b",), after)
    nodes = run(world, drives(), tmp_path)
    assert len(digests(nodes)) == 1
    assert {node.context.run.newest.spec_id for node in nodes.values()} == {world.spec.spec_id}
    steps = set(metrics(nodes["m0"]).series("inner_steps").values())
    assert steps == {world.spec.training.inner_steps}


def test_nodes_that_cannot_follow_stop_before_the_window_and_lose_nothing(
    tmp_path, monkeypatch, caplog
) -> None:
    """Every software here is too old; the validators' owners support the spec all the same."""
    world = build_world(NAMES, **{**TINY, "schedule__num_windows": WINDOWS})
    after = proposal(world, tmp_path, training__inner_steps=3, continues__least_version="9.0.0")
    monkeypatch.setattr(supporting_module, "check_version", lambda _spec: None)
    supporting(tmp_path, ("val-a", "val-b"), after)
    with pytest.raises(BaseExceptionGroup) as caught:
        run(world, drives(), tmp_path)
    assert len(caught.value.exceptions) == len(NAMES) - 1
    for error in caught.value.exceptions:
        assert isinstance(error, ConfigError)
        assert "demands version 9.0.0 or newer from window 8 on" in str(error)
    schedule = world.spec.schedule.schedule()
    assert world.time.block < schedule.held_out_block(SWITCH - 1) + 3, "nobody went on"
    assert "this node stops in" in caplog.text
    saved = load_local(tmp_path / "val-a" / LOCAL_FILE, world.spec)
    assert saved is not None
    assert saved.state.window >= SWITCH
