"""Miners that train, save, commit and upload beside following: a run as ever, and nobody waits."""

from dataclasses import replace
from typing import cast

import pytest
import torch

from localnet.adversaries.catalogue import BEHAVIOURS
from localnet.adversaries.damaging import BitFlip
from simulation.swarm import (
    FOUR,
    STAKES_TAO,
    accepted,
    digests,
    honest,
    metrics,
    neurons_of,
    open_world,
    run,
    small_run,
    to_the_end,
)
from simulation.world import hotkey_of
from template.base.miner import Miner
from template.base.pending import PendingPayloads
from template.base.standing import Standing
from template.base.work import HonestWork
from template.context import NodeContext
from template.errors import Unavailable
from template.protocol.keys import payload_key
from template.protocol.record import Record, decode_record
from template.store.memory import MemoryStore
from template.sync.healer import Healer
from template.sync.own_checkpoint import own_checkpoint_path
from template.training import checkpoint
from template.training.checkpoint import load_local
from tests.support.beside import BesideWorld, count_lanes

LONG = {
    "schedule__blocks_per_window": 24,
    "schedule__vote_margin_blocks": 8,
    "schedule__finality_lag_blocks": 2,
    "schedule__num_windows": 8,
}


@pytest.fixture
def world(monkeypatch) -> BesideWorld:
    made = open_world(BesideWorld, neurons_of(STAKES_TAO), small_run(STAKES_TAO, **LONG))
    count_lanes(made, monkeypatch)
    return made


def _committed(world: BesideWorld, name: str, window: int) -> int | None:
    """The window of the payload that stands on chain at a window's end."""
    block = world.spec.schedule.schedule().commit_block(window)
    record = decode_record(world.chain(hotkey_of(name)).commitments(block)[hotkey_of(name)])
    return None if record.payload is None else record.payload.window


def test_a_run_of_lanes_ends_as_a_run_in_turn(world, tmp_path) -> None:
    nodes = run(world, honest(*FOUR), tmp_path)
    assert len(digests(nodes)) == 1
    sets = accepted(nodes["val-a"])
    assert sum(len(uids) for uids in sets.values()) >= 2 * (len(sets) - 1)
    losses = metrics(nodes["val-a"]).series("held_out_loss")
    assert losses[max(losses)] < losses[min(losses)]
    for name in ("m0", "m1"):
        steps = metrics(nodes[name]).series("inner_steps")
        assert set(steps) == set(range(8)), "every window is trained"
        said = [_committed(world, name, window) for window in range(8)]
        assert said == list(range(8)), "and its payload stands on chain at its end"
        assert metrics(nodes[name]).series("utilisation")


class Busy(HonestWork):
    """Trains as long as a window allows: one inner step every block, again and again."""

    began: dict[int, int]

    def batches(self, base):
        waiter = self.parts.context.waiter
        batch = next(iter(super().batches(base)))
        self.began.setdefault(base, waiter.recent_head())
        while True:
            yield batch
            with self.parts.gate.apart():
                waiter.pause()


def test_training_goes_from_window_to_window_without_a_wait(monkeypatch, tmp_path) -> None:
    """The next window begins before the last has ended, once its pages and votes are final.

    In a run that takes no payload later than its page list; of others see `test_paces`.
    """
    prompt = small_run(STAKES_TAO, **LONG, outer__max_staleness=0)
    world = open_world(BesideWorld, neurons_of(STAKES_TAO), prompt)
    count_lanes(world, monkeypatch)
    Busy.began = {}
    drives = honest("val-a", "val-b", "m1")
    drives["m0"] = to_the_end(lambda context: Miner(context, work=Busy))
    nodes = run(world, drives, tmp_path)
    assert len(digests(nodes)) == 1
    schedule = world.spec.schedule.schedule()
    assert set(Busy.began) == set(range(8))
    early = [schedule.first_block(window) - Busy.began[window] for window in range(1, 8)]
    assert all(0 < blocks < schedule.vote_margin_blocks for blocks in early), early
    steps = metrics(nodes["m0"]).series("inner_steps")
    per_window = world.spec.schedule.blocks_per_window
    assert all(steps[window] >= 0.75 * per_window for window in range(2, 8)), steps
    # Each payload was trained on theta of its window: nobody's is called stale.
    assert [_committed(world, "m0", window) for window in range(8)] == list(range(8))


class Refusing(MemoryStore):
    """A bucket that takes no payload for some blocks."""

    def __init__(self, clock, until_block: int) -> None:
        super().__init__()
        self._clock, self._until_block = clock, until_block

    def put(self, key: str, data: bytes) -> None:
        if "payload" in key and self._clock.block < self._until_block:
            raise Unavailable("the bucket is away")
        super().put(key, data)


def test_a_bucket_that_refuses_stops_neither_training_nor_commitments(world, tmp_path) -> None:
    schedule = world.spec.schedule.schedule()
    world.buckets[hotkey_of("m0")] = Refusing(world.time, schedule.first_block(4))
    nodes = run(world, honest(*FOUR), tmp_path)
    assert len(digests(nodes)) == 1
    assert [_committed(world, "m0", window) for window in range(8)] == list(range(8))
    uid = 3
    taken = {window for window, uids in accepted(nodes["val-a"]).items() if uid in uids}
    assert not taken & {0, 1, 2}
    assert taken & {4, 5, 6}


class Noting(MemoryStore):
    """A bucket that knows when each payload came."""

    def __init__(self, clock) -> None:
        super().__init__()
        self._clock = clock
        self.came: dict[str, int] = {}

    def put(self, key: str, data: bytes) -> None:
        self.came.setdefault(key, self._clock.block)
        super().put(key, data)


def test_a_thief_that_waits_for_rivals_uploads_in_time(world, tmp_path) -> None:
    """Its attack is judged, and not its lateness: the wait holds up none of its other lanes."""
    world.buckets[hotkey_of("m1")] = bucket = Noting(world.time)
    drives = honest("val-a", "val-b", "m0")
    drives["m1"] = to_the_end(lambda context: BEHAVIOURS["copier"].build(context))
    nodes = run(world, drives, tmp_path)
    assert len(digests(nodes)) == 1
    schedule, lag = world.spec.schedule.schedule(), world.spec.schedule.finality_lag_blocks
    came = {key: block for key, block in bucket.came.items() if "payload" in key}
    committed = metrics(nodes["m1"]).series("committed")
    assert len(committed) >= 6
    for window, digest in committed.items():
        key = payload_key(world.spec.run_id, window, bytes.fromhex(digest))
        assert came[key] <= schedule.held_out_block(window) + lag, window


def test_a_node_heals_beside_its_lanes_while_training_stands_still(
    world, tmp_path, monkeypatch
) -> None:
    """Two more thetas are made meanwhile, where training leaves room for one."""
    asked: list[int] = []
    heal = Healer.heal

    def look(self: Healer, ledger, decision, is_right):
        asked.append(flipping[0].parts.gate._num_asking)
        return heal(self, ledger, decision, is_right)

    flipping: list[BitFlip] = []

    def build(context: NodeContext) -> Miner:
        miner = Miner(context, work=BitFlip)
        flipping.append(cast(BitFlip, miner.work))
        return miner

    monkeypatch.setattr(Healer, "heal", look)
    nodes = run(world, honest("val-a", "val-b", "m0") | {"m1": to_the_end(build)}, tmp_path)
    assert len(digests(nodes)) == 1
    assert asked
    assert all(asked)


def test_what_is_committed_is_on_the_disk(world, tmp_path, monkeypatch) -> None:
    """Each commitment: a miner from the state folder of that moment knows payload and feedback."""
    seen: list[tuple[int, bool]] = []
    publish = Standing.publish

    def look(self: Standing, record: Record) -> bool:
        if record.payload is not None:
            node = self._context
            found = load_local(own_checkpoint_path(node.state_dir), node.run.first)
            assert found is not None
            pending = PendingPayloads.from_tensors(found.groups["pending"])
            seen.append(
                (record.payload.window, record.payload.digest in {p.digest for p in pending})
            )
        return publish(self, record)

    monkeypatch.setattr(Standing, "publish", look)
    run(world, honest(*FOUR), tmp_path)
    assert sorted(seen) == sorted(2 * [(window, True) for window in range(8)])


def test_a_restart_at_any_commitment_follows_from_an_older_theta(tmp_path, monkeypatch) -> None:
    """A kill between commitment and the rest: theta and moments on the disk are older."""
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", 64)
    made = open_world(BesideWorld, neurons_of(STAKES_TAO), small_run(STAKES_TAO, **LONG))
    miner = Miner(made.context(hotkey_of("m0"), tmp_path))
    made.time.block = made.spec.schedule.schedule().first_block(0)
    miner.make_payload(0)
    first = miner.follower.state.params
    older = {name: tensor + 1.0 for name, tensor in first.items()}
    miner.follower.ledger = replace(
        miner.follower.ledger, state=replace(miner.follower.state, params=older)
    )
    made.time.block += made.spec.schedule.blocks_per_window
    miner._work_on(1)
    miner.keeper.save_new()
    again = Miner(made.context(hotkey_of("m0"), tmp_path))
    assert [payload.window for payload in again.pending] == [0, 1]
    assert list(again.pending) == list(miner.pending)
    assert isinstance(miner.work, HonestWork)
    assert isinstance(again.work, HonestWork)
    for name, tensor in miner.work.feedback.tensors.items():
        assert torch.equal(again.work.feedback.tensors[name], tensor), name
    for name, tensor in again.follower.state.params.items():
        assert torch.equal(tensor, first[name]), f"{name}: theta of the last whole save"
    miner.keeper.save_rest()
    last = Miner(made.context(hotkey_of("m0"), tmp_path))
    for name, tensor in last.follower.state.params.items():
        assert torch.equal(tensor, older[name]), name


@pytest.mark.parametrize(("blocks", "begins"), [(None, True), (5, False), (24, True)])
def test_only_a_machine_without_time_to_spare_begins_before_the_window(
    blocks: int | None, begins: bool, tmp_path
) -> None:
    """Blocks of the last full inner loop; with time to spare, a later start is a newer one."""
    made = open_world(BesideWorld, neurons_of(STAKES_TAO), small_run(STAKES_TAO, **LONG))
    work = Miner(made.context(hotkey_of("m0"), tmp_path)).work
    assert isinstance(work, HonestWork)
    work.inner_loop_blocks = blocks
    first = made.spec.schedule.schedule().first_block(1)
    made.time.block = first - 3
    assert work.can_begin(1) == begins
    made.time.block = first
    assert work.can_begin(1)
    assert not work.can_begin(3), "two windows behind"
