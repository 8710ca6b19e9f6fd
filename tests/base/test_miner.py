"""A miner alone: what it knows again after a restart, and what it says on chain."""

import pytest
import torch

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.base.miner import Miner
from template.base.pending import PendingPayload
from template.base.work import HonestWork
from template.errors import StoreError
from template.protocol.keys import blob_key
from template.protocol.payload import PayloadHeader, decode_payload, encode_payload, payload_digest
from template.protocol.quorum import Decision
from template.protocol.record import decode_record
from template.protocol.root import Member
from template.protocol.ss58 import public_key

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
    dense = {name: torch.full(shape, 0.01) for name, shape in context.form.shapes.items()}
    return encode_payload(header, dense, context.form)[0]


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
    after = Miner(world.context(M0, tmp_path))
    assert list(after.pending) == list(before.pending)
    payload, newest = _said(world).payload, before.pending.newest
    assert newest is not None
    assert (payload.window, payload.digest) == (10, newest.digest)


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


def _decided(window: int, *digests: bytes) -> Decision:
    members = tuple(
        Member(uid=uid, hotkey=M0, public_key=public_key(M0), coldkey=bytes(32), digest=digest)
        for uid, digest in enumerate(digests)
    )
    return Decision(
        window=window,
        members=members,
        namers={},
        root=None,
        sample_digest=None,
        undelivered=(),
        dissenters=(),
        voting_stake_rao=1,
        reference_rao=1,
        no_op="",
    )


def test_what_was_not_accepted_goes_back_into_error_feedback(world, tmp_path) -> None:
    miner = Miner(world.context(M0, tmp_path))
    frames = {window: _frame(miner, window) for window in (3, 4, 5)}
    for window, frame in frames.items():
        _add(miner, window, frame)

    miner.settle(_decided(3, payload_digest(frames[3])))
    assert isinstance(miner.work, HonestWork)
    assert not any(residual.any() for residual in miner.work.feedback.tensors.values())
    miner.settle(_decided(4))
    sent = decode_payload(frames[4], miner.context.form).tensors
    for name, residual in miner.work.feedback.tensors.items():
        dense = torch.zeros(sent[name].shape)
        sent[name].add_to(dense, coefficient=1.0)
        assert torch.equal(residual, dense), name
        assert dense.any(), name
    assert [pending.window for pending in miner.pending] == [5]
    again = Miner(world.context(M0, tmp_path))
    assert isinstance(again.work, HonestWork)
    for name, residual in miner.work.feedback.tensors.items():
        assert torch.equal(again.work.feedback.tensors[name], residual), name


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
