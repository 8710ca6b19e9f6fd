"""Peers' buckets: who is asked, in which order, and what a lying bucket achieves."""

import hashlib
import threading
import time
from dataclasses import fields, replace
from itertools import pairwise

import pytest

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.commands.reading import bucket_opener
from template.context import NodeContext
from template.errors import (
    AskedTooLate,
    NodeTrouble,
    NotFound,
    RecordError,
    StoreError,
    SubnetError,
    TooLarge,
    Unavailable,
)
from template.peers.client import Peers
from template.protocol.keys import blob_key, payload_key
from template.protocol.payload import PayloadFormat
from template.protocol.record import Access, AccessKind, Record, encode_record
from template.protocol.root import Member
from template.store.memory import MemoryStore
from template.store.types import Take
from tests.support.descriptors import no_descriptor_left
from tests.support.raw_server import RawServer, body_of
from tests.support.silent import Silent
from tests.support.waiting import HANG_S, wait_until

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
        peers.bucket(MINER)
        peers.bucket(MINER)
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


def test_who_asks_late_holds_no_silence_against_a_bucket(world, peers, member, caplog) -> None:
    world.buckets[FIRST] = silent = Silent()
    other = replace(member, uid=1, hotkey=FIRST)
    found = peers.fetch_payloads([other, member], 5, lambda: True, is_late=lambda: True)
    silent.released.set()
    assert isinstance(found[1], AskedTooLate)
    assert isinstance(found[member.uid], NotFound), "an answer counts, however late the question"
    assert not any("ulimit" in line for line in caplog.messages)


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


class Powerless(MemoryStore):
    """A bucket that this node cannot ask until `is_mended`; counts the tries."""

    def __init__(self) -> None:
        super().__init__()
        self.num_tries = 0
        self.tried = threading.Event()
        self.is_mended = False

    def reader(self) -> "Powerless":
        return self

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self.num_tries += 1
        self.tried.set()
        if not self.is_mended:
            raise NodeTrouble("this node could not ask (EMFILE)")
        return super().get(key, max_bytes=max_bytes)


@pytest.fixture
def hasty(world, tmp_path) -> Peers:
    """Peers that do not wait for their node."""
    peers = Peers(world.context(hotkey_of("m1"), tmp_path), node_patience_s=0.0)
    peers.refresh()
    return peers


@pytest.fixture
def powerless(world) -> Powerless:
    world.buckets[MINER] = Powerless()
    return world.buckets[MINER]


def fetched(peers: Peers, member: Member) -> bytes | SubnetError:
    return peers.fetch_payloads([member], 5, lambda: False)[member.uid]


def test_trouble_of_the_node_is_told_once_until_it_is_over(
    world, hasty, member, powerless, caplog
) -> None:
    def num_told() -> int:
        return sum("this node itself" in record.message for record in caplog.records)

    for _ in range(3):
        assert isinstance(fetched(hasty, member), NodeTrouble)
    assert num_told() == 1
    powerless.put(_key(world, member), FRAME)
    powerless.is_mended = True
    assert fetched(hasty, member) == FRAME
    powerless.is_mended = False
    assert isinstance(fetched(hasty, member), NodeTrouble)
    assert num_told() == 2
    assert all(record.levelname == "ERROR" for record in caplog.records)


def test_a_request_waits_for_its_node(world, peers, member, powerless) -> None:
    powerless.put(_key(world, member), FRAME)

    def mend() -> None:
        powerless.tried.wait(HANG_S)
        powerless.is_mended = True

    mending = threading.Thread(target=mend)
    mending.start()
    assert peers.bucket(MINER).get(_key(world, member), max_bytes=99) == FRAME
    assert powerless.num_tries >= 2


def test_who_waits_for_the_node_is_not_called_unavailable(peers, member, powerless) -> None:
    """The time is up while the node still cannot ask."""
    found = peers.fetch_payloads([member], 5, lambda: powerless.tried.wait(HANG_S))
    powerless.is_mended = True
    assert isinstance(found[member.uid], NodeTrouble)


def test_past_trouble_excuses_no_silent_bucket(world, hasty, member, powerless) -> None:
    assert isinstance(fetched(hasty, member), NodeTrouble)
    world.buckets[MINER] = silent = Silent()
    peers = hasty
    rotated = replace(world.access(MINER), access_key_id="new")
    world.chain(MINER).publish(encode_record(Record(access=rotated)))
    world.time.block += 10
    peers.refresh()
    found = peers.fetch_payloads([member], 5, lambda: True)[member.uid]
    silent.released.set()
    assert isinstance(found, Unavailable)
    assert not isinstance(found, NodeTrouble)


def test_a_named_payload_that_the_node_could_not_ask_for_is_not_missing(
    world, hasty, member, powerless
) -> None:
    key = _key(world, member)
    with pytest.raises(NodeTrouble):
        hasty.fetch_named_payload(member, 5, (FIRST, SECOND))
    found = hasty.fetch_named_payloads({member: (FIRST,)}, 5)
    assert isinstance(found[member.uid], NodeTrouble)
    world.buckets[SECOND].put(key, FRAME)
    assert hasty.fetch_named_payload(member, 5, (FIRST, SECOND)) == FRAME
    assert hasty.fetch_named_payloads({member: (SECOND,)}, 5) == {member.uid: FRAME}


def test_the_wait_for_silent_holders_grows_to_a_bound(tmp_path, member) -> None:
    """Many silent holders are a slow network of this node, and more requests do not help."""
    asked_s: list[float] = []
    is_over = threading.Event()
    names = [f"silent-{number}" for number in range(8)]
    world = build_world({"m0": 0, "m1": 0, **dict.fromkeys(names, 100)})

    class Asked(MemoryStore):
        def get(self, key: str, *, max_bytes: int) -> bytes:
            asked_s.append(time.monotonic())
            is_over.wait(HANG_S)
            raise Unavailable("no answer")

    for hotkey in (MINER, *map(hotkey_of, names)):
        world.chain(hotkey).publish(encode_record(Record(access=world.access(hotkey))))
    world.time.block += 10
    context = replace(world.context(hotkey_of("m1"), tmp_path), open_bucket=lambda *_: Asked())
    peers = Peers(context, hedge_s=0.02)
    peers.refresh()
    assert context.form_at(5).num_bytes > 0, "made once, and not within the first wait"

    def release() -> None:
        wait_until(lambda: len(asked_s) == 1 + len(names))
        is_over.set()

    ender = threading.Thread(target=release)
    ender.start()
    assert peers.fetch_named_payload(member, 5, list(map(hotkey_of, names))) is None
    ender.join()
    gaps = [later - earlier for earlier, later in pairwise(asked_s)]
    least = [0.02, 0.04, *[0.08] * 6]
    assert all(gap > 0.8 * bound for gap, bound in zip(gaps, least, strict=True)), gaps
    assert sum(gaps) < 0.02 * 2**8, "bounded, or the last one alone would take so long"


def test_a_blob_that_the_node_could_not_ask_for_troubles_no_bucket(hasty, powerless) -> None:
    with pytest.raises(NodeTrouble):
        hasty.fetch_blob((MINER, FIRST), bytes(32), max_bytes=10)
    assert not hasty.is_troubled(MINER)


def test_a_thread_that_cannot_start_is_the_nodes_trouble(world, hasty, member, monkeypatch) -> None:
    world.buckets[MINER].put(_key(world, member), FRAME)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert isinstance(fetched(hasty, member), NodeTrouble)
        found = hasty.fetch_named_payloads({member: (FIRST, SECOND)}, 5)
        assert isinstance(found[member.uid], NodeTrouble)
        with pytest.raises(NodeTrouble):
            hasty.fetch_named_payload(member, 5, (FIRST, SECOND))
    assert fetched(hasty, member) == FRAME


def test_a_node_without_descriptors_frees_its_idle_connections(world, tmp_path, member) -> None:
    """Real sockets: the connections kept to other peers are closed, and the request succeeds."""
    server = RawServer(body_of(FRAME))
    opener = bucket_opener(on_localnet=True)
    access = Access(
        kind=AccessKind.S3, account=server.url, access_key_id="k", secret_access_key="s"
    )
    context = replace(
        world.context(hotkey_of("m1"), tmp_path), open_bucket=lambda peer, _: opener(peer, access)
    )
    peers = Peers(context, node_patience_s=0.0)
    peers.refresh()
    first, second = (replace(member, uid=uid, hotkey=h) for uid, h in ((1, FIRST), (2, SECOND)))
    assert fetched(peers, first) == FRAME
    with no_descriptor_left():
        assert isinstance(fetched(peers, second), NodeTrouble)
        # One descriptor of the idle connection is free now.
        assert fetched(peers, second) == FRAME
    server.close()


class Paced(MemoryStore):
    """Gives a piece of an object at each turn; without turns left, nothing. Counts what it gave."""

    def __init__(self, pieces: int, pause_s: float) -> None:
        super().__init__()
        self.num_pieces, self.pause_s = pieces, pause_s
        self.num_asked = self.num_given = 0
        self.released = threading.Event()

    def reader(self) -> "Paced":
        return self

    def stream(self, key: str, take: Take, *, start: int = 0, max_bytes: int) -> None:
        self.num_asked += 1
        data = self.get(key, max_bytes=max_bytes)
        step = max(1, len(data) // 20)
        for number, place in enumerate(range(start, len(data), step)):
            if number >= self.num_pieces:
                self.released.wait(HANG_S)
            time.sleep(self.pause_s)
            take(data[place : place + step])
            self.num_given += 1


LONG = bytes(4_000_000)


class _LongForm(PayloadFormat):
    """The format of payloads longer than those of the model."""

    @property
    def num_bytes(self) -> int:
        return len(LONG)


class _LongContext(NodeContext):
    """A node's context in a run with such payloads."""

    def form_at(self, window: int) -> PayloadFormat:
        form = super().form_at(window)
        return _LongForm(**{f.name: getattr(form, f.name) for f in fields(form) if f.init})


@pytest.fixture
def long_member(member, world) -> Member:
    return replace(member, digest=hashlib.sha256(LONG).digest())


@pytest.fixture
def patient(world, tmp_path) -> Peers:
    """Peers that ask the next holder after half a second of silence; payloads are longer."""
    context = world.context(hotkey_of("m1"), tmp_path)
    patient = _LongContext(**{f.name: getattr(context, f.name) for f in fields(context)})
    peers = Peers(patient, hedge_s=0.5)
    peers.refresh()
    return peers


def test_no_other_holder_is_asked_while_bytes_come(world, patient, long_member) -> None:
    """The whole takes twice the time of silence; the holder was asked again and again."""
    key = _key(world, long_member)
    world.buckets[MINER] = slow = Paced(20, 0.05)
    slow.put(key, LONG)
    world.buckets[FIRST] = other = Paced(20, 0.0)
    other.put(key, LONG)
    assert patient.fetch_named_payload(long_member, 5, (FIRST, SECOND)) == LONG
    assert (slow.num_asked, other.num_asked) == (1, 0)


@pytest.mark.parametrize("num_pieces", [0, 1, 7])
def test_a_holder_that_falls_silent_is_left_and_stopped(
    num_pieces, world, patient, long_member
) -> None:
    key = _key(world, long_member)
    world.buckets[MINER] = silent = Paced(num_pieces, 0.0)
    silent.put(key, LONG)
    world.buckets[FIRST] = other = Paced(20, 0.0)
    other.put(key, LONG)
    assert patient.fetch_named_payload(long_member, 5, (FIRST, SECOND)) == LONG
    assert other.num_asked == 1
    silent.released.set()
    wait_until(lambda: not any(t.name.startswith("holder") for t in threading.enumerate()))
    assert silent.num_given == num_pieces, "the rest is not downloaded any more"


def test_a_bucket_that_drips_counts_as_silent(world, patient, long_member) -> None:
    """A byte every now and then: fewer than any payload can need."""
    key = _key(world, long_member)

    class Dripping(Paced):
        def stream(self, key: str, take: Take, *, start: int = 0, max_bytes: int) -> None:
            while not self.released.wait(0.01):
                take(b"x")

    world.buckets[MINER] = dripping = Dripping(0, 0.0)
    world.buckets[FIRST].put(key, LONG)
    assert patient.fetch_named_payload(long_member, 5, (FIRST,)) == LONG
    dripping.released.set()


def test_a_holder_far_slower_than_others_were_is_not_waited_for(
    world, patient, long_member
) -> None:
    """Above the floor, but a large payload would take hours: the rate of what came counts."""
    key = _key(world, long_member)
    world.buckets[MINER] = slow = Paced(20, 0.1)
    slow.put(key, LONG)
    world.buckets[FIRST].put(key, LONG)
    patient._rates = (1e9,) * 3
    assert patient.fetch_named_payload(long_member, 5, (FIRST,)) == LONG
    assert slow.num_given < 20
