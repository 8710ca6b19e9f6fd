"""Peers' buckets: who is asked, in which order, and what a lying bucket achieves."""

import hashlib
from dataclasses import replace
from threading import Event

import pytest

from template.base.ballots import read_records
from template.base.miner import Miner
from template.base.peers import Peers
from template.base.validator import Validator
from template.errors import (
    ConfigError,
    NotFound,
    StoreError,
    SubnetError,
    TooLarge,
    Unavailable,
)
from template.protocol.keys import blob_key, payload_key
from template.protocol.record import Access, AccessKind, Record, Vote, encode_record
from template.protocol.root import Member
from template.store.memory import MemoryStore
from tests.base.nodes import (
    FOUR,
    STAKES_TAO,
    accepted,
    digests,
    honest,
    run,
    to_the_end,
    uid_of,
)
from tests.fakes import World, hotkey_of
from tests.swarm import build_world

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
    return Member(uid=3, hotkey=MINER, public_key=bytes(32), digest=digest)


def _key(world: World, member: Member) -> str:
    return payload_key(world.spec.run_id, 5, member.digest)


def test_a_hotkey_without_an_access_record_has_no_bucket(peers) -> None:
    with pytest.raises(ConfigError, match="no access record on chain"):
        peers.bucket(hotkey_of("m1"))
    with pytest.raises(ConfigError, match="no access record on chain"):
        peers.bucket(hotkey_of("stranger"))


def test_a_bucket_is_read_only_and_opened_once_per_access_record(world, tmp_path) -> None:
    opened = []

    def open_bucket(hotkey, access):
        opened.append((hotkey, access.access_key_id))
        return world.buckets[hotkey].reader()

    context = world.context(hotkey_of("m1"), tmp_path)
    context = type(context)(
        **{f: getattr(context, f) for f in context.__slots__} | {"open_bucket": open_bucket}
    )
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
    assert isinstance(peers.fetch_payloads([stranger], 5, lambda: False)[9], ConfigError)


class Silent(MemoryStore):
    """A bucket that takes a request and never answers it."""

    def __init__(self) -> None:
        super().__init__()
        self.released = Event()

    def reader(self) -> "Silent":
        return self

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self.released.wait(30)
        raise NotFound(key)


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


def test_a_silent_bucket_costs_its_miner_the_window_and_nobody_else(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=3)
    world.buckets[hotkey_of("m1")] = silent = Silent()
    nodes = run(world, honest(*FOUR), tmp_path)
    silent.released.set()
    assert len(digests(nodes)) == 1
    named = accepted(nodes["val-a"])
    assert named == dict.fromkeys(range(3), {uid_of(world, "m0")})


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


class Copier(Miner):
    """Commits the digest that m0 committed, and serves junk under it."""

    def make_frame(self, header, accumulated):
        frame, sent = super().make_frame(header, accumulated)
        victim = hotkey_of("m0")
        for _ in range(6):
            record = read_records(self.context.chain, self.context.chain.head()).get(victim)
            if record and record.payload and record.payload.window == header.window:
                self.stolen[header.window] = record.payload.digest
                break
            self.context.waiter.pause()
        return frame, sent

    def _record(self) -> Record:
        record = super()._record()
        digest = self.stolen.get(record.payload.window) if record.payload else None
        if digest is None:
            return record
        key = payload_key(self.context.spec.run_id, record.payload.window, digest)
        self.context.bucket.put(key, b"junk")
        return replace(record, payload=replace(record.payload, digest=digest))

    @property
    def stolen(self) -> dict[int, bytes]:
        return self.__dict__.setdefault("_stolen", {})


def test_who_copies_a_digest_harms_neither_its_owner_nor_the_model(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=4)
    drives = {**honest(*FOUR), "m1": to_the_end(Copier)}
    nodes = run(world, drives, tmp_path)
    assert nodes["m1"].stolen, "no digest was copied: the test shows nothing"
    assert len(digests(nodes)) == 1
    m0, m1 = uid_of(world, "m0"), uid_of(world, "m1")
    named = accepted(nodes["val-a"])
    assert all(m0 in uids for uids in named.values())
    assert all(m1 not in named[window] for window in nodes["m1"].stolen)


class Nan(Miner):
    """Its loss is not finite in window 1."""

    def work(self, window: int) -> None:
        if window == 1:
            train = self._trainer.train

            def broken(*args):
                result = train(*args)
                return replace(
                    result,
                    pseudo_gradient={
                        name: delta * float("nan") for name, delta in result.pseudo_gradient.items()
                    },
                )

            self._trainer.train = broken
            super().work(window)
            self._trainer.train = train
        else:
            super().work(window)


def test_a_window_that_is_not_finite_is_dropped_and_the_next_one_counts(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=4)
    nodes = run(world, {**honest(*FOUR), "m1": to_the_end(Nan)}, tmp_path)
    m1 = uid_of(world, "m1")
    assert [m1 in uids for uids in accepted(nodes["val-a"]).values()] == [True, False, True, True]
    assert len(digests(nodes)) == 1


def test_a_vote_with_too_little_stake_ends_nobody(tmp_path) -> None:
    """In window 2 only a tiny validator votes, and on a root that nobody has."""
    world = build_world({**STAKES_TAO, "val-c": 1}, schedule__num_windows=4)

    class Late(Validator):
        def _too_late(self, window: int) -> bool:
            return window == 2 or super()._too_late(window)

    class Liar(Validator):
        def _vote(self, window: int) -> None:
            if window == 2:
                vote = Vote(window=2, root=bytes(16), sample_digest=bytes(8), uids=frozenset())
                record = Record(access=self.context.access, vote=vote)
                self.context.chain.publish(encode_record(record))
            else:
                super()._vote(window)

    drives = {name: to_the_end(Late) for name in ("val-a", "val-b")}
    nodes = run(world, {**honest(*FOUR), **drives, "val-c": to_the_end(Liar)}, tmp_path)
    assert len(digests(nodes)) == 1
    assert accepted(nodes["m0"])[2] == set()
    assert accepted(nodes["m0"])[3] != set()
