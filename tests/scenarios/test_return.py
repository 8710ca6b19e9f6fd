"""Leaving and coming back: what was trained is not lost, and the way back costs little.

A miner away for a few windows downloads the payloads since. After a long absence, or without a
state folder, a miner downloads one published checkpoint and the payloads since. The payload of the
window of the return is measured like any other.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import torch

from evaluation.verdict import Verdict
from evaluation.verdict_log import WindowLog, decode_logs
from simulation.swarm import (
    TINY,
    Drive,
    accepted,
    build_world,
    digests,
    honest,
    run,
    uid_of,
)
from simulation.world import World, hotkey_of
from template.base.feedback import RETURNED_SHARE
from template.base.miner import Miner
from template.base.supervisor import supervise
from template.base.work import HonestWork
from template.chain.ballots import read_candidates
from template.context import NodeContext
from template.protocol.keys import payload_key
from template.protocol.payload import decode_payload
from template.protocol.record import PayloadCommitment, Record, encode_record
from template.protocol.root import tensors_digest
from template.store.memory import MemoryStore
from template.training.model import payload_format
from tests.support.decisions import decided

VALIDATORS = {"owner": 0, "val-a": 1000, "val-b": 900}
ONE, FIVE, BARE, STAYS = "m0", "m1", "m2", "m3"
M0 = hotkey_of("m0")
LEAVES, LONG = 3, 50
KEPT_BLOCKS = 256
"""Blocks whose state a chain endpoint keeps."""
EVERY = 2
"""Windows between published checkpoints."""
LEARNS: Mapping[str, object] = {
    **TINY,
    "training__inner_steps": 2,
    "training__batch_pages": 4,
    "training__warm_start_steps": 60,
    "evaluation__held_out_pages": 48,
    "outer__max_staleness": 12,
    "checkpoint__every_windows": EVERY,
}


@dataclass(kw_only=True)
class Reads:
    """Objects read from peers, until the first own payload."""

    keys: list[str] = field(default_factory=list)
    num_bytes: int = 0
    is_over: bool = False

    def note(self, key: str, data: bytes) -> bytes:
        if not self.is_over:
            self.keys.append(key)
            self.num_bytes += len(data)
        return data

    def of(self, kind: str) -> list[str]:
        """Keys of objects of the run of this kind."""
        return [key for key in self.keys if key.split("/")[1] == kind]

    def payload_windows(self) -> set[int]:
        return {int(key.split("/")[2]) for key in self.of("payload")}

    def of_peers(self, world: World, context: NodeContext) -> NodeContext:
        """The context with peers' buckets that count here."""
        return replace(context, open_bucket=lambda p, _a: Counting(world.buckets[p], self))


class Counting(MemoryStore):
    """A peer's bucket, read only, that notes reads."""

    def __init__(self, bucket: MemoryStore, reads: Reads) -> None:
        super().__init__()
        self._shelf, self._may_write, self._reads = bucket._shelf, False, reads

    def get(self, key: str, *, max_bytes: int) -> bytes:
        return self._reads.note(key, super().get(key, max_bytes=max_bytes))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._reads.note(key, super().get_range(key, start, length))


@dataclass(kw_only=True)
class Trip:
    """A miner's absence: killed after window LEAVES - 1, started in the first block of `returns`.

    `groups`: digests of error feedback and moments, before and after.
    """

    returns: int
    keeps_folder: bool = True
    reads: Reads = field(default_factory=Reads)
    groups: list[dict[str, bytes]] = field(default_factory=list)

    def drive(self, world: World, context: NodeContext) -> Miner:
        schedule = context.schedule
        node = Miner(context)
        supervise(
            lambda: node.step() and schedule.window_of(context.chain.head()) < LEAVES,
            max_failures=1,
        )
        self.groups.append(_groups(node))
        if not self.keeps_folder:
            rmtree(context.state_dir)
        context.waiter.until_head(schedule.first_block(self.returns))
        fresh = world.context(context.hotkey, context.state_dir)
        again = Miner(self.reads.of_peers(world, fresh))
        self.groups.append(_groups(again))
        made = again.work.make_payload

        def make_payload(window: int) -> Any:
            self.reads.is_over = True
            return made(window)

        setattr(again.work, "make_payload", make_payload)  # noqa: B010  watched from outside
        supervise(again.step, max_failures=1)
        return again


def _groups(node: Miner) -> dict[str, bytes]:
    return {group: tensors_digest(tensors) for group, tensors in node.work.groups().items()}


def _logs(node: Any) -> list[WindowLog]:
    return decode_logs((node.context.state_dir / "verdicts.jsonl").read_text())


def _verdicts(node: Any, name: str) -> dict[int, Verdict]:
    """Window -> the verdict on this miner's payload."""
    hotkey = hotkey_of(name)
    return {v.window: v for log in _logs(node) for v in log.verdicts if v.hotkey == hotkey}


def _swarm(
    trips: Mapping[str, Trip], stay: tuple[str, ...], folder: Path, num_windows: int
) -> tuple[World, dict[str, Any]]:
    stakes = {**VALIDATORS, **dict.fromkeys([*trips, *stay], 0)}
    world = build_world(stakes, **{**LEARNS, "schedule__num_windows": num_windows})
    world.ledger.kept_blocks = KEPT_BLOCKS
    drives: dict[str, Drive] = {name: trip.drive for name, trip in trips.items()}
    nodes = run(world, {**honest("val-a", "val-b", *stay), **drives}, folder)
    assert len(digests(nodes)) == 1
    return world, nodes


def _assert_measured_since(node: Any, name: str, trip: Trip, num_windows: int) -> None:
    """From the window of the return on, each window has a measured payload, some of them named."""
    found = _verdicts(node, name)
    since = [found[window] for window in range(trip.returns, num_windows)]
    assert all(verdict.measured for verdict in since), since
    assert any(verdict.named for verdict in since), since
    assert not {window for window in found if LEAVES <= window < trip.returns}


def test_away_for_one_and_for_five_windows(tmp_path) -> None:
    num_windows = 11
    trips = {
        ONE: Trip(returns=LEAVES + 1),
        FIVE: Trip(returns=LEAVES + 5),
        BARE: Trip(returns=LEAVES + 5, keeps_folder=False),
    }
    world, nodes = _swarm(trips, (STAYS,), tmp_path, num_windows)
    for name, trip in trips.items():
        _assert_measured_since(nodes["val-a"], name, trip, num_windows)
        # No payload is downloaded twice.
        assert max(Counter(trip.reads.of("payload")).values()) == 1
        # The payload of the window before the absence is decided meanwhile, and no longer pending.
        assert LEAVES - 1 in _verdicts(nodes["val-a"], name)
    for name in (ONE, FIVE):
        reads, returns = trips[name].reads, trips[name].returns
        before, after = trips[name].groups
        assert before == after, "error feedback and moments, bit for bit"
        assert reads.of("checkpoint") == reads.of("lineage") == []
        # Those that theta is made of; training reads the window before, to look ahead.
        assert reads.payload_windows() == set(range(LEAVES - 2, returns - 1))
    bare = trips[BARE].reads
    assert len(bare.of("checkpoint")) == 1
    assert min(bare.payload_windows()) >= trips[BARE].returns - 2 * EVERY
    # Pay goes on from the entries before, and nobody proves anything anew: a newcomer would need
    # `min_windows` payloads.
    paid = {log.window: log.shares for log in _logs(nodes["val-a"])}
    assert world.spec.weights.min_windows > 1
    assert paid[trips[FIVE].returns].get(uid_of(world, FIVE), 0.0) > 0.0


def test_half_of_all_leave_at_once_and_come_back(tmp_path) -> None:
    num_windows, returns = 9, LEAVES + 3
    trips = {f"m{i}": Trip(returns=returns) for i in range(3)}
    world, nodes = _swarm(trips, ("m3", "m4", "m5"), tmp_path, num_windows)
    stayed = {uid_of(world, name) for name in ("m3", "m4", "m5")}
    named = accepted(nodes["val-a"])
    assert list(named) == list(range(num_windows)), "no window without a decision"
    for window in range(LEAVES, returns):
        assert named[window], window
        assert named[window] <= stayed
    for name, trip in trips.items():
        _assert_measured_since(nodes["val-a"], name, trip, num_windows)


@pytest.mark.slow
def test_away_for_fifty_windows(tmp_path) -> None:
    """The folder's theta leads nowhere any more; moments and error feedback are kept."""
    num_windows = LEAVES + LONG + 6
    trips = {
        ONE: Trip(returns=LEAVES + LONG),
        BARE: Trip(returns=LEAVES + LONG, keeps_folder=False),
    }
    _, nodes = _swarm(trips, (STAYS, "m4"), tmp_path, num_windows)
    for name, trip in trips.items():
        _assert_measured_since(nodes["val-a"], name, trip, num_windows)
        assert len(trip.reads.of("checkpoint")) == 1
        # Payloads that buckets had deleted were asked for in vain, but for one window at most.
        late = {w for w in trip.reads.payload_windows() if w > LEAVES}
        assert min(late) >= trip.returns - 3 * EVERY
    before, after = trips[ONE].groups
    assert before == after


NAMES = {"owner": 0, "val-a": 1000, "m0": 0, "m1": 0}


def _at(world: World, block: int) -> None:
    world.time.block = block


def _made(world: World, folder: Path) -> Miner:
    """A miner in window 0 with a saved payload, not committed."""
    miner = Miner(world.context(M0, folder))
    _at(world, world.spec.schedule.schedule().first_block(0))
    miner.make_payload(0)
    return miner


def _is_up(world: World) -> bool:
    return bool(world.buckets[M0].list(f"{world.spec.run_id.hex()}/payload"))


def _reveal_until(world: World, miner: Miner, window: int) -> None:
    """The miner reveals what is due in each block until a window's payloads are final."""
    schedule = world.spec.schedule.schedule()
    last = schedule.commit_block(window) + world.ledger.finality_lag + 1
    for block in range(world.time.block, last + 1):
        _at(world, block)
        miner.reveal()


@pytest.mark.parametrize("restarts", [True, False], ids=["killed", "refused by the chain"])
@pytest.mark.parametrize("most", [16, 256], ids=["drawn", "all read"])
def test_a_payload_that_was_never_committed_stays_secret(
    most: int, restarts: bool, tmp_path
) -> None:
    """Validators never read it; a rival could, and send it as an own payload."""
    world = build_world(NAMES, **{**TINY, "evaluation__max_payloads": most})
    miner = _made(world, tmp_path)
    made = miner.pending.newest
    assert made is not None
    _at(world, world.spec.schedule.schedule().first_block(1))
    if restarts:
        miner = Miner(world.context(M0, tmp_path))
    _reveal_until(world, miner, 2)
    assert not _is_up(world)
    assert made.digest not in {
        member.digest for member in read_candidates(world.chain(M0), world.run, 0).values()
    }
    # By half the payload returns to error feedback.
    assert isinstance(miner.work, HonestWork)
    before = {name: t.clone() for name, t in miner.work.feedback.tensors.items()}
    miner.settle(decided(0))
    for name, sparse in decode_payload(made.frame, payload_format(world.spec)).tensors.items():
        sparse.add_to(before[name], coefficient=RETURNED_SHARE)
        assert torch.equal(before[name], miner.work.feedback.tensors[name])
    assert not _is_up(world)


def test_a_commitment_too_late_by_a_block_keeps_the_payload_secret(tmp_path) -> None:
    world = build_world(NAMES, **{**TINY, "evaluation__max_payloads": 256})
    miner = _made(world, tmp_path)
    _at(world, world.spec.schedule.schedule().commit_block(0))  # a write lands in the next block
    miner.commit(0)
    _reveal_until(world, miner, 2)
    assert not _is_up(world)


@pytest.mark.parametrize("restarts", [True, False])
def test_a_payload_committed_in_time_goes_up(restarts: bool, tmp_path) -> None:
    world = build_world(NAMES, **{**TINY, "evaluation__max_payloads": 256})
    miner = _made(world, tmp_path)
    miner.commit(0)
    _at(world, world.spec.schedule.schedule().first_block(1))
    if restarts:
        miner = Miner(world.context(M0, tmp_path))
    _reveal_until(world, miner, 0)
    made = miner.pending.newest
    assert made is not None
    assert payload_key(world.spec.run_id, 0, made.digest) in world.buckets[M0].list("")


@pytest.mark.parametrize("folder", ["of before", "lost", "whole"])
def test_no_page_list_is_claimed_twice_after_a_restart(folder: str, tmp_path) -> None:
    """A folder from before the last payload knows nothing of the list that the payload claims."""
    world = build_world(NAMES, **TINY)
    old, now = tmp_path / "old", tmp_path / "now"
    Miner(world.context(M0, now)).save()
    copytree(now, old)
    miner = _made(world, now)
    miner.commit(0)
    _at(world, world.time.block + 1)
    where = {"of before": old, "lost": tmp_path / "none", "whole": now}[folder]
    again = Miner(world.context(M0, where))
    assert again.work.next_window == 1


def test_another_runs_payload_claims_no_page_list_of_this_run(tmp_path) -> None:
    world = build_world(NAMES, **TINY)
    said = PayloadCommitment(window=7, digest=bytes(32))
    other = Record.of(bytes(16), access=world.access(M0), payload=said)
    world.chain(M0).publish(encode_record(other))
    _at(world, world.spec.schedule.schedule().first_block(0))
    assert Miner(world.context(M0, tmp_path)).work.next_window == 0
