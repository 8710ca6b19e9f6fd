"""A validator publishes a manifest after the files, once, and again after a failed upload."""

import dataclasses
import gc
import hashlib
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from compression import round_to_short
from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.bucket.publisher import Publisher, waiting_files
from template.bucket.retention import PROOF_WINDOWS, Sweeper
from template.errors import Unavailable
from template.peers.client import Peers
from template.protocol.keys import blob_key, checkpoint_manifest_key
from template.protocol.parts import PartSource
from template.protocol.record import LOG_DIGEST_BYTES, ROOT_BYTES, Record, Vote, encode_record
from template.store.memory import MemoryStore
from template.store.types import Source
from template.sync.bootstrap import Bootstrap
from template.sync.own_checkpoint import OwnCheckpoints
from template.training.checkpoint import LocalCheckpoint, save_local
from template.training.model import initial_params
from template.training.outer import OuterState, first_state, state_digest
from template.training.published import build_checkpoint
from template.training.theta0 import parse_index

DATA = b"a shard"
SHA256 = hashlib.sha256(DATA).hexdigest()
KEY = blob_key(bytes.fromhex(SHA256))


class Recording(MemoryStore):
    """A bucket that knows in which order it was written, and takes so many objects only."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []
        self.num_left = 10**6

    def put(self, key: str, data: bytes) -> None:
        if self.num_left == 0:
            raise Unavailable("the bucket is away")
        self.num_left -= 1
        self.written.append(key)
        super().put(key, data)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world({"owner": 0, "val-a": 1000}, checkpoint__part_bytes=2**13)


@pytest.fixture
def bucket() -> Recording:
    return Recording()


@pytest.fixture
def context(world, bucket, tmp_path):
    return dataclasses.replace(world.context(hotkey_of("val-a"), tmp_path), bucket=bucket)


@pytest.fixture(scope="module")
def start(world) -> OuterState:
    return first_state(initial_params(world.spec, seed=1), world.spec.run_id)


def _at(world, start: OuterState, window: int) -> OuterState:
    state = dataclasses.replace(start, window=window)
    return dataclasses.replace(state, checkpoint_digest=state_digest(state))


def _never() -> bool:
    return False


def test_the_manifest_comes_after_all_its_files(world, bucket, context, start) -> None:
    publisher = Publisher(context)
    publisher.offer_checkpoint(_at(world, start, 8))
    assert bucket.written == []
    assert publisher.push(_never)
    published = build_checkpoint(_at(world, start, 8), world.spec)
    assert len(published.blobs) > 4
    *files, last = bucket.written
    assert sorted(files) == sorted(map(blob_key, published.blobs))
    assert last == checkpoint_manifest_key(world.spec.run_id, 8)
    assert bucket.get(last, max_bytes=2**20) == published.manifest
    assert all(bucket.get(blob_key(d), max_bytes=2**20) == b for d, b in published.blobs.items())


def test_without_a_checkpoint_due_nothing_is_published(bucket, context, start) -> None:
    publisher = Publisher(context)
    publisher.offer_checkpoint(start)
    publisher.offer_missing_checkpoint(start)
    assert publisher.push(_never)
    assert bucket.written == []


def test_wherever_it_fails_the_next_call_goes_on(world, bucket, context, start, caplog) -> None:
    total = len(build_checkpoint(_at(world, start, 8), world.spec).blobs) + 1
    manifest_key = checkpoint_manifest_key(world.spec.run_id, 8)
    publisher = Publisher(context)
    publisher.offer_checkpoint(_at(world, start, 8))
    for num_sent in range(total):
        bucket.num_left = 0
        assert not publisher.push(_never)
        assert manifest_key not in bucket.written
        assert len(bucket.written) == num_sent
        bucket.num_left = 1
        assert publisher.push(_never) == (num_sent == total - 1)
    assert len(set(bucket.written)) == total
    assert bucket.written[-1] == manifest_key
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "the bucket is away" in warnings[0].getMessage()


def test_without_time_one_object_goes_out_at_each_call(world, bucket, context, start) -> None:
    publisher = Publisher(context)
    publisher.offer_checkpoint(_at(world, start, 8))
    publisher.offer(SHA256, DATA)
    total = len(build_checkpoint(_at(world, start, 8), world.spec).blobs) + 2
    for number in range(1, total + 1):
        assert publisher.push(lambda: True) == (number == total)
        assert len(bucket.written) == number
    assert bucket.written[-2:] == [checkpoint_manifest_key(world.spec.run_id, 8), KEY]


@pytest.mark.parametrize(
    ("num_sent", "newer", "is_last", "published"),
    [
        (0, 16, False, [16]),
        (2, 9, False, [8, 9]),
        (2, 12, False, [8, 12]),
        (2, 99, False, [99]),
        (2, 9, True, [9]),
    ],
    ids=["none out", "some out", "joiners start there", "no joiner starts there", "the last"],
)
def test_a_checkpoint_that_has_begun_goes_on_while_it_is_of_use(
    world, bucket, context, start, caplog, num_sent, newer, is_last, published
) -> None:
    """On a line slower than the cadence no checkpoint was ever complete."""
    publisher = Publisher(context)
    publisher.offer_checkpoint(_at(world, start, 8))
    bucket.num_left = num_sent
    assert not publisher.push(_never)
    bucket.num_left = 10**6
    publisher.offer_checkpoint(_at(world, start, newer), is_last=is_last)
    publisher.offer_checkpoint(_at(world, start, newer), is_last=is_last)
    assert publisher.push(_never)
    manifests = [key for key in bucket.written if key.endswith("manifest.json")]
    run_id = context.run.run_id
    assert manifests == [checkpoint_manifest_key(run_id, window) for window in published]
    told = [line for line in caplog.messages if "this checkpoint is dropped" in line]
    assert [line.split(":")[0] for line in told] == ([] if 8 in published else ["theta_8"])


def test_of_those_that_wait_the_newest_comes_next(world, bucket, context, start, caplog) -> None:
    publisher = Publisher(context)
    publisher.offer_checkpoint(_at(world, start, 8))
    bucket.num_left = 1
    assert not publisher.push(_never)
    bucket.num_left = 10**6
    for window in (9, 10, 10, 8):
        publisher.offer_checkpoint(_at(world, start, window))
    assert publisher.push(_never)
    manifests = [key for key in bucket.written if key.endswith("manifest.json")]
    assert manifests == [checkpoint_manifest_key(context.run.run_id, w) for w in (8, 10)]
    told = [line for line in caplog.messages if "this checkpoint is dropped" in line]
    assert [line.split(":")[0] for line in told] == ["theta_9"]


def _voting(world: World, names: Sequence[str], window: int) -> None:
    for name in names:
        vote = Vote(
            window=window,
            root=bytes(ROOT_BYTES),
            sample_digest=bytes(8),
            uids=frozenset(),
            missing=frozenset(),
            log_digest=bytes(LOG_DIGEST_BYTES),
            pace=0,
        )
        key = hotkey_of(name)
        record = Record.of(world.spec.run_id, access=world.access(key), vote=vote)
        world.chain(key).publish(encode_record(record))
    world.time.block += 10


def test_many_validators_share_a_checkpoint_and_three_hold_each_file(tmp_path, caplog) -> None:
    """Those without a permit or without a vote of late hold nothing, and are not counted on."""
    names = [f"val-{letter}" for letter in "abcdefgh"]
    stakes = {"owner": 0, **dict.fromkeys(names, 1000), "m0": 0}
    world = build_world(stakes, checkpoint__part_bytes=2**11)
    _voting(world, [*names[:6], "m0"], 8)
    _voting(world, names[6:7], 8 - PROOF_WINDOWS - 1)
    state = _at(world, first_state(initial_params(world.spec, seed=1), world.spec.run_id), 8)
    published = build_checkpoint(state, world.spec)
    assert len(published.blobs) >= 10
    held: Counter[str] = Counter()
    for name in names[:6]:
        bucket = Recording()
        context = world.context(hotkey_of(name), tmp_path / name)
        publisher = Publisher(dataclasses.replace(context, bucket=bucket))
        publisher.offer_checkpoint(state)
        assert publisher.push(_never)
        assert bucket.written[-1].endswith("manifest.json")
        assert len(bucket.written) - 1 < len(published.blobs)
        held.update(bucket.written[:-1])
    assert held == dict.fromkeys(map(blob_key, published.blobs), 3)
    alone = Recording()
    context = world.context(hotkey_of("val-h"), tmp_path / "h")
    publisher = Publisher(dataclasses.replace(context, bucket=alone))
    publisher.offer_checkpoint(state)
    assert publisher.push(_never)
    assert 0 < len(alone.written) - 1 < len(published.blobs), "who has yet to vote holds its share"


def test_after_a_restart_only_a_missing_checkpoint_is_published(
    world, bucket, context, start
) -> None:
    bucket.num_left = 2
    dying = Publisher(context)
    dying.offer_checkpoint(_at(world, start, 8))
    assert not dying.push(_never)
    bucket.num_left = 10**6
    for expected in (1, 0):
        bucket.written.clear()
        publisher = Publisher(context)
        publisher.offer_missing_checkpoint(_at(world, start, 8))
        assert publisher.push(_never)
        assert bucket.written.count(checkpoint_manifest_key(world.spec.run_id, 8)) == expected
        assert bool(bucket.written) == bool(expected)


def test_a_blob_is_put_once(bucket, context) -> None:
    publisher = Publisher(context)
    for _read in range(3):
        publisher.offer(SHA256, DATA)
        publisher.push(_never)
    assert bucket.written == [KEY]
    restarted = Publisher(context)
    restarted.offer(SHA256, DATA)
    assert restarted.push(_never)
    assert bucket.written == [KEY]
    bucket.put(KEY, DATA[:-1])
    damaged = Publisher(context)
    damaged.offer(SHA256, DATA)
    assert damaged.push(_never)
    assert bucket.get(KEY, max_bytes=100) == DATA


def _offer_files(publisher: Publisher, folder: Path, datas: Sequence[bytes]) -> None:
    """The caller removes its files, as a joiner does once it has a checkpoint of its own."""
    folder.mkdir()
    for number, data in enumerate(datas):
        path = folder / str(number)
        path.write_bytes(data)
        publisher.offer_file(hashlib.sha256(data).hexdigest(), path)
        path.unlink()
    folder.rmdir()


def test_every_part_of_a_large_theta0_is_served(bucket, context, tmp_path) -> None:
    """More than 64 parts were served in part, and nothing said so."""
    datas = [b"part %d" % number for number in range(300)]
    publisher = Publisher(context)
    bucket.num_left = 0
    _offer_files(publisher, tmp_path / "joining", datas)
    assert not publisher.push(_never)
    bucket.num_left = 100
    assert not publisher.push(_never)
    restarted = Publisher(context)
    bucket.num_left = 10**6
    assert restarted.push(_never)
    keys = [blob_key(hashlib.sha256(data).digest()) for data in datas]
    assert sorted(bucket.written) == sorted(keys), "each once"
    assert [bucket.get(key, max_bytes=100) for key in keys] == datas
    assert list(waiting_files(context.state_dir).digests()) == []


def test_a_part_that_is_there_already_is_not_sent_again(bucket, context, tmp_path) -> None:
    bucket.put(KEY, DATA)
    publisher = Publisher(context)
    _offer_files(publisher, tmp_path / "joining", [DATA, DATA])
    assert publisher.push(_never)
    _offer_files(publisher, tmp_path / "joining", [DATA])
    assert publisher.push(_never)
    assert bucket.written == [KEY]
    assert list(waiting_files(context.state_dir).digests()) == []


def test_a_damaged_part_is_not_served_and_said_to_be_dropped(
    bucket, context, tmp_path, caplog
) -> None:
    publisher = Publisher(context)
    _offer_files(publisher, tmp_path / "joining", [b"first", DATA, b"last"])
    kept = waiting_files(context.state_dir)
    kept.path(bytes.fromhex(SHA256)).write_bytes(DATA[::-1])
    kept.remove(hashlib.sha256(b"last").digest())
    assert publisher.push(_never)
    assert bucket.written == [blob_key(hashlib.sha256(b"first").digest())]
    assert [line for line in caplog.messages if SHA256 in line and "damaged" in line]
    assert kept.digests() == []


def test_a_part_offered_again_takes_the_place_of_a_damaged_one(bucket, context, tmp_path) -> None:
    """A process that was killed in mid-copy leaves a piece under the name of the whole."""
    kept = waiting_files(context.state_dir)
    kept.put(bytes.fromhex(SHA256), DATA[:-1])
    restarted = Publisher(context)
    _offer_files(restarted, tmp_path / "joining", [DATA])
    assert restarted.push(_never)
    assert bucket.written == [KEY]
    assert bucket.get(KEY, max_bytes=100) == DATA


def test_a_validator_serves_all_of_theta0_after_it_joined(world, bucket, context) -> None:
    """By then its downloads are gone, and a restart reads none of them again."""
    publisher, peers = Publisher(context), Peers(context)
    checkpoint = Bootstrap(context, peers).join(publisher)
    OwnCheckpoints(context).save(checkpoint)
    assert not list(context.state_dir.glob("joining/*"))
    publisher = Publisher(context)
    publisher.push(lambda: True)
    assert len(bucket.written) == 1
    restarted = Publisher(context)
    assert restarted.push(_never)
    index_key = blob_key(bytes.fromhex(world.spec.checkpoint.theta0_digest))
    parts = parse_index(bucket.get(index_key, max_bytes=2**20), world.spec)
    assert len(parts) > 4
    assert sorted(bucket.written) == sorted([index_key, *(blob_key(d) for d, _ in parts)])
    for digest, num_bytes in parts:
        assert bucket.size(blob_key(digest)) == num_bytes


class Sourced(Recording):
    """A bucket that knows what was read of each source at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: dict[str, Source] = {}

    def put_source(self, key: str, source: Source) -> None:
        self.sources[key] = source
        super().put_source(key, source)


def test_parts_go_up_from_where_the_tensors_lie(world, context, start) -> None:
    bucket = Sourced()
    publisher = Publisher(dataclasses.replace(context, bucket=bucket))
    state = _at(world, start, 8)
    publisher.offer_checkpoint(state)
    assert publisher.push(_never)
    published = build_checkpoint(state, world.spec)
    from_tensors = {key for key, s in bucket.sources.items() if isinstance(s, PartSource)}
    assert from_tensors == set(map(blob_key, published.parts))
    assert len(published.parts) > 4
    for digest, data in published.blobs.items():
        assert bucket.get(blob_key(digest), max_bytes=2**20) == data
        assert hashlib.sha256(data).digest() == digest


def test_a_checkpoint_read_from_its_anchor_keeps_no_tensor_in_memory(
    world, context, tmp_path
) -> None:
    """A state kept for hours while theta moves on would be a second theta."""
    bucket = Recording()
    publisher = Publisher(dataclasses.replace(context, bucket=bucket))
    state = _at(world, first_state(initial_params(world.spec, seed=1), world.spec.run_id), 8)
    published = build_checkpoint(state, world.spec)
    wanted = {digest: bytes(data) for digest, data in published.blobs.items()}
    anchor = tmp_path / "anchor.safetensors"
    save_local(anchor, LocalCheckpoint(state=state), world.spec.run_id)
    tensors = [weakref.ref(tensor) for tensor in state.params.values()]
    publisher.offer_checkpoint(state, anchor=anchor)
    bucket.num_left = 1
    assert not publisher.push(_never)
    del state, published
    gc.collect()
    assert all(tensor() is None for tensor in tensors)
    anchor.unlink()
    bucket.num_left = 10**6
    assert publisher.push(_never)
    assert bucket.written[-1] == checkpoint_manifest_key(world.spec.run_id, 8)
    assert all(bucket.get(blob_key(d), max_bytes=2**20) == data for d, data in wanted.items())


def test_what_is_offered_during_an_upload_is_not_lost(world, context, start) -> None:
    """The loop offers while another thread uploads."""

    class Meanwhile(Recording):
        offer: Callable[[], None] = staticmethod(lambda: None)

        def put(self, key: str, data: bytes) -> None:
            super().put(key, data)
            offer, self.offer = self.offer, lambda: None
            offer()

    bucket = Meanwhile()
    publisher = Publisher(dataclasses.replace(context, bucket=bucket))

    def offer() -> None:
        publisher.offer_checkpoint(_at(world, start, 16), is_last=True)
        publisher.offer(SHA256, DATA)

    bucket.offer = offer
    publisher.offer_checkpoint(_at(world, start, 8))
    assert publisher.push(_never)
    run_id = context.run.run_id
    assert checkpoint_manifest_key(run_id, 8) not in bucket.written, "the last takes its place"
    assert checkpoint_manifest_key(run_id, 16) in bucket.written
    assert bucket.written[-1] == KEY
    assert publisher.promised == frozenset()


def test_the_cleanup_spares_parts_whose_manifest_is_to_come(world, context, start) -> None:
    """A tensor that did not move is in the checkpoint that goes and in the one that comes."""
    bucket = Recording()
    context = dataclasses.replace(context, bucket=bucket)
    for window in (8, 24, 32):
        old = Publisher(context)
        old.offer_checkpoint(_at(world, start, window))
        assert old.push(_never)
    publisher = Publisher(context)
    moved = {name: tensor + 1 for name, tensor in start.params.items()}
    for tensor in moved.values():
        round_to_short(tensor)
    still = next(iter(moved))
    for window in (24, 32):
        key = checkpoint_manifest_key(world.spec.run_id, window)
        state = _at(world, dataclasses.replace(start, params=moved, known_digest=None), window)
        bucket.put(key, build_checkpoint(state, world.spec).manifest)
    moved = {**moved, still: start.params[still]}
    publisher.offer_checkpoint(
        _at(world, dataclasses.replace(start, params=moved, known_digest=None), 40)
    )
    total = len(build_checkpoint(_at(world, start, 8), world.spec).blobs)
    bucket.num_left = total
    assert not publisher.push(_never)
    sent = {blob_key(digest) for digest in publisher.promised}
    bucket.num_left = 10**6
    before = set(bucket.list("blob/"))
    Sweeper(context, promised=lambda: publisher.promised).sweep(100)
    gone = before - set(bucket.list("blob/"))
    assert gone
    assert not gone & sent
