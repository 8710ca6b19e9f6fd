"""A validator publishes a manifest after the files, once, and again after a failed upload."""

import dataclasses
import hashlib
import logging
from collections import Counter
from collections.abc import Sequence

import pytest

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.bucket.publisher import MAX_WAITING_BLOBS, Publisher
from template.bucket.retention import PROOF_WINDOWS
from template.errors import Unavailable
from template.protocol.keys import blob_key, checkpoint_manifest_key
from template.protocol.record import LOG_DIGEST_BYTES, ROOT_BYTES, Record, Vote, encode_record
from template.store.memory import MemoryStore
from template.training.model import initial_params
from template.training.outer import OuterState, first_state, state_digest
from template.training.published import build_checkpoint

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
    run_id = context.spec.run_id
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
    assert manifests == [checkpoint_manifest_key(context.spec.run_id, w) for w in (8, 10)]
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


def test_a_dead_bucket_holds_no_more_than_so_many_blobs_in_memory(bucket, context) -> None:
    publisher = Publisher(context)
    datas = [b"shard %d" % number for number in range(MAX_WAITING_BLOBS + 1)]
    bucket.num_left = 0
    for data in datas:
        publisher.offer(hashlib.sha256(data).hexdigest(), data)
        publisher.push(_never)
    bucket.num_left = 10**6
    assert publisher.push(_never)
    assert len(bucket.written) == MAX_WAITING_BLOBS
    publisher.offer(hashlib.sha256(datas[0]).hexdigest(), datas[0])
    assert publisher.push(_never)
    assert len(bucket.written) == MAX_WAITING_BLOBS + 1
