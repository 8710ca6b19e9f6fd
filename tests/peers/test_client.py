"""Peers' buckets: who is asked, in which order, and what a lying bucket achieves."""

import hashlib
from dataclasses import replace

import pytest

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.errors import (
    NotFound,
    RecordError,
    StoreError,
    SubnetError,
    TooLarge,
    Unavailable,
)
from template.peers.client import Peers
from template.protocol.keys import blob_key, payload_key
from template.protocol.record import Access, AccessKind, Record, encode_record
from template.protocol.root import Member
from tests.support.silent import Silent

FRAME = b"a frame"
MINER, FIRST, SECOND = (hotkey_of(name) for name in ("m0", "val-a", "val-b"))


@pytest.fixture
def world() -> World:
    world = build_world({"owner": 0, "val-a": 1000, "val-b": 900, "m0": 0, "m1": 0})
    for name in ("val-a", "val-b", "m0"):
        key = hotkey_of(name)
        world.chain(key).publish(encode_record(Record(access=world.access(key))))
    world.time.block += 10
    return world


@pytest.fixture
def peers(world, tmp_path) -> Peers:
    peers = Peers(world.context(hotkey_of("m1"), tmp_path))
    peers.refresh()
    return peers


@pytest.fixture
def member() -> Member:
    digest = hashlib.sha256(FRAME).digest()
    return Member(uid=3, hotkey=MINER, public_key=bytes(32), coldkey=bytes(32), digest=digest)


def _key(world: World, member: Member) -> str:
    return payload_key(world.spec.run_id, 5, member.digest)


def test_a_hotkey_without_an_access_record_has_no_bucket(peers) -> None:
    with pytest.raises(RecordError, match="no access record on chain"):
        peers.bucket(hotkey_of("m1"))
    with pytest.raises(RecordError, match="no access record on chain"):
        peers.bucket(hotkey_of("stranger"))


def test_a_bucket_is_read_only_and_opened_once_per_access_record(world, tmp_path) -> None:
    opened = []

    def open_bucket(hotkey, access):
        opened.append((hotkey, access.access_key_id))
        return world.buckets[hotkey].reader()

    context = replace(world.context(hotkey_of("m1"), tmp_path), open_bucket=open_bucket)
    peers = Peers(context)
    for _ in range(2):
        peers.refresh()
        assert peers.bucket(MINER) is peers.bucket(MINER)
    rotated = Access(
        kind=AccessKind.S3, account="http://127.0.0.1:1", access_key_id="new", secret_access_key="s"
    )
    world.chain(MINER).publish(encode_record(Record(access=rotated)))
    world.time.block += 10
    assert opened == [(MINER, f"ro-{MINER[:6]}")]
    peers.refresh()
    peers.bucket(MINER)
    assert [key for _, key in opened] == [f"ro-{MINER[:6]}", "new"]


def test_a_payload_comes_from_its_miner_bounded_by_the_runs_size(world, peers, member) -> None:
    def fetch() -> bytes | SubnetError:
        return peers.fetch_payloads([member], 5, lambda: False)[member.uid]

    assert isinstance(fetch(), NotFound)
    world.buckets[MINER].put(_key(world, member), FRAME)
    assert fetch() == FRAME
    world.buckets[MINER].put(_key(world, member), bytes(2**20))
    assert isinstance(fetch(), TooLarge)
    stranger = replace(member, uid=9, hotkey=hotkey_of("nobody"))
    assert isinstance(peers.fetch_payloads([stranger], 5, lambda: False)[9], RecordError)


def test_a_bucket_that_never_answers_delays_no_other(world, peers, member) -> None:
    world.buckets[MINER].put(_key(world, member), FRAME)
    world.buckets[FIRST] = silent = Silent()
    other = replace(member, uid=1, hotkey=FIRST)
    asked = []

    def stop() -> bool:
        asked.append(1)
        return True

    found = peers.fetch_payloads([other, member], 5, stop)
    silent.released.set()
    assert found[member.uid] == FRAME
    assert isinstance(found[1], Unavailable)
    assert asked == [1]


@pytest.mark.parametrize("bad", [None, b"", b"A frame", bytes(2**20)])
def test_a_named_payload_falls_on_to_the_namers_in_order(bad, world, peers, member) -> None:
    key = _key(world, member)
    if bad is not None:
        world.buckets[MINER].put(key, bad)
    assert peers.fetch_named_payload(member, 5, (FIRST, SECOND)) is None
    world.buckets[SECOND].put(key, FRAME)
    assert peers.fetch_named_payload(member, 5, (FIRST, SECOND)) == FRAME
    assert peers.fetch_named_payload(member, 5, (FIRST,)) is None
    assert peers.fetch_named_payload(member, 5, (hotkey_of("stranger"), SECOND)) == FRAME


@pytest.mark.parametrize("bad", [None, b"", b"A blob", bytes(100)])
def test_a_blob_comes_from_the_first_bucket_that_has_it(bad, world, peers) -> None:
    data = b"a blob"
    digest = hashlib.sha256(data).digest()
    if bad is not None:
        world.buckets[FIRST].put(blob_key(digest), bad)
    buckets = (hotkey_of("stranger"), FIRST, SECOND)
    with pytest.raises(StoreError, match="no bucket has") as failure:
        peers.fetch_blob(buckets, digest, max_bytes=10)
    assert all(hotkey in str(failure.value) for hotkey in buckets)
    world.buckets[SECOND].put(blob_key(digest), data)
    assert peers.fetch_blob(buckets, digest, max_bytes=10) == data
    with pytest.raises(StoreError, match="more than 5"):
        peers.fetch_blob(buckets, digest, max_bytes=5)
