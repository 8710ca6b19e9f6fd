"""Swarms with faults: whoever dies, restarts, joins late or hides bytes changes nobody's model.

Everything in these worlds is deterministic, so a fault that must not matter is compared
with the same world without it: every root and every digest of the run has to be equal.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from simulation.swarm import (
    FOUR,
    RAO,
    STAKES_TAO,
    accepted,
    build_world,
    digests,
    honest,
    metrics,
    run,
    to_the_end,
    uid_of,
)
from simulation.world import hotkey_of
from template.base.miner import Miner
from template.base.supervisor import supervise
from template.base.validator import Validator
from template.base.work import HonestWork
from template.context import NodeContext
from template.protocol.keys import blob_key, checkpoint_manifest_key
from template.protocol.root import tensors_digest
from template.sync.follower import KEPT_BLOCKS
from template.sync.own_checkpoint import own_checkpoint_path
from template.training import checkpoint
from template.training.checkpoint import load_local
from template.training.outer import state_digest
from template.training.published import build_checkpoint, parse_published, restore_published

WINDOWS = 5


@pytest.fixture(autouse=True)
def _in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """States as those of a large model, in a file for each group."""
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 1)


class Killed(BaseException):
    """A process that ends here and now."""


def _world(**more: int):
    """Without votes on alpha: a validator that restarts has no losses half-way, and so no opinion
    in that window (`tests/audit/test_pace.py`).
    """
    return build_world(
        {**STAKES_TAO, **more}, schedule__num_windows=WINDOWS, outer__alpha_windows=0
    )


def _history(node) -> list[dict[int, object]]:
    """All that a node says about the run, window after window."""
    return [metrics(node).series(key) for key in ("state_root", "params_digest", "accepted_uids")]


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> list[dict[int, object]]:
    """The history of the run in which nothing happens."""
    nodes = run(_world(), honest(*FOUR), tmp_path_factory.mktemp("calm"))
    assert len(digests(nodes)) == 1
    assert {frozenset(uids) for uids in accepted(nodes["m0"]).values()} == {frozenset({3, 4})}
    return _history(nodes["m0"])


def test_the_same_world_twice_is_the_same_to_the_bit(calm, tmp_path) -> None:
    nodes = run(_world(), honest(*FOUR), tmp_path)
    assert all(_history(node) == calm for node in nodes.values())


def _crash(place: str, window: int, kind: type) -> type:
    """The neuron `kind`, killed once as it enters a method in a window.

    `place`: the method, or part.method of one of the neuron's parts.
    """
    killed: list[bool] = []

    class Crashing(kind):
        def __init__(self, context: NodeContext) -> None:
            super().__init__(context)
            part, _, method = place.rpartition(".")
            target = getattr(self, part) if part else self
            go_on = getattr(target, method)

            def enter(*args):
                if self.follower.next_window in (window - 1, window) and not killed:
                    killed.append(True)
                    raise Killed
                return go_on(*args)

            setattr(target, method, enter)

    return Crashing


def _restarting(
    kind: type,
    check: Callable[[Any, Any], None] = lambda *_: None,
    pause_blocks: int = 0,
):
    """Run; after a kill build the neuron anew from its state directory and go on."""

    def drive(world, context) -> object:
        node = kind(context)
        with pytest.raises(Killed):
            supervise(node.step, max_failures=1)
        context.waiter.until_head(world.time.block + pause_blocks)
        after = kind(world.context(context.hotkey, context.state_dir))
        check(node, after)
        supervise(after.step, max_failures=1)
        return after

    return drive


def _same_memory(before: Miner, after: Miner) -> None:
    """A killed miner knows again what its last save said, to the bit."""
    assert isinstance(after.work, HonestWork)
    saved = load_local(own_checkpoint_path(before.context.state_dir), before.context.run.first)
    assert saved is not None
    assert saved.groups["moments"], "killed before its first step: nothing is shown"
    assert tensors_digest(after.work.feedback.tensors) == tensors_digest(saved.groups["feedback"])
    assert tensors_digest(after.work.trainer.moments()) == tensors_digest(saved.groups["moments"])
    assert any(residual.any() for residual in after.work.feedback.tensors.values())


def slowly(*places: str) -> list:
    """Cases of the slow lane."""
    return [pytest.param(place, marks=pytest.mark.slow) for place in places]


@pytest.mark.parametrize("place", ["commit", "settle", *slowly("make_payload", "reveal")])
def test_a_miner_killed_anywhere_loses_nothing(place: str, calm, tmp_path) -> None:
    miner = _restarting(_crash(place, 2, Miner), _same_memory)
    nodes = run(_world(), {**honest(*FOUR), "m1": miner}, tmp_path)
    assert len(digests(nodes)) == 1
    assert _history(nodes["val-a"]) == calm


@pytest.mark.parametrize(
    "place", ["_vote", "_save", *slowly("_logs.publish", "_publish_checkpoint")]
)
def test_a_validator_killed_anywhere_loses_nothing(place: str, calm, tmp_path) -> None:
    validator, world = _restarting(_crash(place, 2, Validator)), _world()
    nodes = run(world, {**honest(*FOUR), "val-a": validator}, tmp_path)
    assert len(digests(nodes)) == 1
    assert _history(nodes["m0"]) == calm
    logs = world.buckets[hotkey_of("val-a")].list(f"{world.spec.run_id.hex()}/verdict/")
    assert len(logs) == WINDOWS


def test_a_validator_that_restarts_after_its_vote_does_not_take_it_back(calm, tmp_path) -> None:
    world = _world()
    schedule = world.spec.schedule
    pause_blocks = schedule.scoring_blocks - schedule.finality_lag_blocks
    validator = _restarting(_crash("_weights.set_if_due", 2, Validator), pause_blocks=pause_blocks)
    nodes = run(world, {**honest(*FOUR), "val-a": validator}, tmp_path)
    assert len(digests(nodes)) == 1
    assert _history(nodes["m0"]) == calm
    stakes = metrics(nodes["m0"]).series("voting_stake_rao")
    assert set(stakes.values()) == {1900 * RAO}


def test_a_miner_that_was_away_for_two_windows_is_accepted_again(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=7)
    miner = _restarting(
        _crash("make_payload", 2, Miner), pause_blocks=2 * world.spec.schedule.blocks_per_window
    )
    nodes = run(world, {**honest(*FOUR), "m1": miner}, tmp_path)
    assert len(digests(nodes)) == 1
    m1 = uid_of(world, "m1")
    present = [m1 in uids for _, uids in sorted(accepted(nodes["val-a"]).items())]
    assert present[0]
    assert present.count(False) in (2, 3)
    assert present[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("every", "rows"), [(6, 12), (1, 3)])
def test_a_miner_away_for_longer_than_the_chain_tells_comes_back(every, rows, tmp_path) -> None:
    """Twelve windows of 16 blocks, where the endpoint keeps the state of 130 blocks. By the lineage
    if buckets still keep what was missed, else from a published checkpoint.
    """
    away = 12
    world = build_world(STAKES_TAO, schedule__num_windows=away + 6, checkpoint__every_windows=every)
    world.ledger.kept_blocks = KEPT_BLOCKS + 2
    pause_blocks = away * world.spec.schedule.blocks_per_window
    miner = _restarting(_crash("make_payload", 2, Miner), pause_blocks=pause_blocks)
    nodes = run(world, {**honest(*FOUR), "m1": miner}, tmp_path)
    assert len(digests(nodes)) == 1
    m1 = uid_of(world, "m1")
    present = {w for w, uids in accepted(nodes["val-a"]).items() if m1 in uids}
    assert present & {0, 1}
    assert not present & set(range(3, away))
    assert present & {away + 4, away + 5}, "it takes part again"
    followed = set(metrics(nodes["m1"]).series("state_root")) & set(range(2, away + 2))
    assert len(followed) == 12 if every == 6 else len(followed) <= rows


def _dying(kind: type):
    def drive(_world, context) -> object:
        node = kind(context)
        with pytest.raises(Killed):
            supervise(node.step, max_failures=1)
        return node

    return drive


def test_the_rest_go_on_without_a_miner_and_a_validator(tmp_path) -> None:
    """The miner dies after its commitment: the digest is on chain, the payload never comes."""
    world = _world(m2=0)
    dead = {
        "val-b": _dying(_crash("_vote", 2, Validator)),
        "m1": _dying(_crash("reveal", 2, Miner)),
    }
    nodes = run(world, {**honest(*FOUR, "m2"), **dead}, tmp_path)
    ((window, _, _),) = digests(nodes, "val-a", "m0", "m2")
    assert window == WINDOWS + 1
    named = accepted(nodes["m0"])
    m1 = uid_of(world, "m1")
    assert m1 in named[0]
    assert all(m1 not in named[w] for w in range(2, WINDOWS))
    assert all(uid_of(world, "m0") in named[w] for w in range(WINDOWS))


class Joiner:
    """Starts a neuron only in the window after `AFTER`."""

    AFTER = 3

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self.started_at = -1

    def __call__(self, world, context) -> object:
        context.waiter.until_head(context.schedule.first_block(self.AFTER + 1) + 4)
        node = self._kind(context)
        self.started_at = node.follower.state.window
        supervise(node.step, max_failures=1)
        return node


@pytest.mark.slow
def test_late_joiners_start_from_a_checkpoint_and_end_where_all_are(tmp_path) -> None:
    world = build_world(
        {**STAKES_TAO, "m2": 0, "val-c": 500}, schedule__num_windows=9, checkpoint__every_windows=2
    )
    late = {"m2": Joiner(Miner), "val-c": Joiner(Validator)}
    nodes = run(world, {**honest(*FOUR), **late}, tmp_path)
    assert len(digests(nodes)) == 1
    assert [joiner.started_at for joiner in late.values()] == [2, 2], "theta_4 is not proven yet"
    m2 = uid_of(world, "m2")
    named = {w for w, uids in accepted(nodes["val-a"]).items() if m2 in uids}
    assert named, "the late miner's payloads were never accepted"
    assert min(named) > Joiner.AFTER
    for name in late:
        assert set(metrics(nodes[name]).series("differs_from_majority").values()) == {0}


class Deceived(Joiner):
    """Joins late, after the validator with the most stake has replaced its checkpoint."""

    def __call__(self, world, context) -> object:
        context.waiter.until_head(context.schedule.first_block(self.AFTER + 1) + 4)
        bucket, key = (
            world.buckets[hotkey_of("val-a")],
            checkpoint_manifest_key(world.spec.run_id, 2),
        )
        honest_manifest = parse_published(bucket.get(key, max_bytes=2**20), world.spec)
        parts = [bucket.get(blob_key(p.digest), max_bytes=2**22) for p in honest_manifest.parts]
        state = restore_published(honest_manifest, parts, world.spec)
        lie = replace(state, params={n: 2 * t for n, t in state.params.items()})
        false = build_checkpoint(replace(lie, checkpoint_digest=state_digest(lie)), world.spec)
        bucket.put(key, false.manifest)
        for digest, data in false.blobs.items():
            bucket.put(blob_key(digest), data)
        return super().__call__(world, context)


@pytest.mark.slow
def test_a_joiner_passes_over_a_checkpoint_that_the_stake_did_not_vote(tmp_path) -> None:
    world = build_world(
        {**STAKES_TAO, "m2": 0}, schedule__num_windows=7, checkpoint__every_windows=2
    )
    nodes = run(world, {**honest(*FOUR), "m2": (late := Deceived(Miner))}, tmp_path)
    assert late.started_at == 2
    assert len(digests(nodes)) == 1


@pytest.mark.parametrize("fault", ["deleted", "replaced"])
def test_bytes_gone_from_a_miners_bucket_after_the_vote_come_from_who_named_them(
    fault: str, calm, tmp_path
) -> None:
    world = _world()
    bucket = world.buckets[hotkey_of("m0")]
    spoiled = []

    class Spoiler:
        def __init__(self, context) -> None:
            self.context, self.window = context, 0

        def step(self) -> bool:
            self.context.waiter.until_head(self.context.schedule.vote_block(self.window))
            for key in bucket.list(f"{world.spec.run_id.hex()}/payload/{self.window:08d}/"):
                spoiled.append(key)
                data = bucket.get(key, max_bytes=2**20)
                bucket.delete(key) if fault == "deleted" else bucket.put(key, data[::-1])
            self.window += 1
            return self.window < WINDOWS

    nodes = run(world, {**honest(*FOUR), "owner": to_the_end(Spoiler)}, tmp_path)
    assert len(spoiled) == WINDOWS
    assert _history(nodes["m1"]) == calm
