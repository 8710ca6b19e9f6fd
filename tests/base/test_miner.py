"""A miner alone: what it knows again after a restart, and what it says on chain."""

from dataclasses import replace

import pytest
import torch

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.base.miner import Miner
from template.base.pending import PendingPayload
from template.base.work import HonestWork
from template.errors import StoreError
from template.protocol.keys import blob_key, payload_key
from template.protocol.payload import PayloadHeader, decode_payload, encode_payload, payload_digest
from template.protocol.record import decode_record
from template.protocol.ss58 import public_key
from template.store.memory import MemoryStore
from tests.support.decisions import decided

M0 = hotkey_of("m0")


@pytest.fixture
def world() -> World:
    return build_world({"owner": 0, "val-a": 1000, "m0": 0})


def _said(world: World):
    world.time.block += 1
    return decode_record(world.chain(M0).commitments(world.time.block)[M0])


def _frame(miner: Miner, window: int) -> bytes:
    context = miner.context
    header = PayloadHeader(
        window=window, base_window=window, pages_consumed=1, public_key=public_key(M0)
    )
    dense = {name: torch.full(shape, 0.01) for name, shape in context.form_at(0).shapes.items()}
    return encode_payload(header, dense, context.form_at(0))[0]


def _add(miner: Miner, window: int, frame: bytes) -> None:
    miner.pending.add(PendingPayload(window=window, frame=frame))


def test_it_says_first_where_its_bucket_is(world, tmp_path) -> None:
    Miner(world.context(M0, tmp_path))
    record = _said(world)
    assert record.access == world.access(M0)
    assert (record.payload, record.vote) == (None, None)


def test_a_restart_says_again_what_was_committed_last(world, tmp_path) -> None:
    """Windows 9 and 10: their names in a file are not in the order of their numbers."""
    before = Miner(world.context(M0, tmp_path))
    for window in (9, 10):
        _add(before, window, _frame(before, window))
    before.save()
    world.time.block = world.spec.schedule.schedule().first_block(10)
    after = Miner(world.context(M0, tmp_path))
    assert list(after.pending) == list(before.pending)
    payload, newest = _said(world).payload, before.pending.newest
    assert newest is not None
    assert (payload.window, payload.digest) == (10, newest.digest)


def test_a_restart_says_nothing_of_a_window_that_has_not_begun(world, tmp_path) -> None:
    """A fast miner ends the next window's training early, and the window's payload has to stand."""
    schedule = world.spec.schedule.schedule()
    before = Miner(world.context(M0, tmp_path))
    for window in (3, 4):
        _add(before, window, _frame(before, window))
    before.save()
    world.time.block = schedule.first_block(3)
    before.commit(3)
    after = Miner(world.context(M0, tmp_path))
    assert _said(world).payload.window == 3
    after.stop(2.0)
    uploaded = world.buckets[M0].list("")
    keys = [payload_key(world.spec.run_id, p.window, p.digest) for p in before.pending]
    assert [key in uploaded for key in keys] == [True, False], "others could still commit the last"
    world.time.block = schedule.first_block(4)
    Miner(world.context(M0, tmp_path))
    assert _said(world).payload.window == 4


def test_a_frame_without_bytes_can_be_saved(world, tmp_path) -> None:
    """No honest miner makes one, but the miner that misbehaves must not fall over it."""
    before = Miner(world.context(M0, tmp_path))
    _add(before, 5, b"")
    before.save()
    assert list(Miner(world.context(M0, tmp_path)).pending) == list(before.pending)


def test_theta_0_of_other_bytes_is_not_taken(world, tmp_path) -> None:
    digest = bytes.fromhex(world.spec.checkpoint.theta0_digest)
    world.buckets[hotkey_of("owner")].put(blob_key(digest), b"other bytes")
    with pytest.raises(StoreError, match="other bytes under this digest"):
        Miner(world.context(M0, tmp_path))


def test_half_of_what_was_not_accepted_goes_back_into_error_feedback(world, tmp_path) -> None:
    miner = Miner(world.context(M0, tmp_path))
    frames = {window: _frame(miner, window) for window in (3, 4, 5)}
    for window, frame in frames.items():
        _add(miner, window, frame)

    miner.settle(decided(3, payload_digest(frames[3])))
    assert isinstance(miner.work, HonestWork)
    assert not any(residual.any() for residual in miner.work.feedback.tensors.values())
    miner.settle(decided(4))
    sent = decode_payload(frames[4], miner.context.form_at(0)).tensors
    for name, residual in miner.work.feedback.tensors.items():
        dense = torch.zeros(sent[name].shape)
        sent[name].add_to(dense, coefficient=0.5)
        assert torch.equal(residual, dense), name
        assert dense.any(), name
    assert [pending.window for pending in miner.pending] == [5]
    again = Miner(world.context(M0, tmp_path))
    assert isinstance(again.work, HonestWork)
    for name, residual in miner.work.feedback.tensors.items():
        assert torch.equal(again.work.feedback.tensors[name], residual), name


def test_after_a_jump_nothing_comes_back_that_may_have_been_applied(world, tmp_path) -> None:
    miner = Miner(world.context(M0, tmp_path))
    for window in (3, 4, 6):
        _add(miner, window, _frame(miner, window))
    miner.settle(replace(decided(5), is_jump=True))
    assert isinstance(miner.work, HonestWork)
    assert not any(residual.any() for residual in miner.work.feedback.tensors.values())
    assert [pending.window for pending in miner.pending] == [6]


def test_own_payloads_under_way_are_those_of_earlier_windows_that_can_be_read(
    world, tmp_path
) -> None:
    miner = Miner(world.context(M0, tmp_path))
    good = {window: _frame(miner, window) for window in (3, 4)}
    for window, frame in {2: b"spoilt", **good}.items():
        _add(miner, window, frame)
    assert isinstance(miner.work, HonestWork)
    assert [payload.header.window for payload in miner.work.payloads_under_way(4)] == [3]
    assert [payload.header.window for payload in miner.work.payloads_under_way(5)] == [3, 4]
    assert miner.work.payloads_under_way(2) == []


def _commit_saved(miner: Miner, world: World) -> None:
    """Save, and commit in window 0."""
    miner.save()
    world.time.block = world.spec.schedule.schedule().first_block(0)
    miner.commit(0)


def test_a_withheld_payload_survives_a_restart_and_goes_up_once(world, tmp_path) -> None:
    """Too late for the validators of its window; the decision drops it from the pending ones."""
    schedule, lag = world.spec.schedule.schedule(), world.spec.schedule.finality_lag_blocks
    puts: list[str] = []

    class Counting(MemoryStore):
        def put(self, at: str, data: bytes) -> None:
            puts.append(at)
            super().put(at, data)

    world.buckets[M0] = Counting()
    miner = Miner(world.context(M0, tmp_path))
    frame = _frame(miner, 0)
    _add(miner, 0, frame)
    _commit_saved(miner, world)
    key = payload_key(world.spec.run_id, 0, payload_digest(frame))
    world.time.block = schedule.vote_block(0)
    for _ in range(2):
        miner.reveal()
    assert puts.count(key) == 0
    miner.pending.settle(0, set())
    miner.save()
    after = Miner(world.context(M0, tmp_path))
    world.time.block = schedule.commit_block(1) + lag - 1
    after.reveal()
    assert puts.count(key) == 0, "it could still be sent by others"
    world.time.block += 1
    for _ in range(3):
        after.reveal()
    assert puts.count(key) == 1


def test_what_was_uploaded_before_a_restart_is_not_called_too_late(world, tmp_path, caplog) -> None:
    """The uploads are forgotten with the process, and the bucket still has them."""
    caplog.set_level("INFO")
    miner = Miner(world.context(M0, tmp_path))
    frame = _frame(miner, 0)
    _add(miner, 0, frame)
    _commit_saved(miner, world)
    world.buckets[M0].put(payload_key(world.spec.run_id, 0, payload_digest(frame)), frame)
    after = Miner(world.context(M0, tmp_path))
    world.time.block = world.spec.schedule.schedule().vote_block(0)
    after.reveal()
    assert not any("stays secret" in line for line in caplog.messages)
    assert after.pending.unrevealed(lambda _window: True) == []


@pytest.mark.parametrize(
    ("recent", "steps", "claimed"),
    [
        ((), 6, 24),
        ((), 5, 20),
        ((6,), 5, 20),
        ((32, 32), 6, 24),
        ((32, 32), 5, None),
        ((32, 3), 5, 20),
    ],
    ids=["new", "new and late", "small blocks", "one block", "no whole block", "slow lately"],
)
def test_a_miner_that_must_stop_claims_whole_blocks(
    world, tmp_path, monkeypatch, recent, steps, claimed
) -> None:
    """6 steps of 4 pages a window. Without a whole block the work stays in error feedback."""
    miner = Miner(world.context(M0, tmp_path))
    world.time.block = world.spec.schedule.schedule().first_block(0)
    work, checks = miner.work, iter(range(100))
    assert isinstance(work, HonestWork)
    work.recent_steps = list(recent)
    monkeypatch.setattr(work, "is_late", lambda _window: next(checks) >= steps)
    made = work.make_payload(0)
    kept = any(tensor.any() for tensor in work.feedback.tensors.values())
    assert kept
    assert work.recent_steps[-1] == steps
    if claimed is None:
        assert made is None
    else:
        assert made is not None
        payload = decode_payload(made.payload.frame, miner.context.form_at(0))
        assert payload.header.pages_consumed == claimed
