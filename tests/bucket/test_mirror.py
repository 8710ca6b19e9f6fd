"""A validator's copies of shards: bounded, a share of its own, at the keys of a mirror."""

from dataclasses import replace

import pytest

from template.bucket import mirror as mirror_module
from template.bucket.mirror import MAX_COPIED_BYTES, ShardMirror, copied_shards
from template.data.manifest import Shard
from template.data.pages import PageReader
from template.data.source import LocalSource
from template.errors import NotFound, Unavailable
from template.protocol.keys import blob_key, shard_key
from template.store.types import Source
from tests.support.datasets import make_dataset

DATASET = make_dataset((4, 4, 2))
MANIFEST = DATASET.manifest


class Bucket:
    """Counts puts; refuses while `error` is set."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.num_puts = 0
        self.error: Exception | None = None

    def put(self, key: str, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.num_puts += 1
        self.objects[key] = data

    def put_source(self, key: str, source: Source) -> None:
        self.put(key, source.read(0, source.num_bytes))

    def size(self, key: str) -> int:
        if key not in self.objects:
            raise NotFound(key)
        return len(self.objects[key])


class Context:
    hotkey = "validator"

    def __init__(self) -> None:
        self.bucket = Bucket()


def _mirror(context: Context) -> ShardMirror:
    reader = PageReader(MANIFEST, LocalSource(DATASET))
    return ShardMirror(context, MANIFEST, reader)  # type: ignore[arg-type]


def test_every_shard_comes_under_the_keys_of_a_mirror_and_once() -> None:
    context = Context()
    assert _mirror(context).push(lambda: False)
    expected = {shard_key(bytes.fromhex(s)): data for s, data in DATASET.shards.items()}
    expected |= {blob_key(bytes.fromhex(s)): data for s, data in DATASET.lists.items()}
    assert context.bucket.objects == expected
    puts = context.bucket.num_puts
    assert _mirror(context).push(lambda: False), "after a restart"
    assert context.bucket.num_puts == puts == 8


def test_a_push_stops_after_a_shard_and_goes_on_later() -> None:
    context = Context()
    mirror = _mirror(context)
    for number in (1, 2, 3):
        assert not mirror.push(lambda: True)
        assert context.bucket.num_puts == 2 * number
    assert mirror.push(lambda: True)
    assert shard_key(bytes.fromhex(MANIFEST.held_out.sha256)) == next(iter(context.bucket.objects))


def test_a_failure_waits_behind_the_others_and_is_warned_about_once(caplog) -> None:
    context = Context()
    mirror = _mirror(context)
    context.bucket.error = Unavailable("away")
    assert not mirror.push(lambda: False)
    assert not mirror.push(lambda: False)
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    context.bucket.error = None
    assert mirror.push(lambda: False)
    assert len(context.bucket.objects) == 8


def test_the_copies_are_bounded_and_differ_between_validators() -> None:
    shards = tuple(Shard(sha256=f"{n:064x}", num_segments=4) for n in range(1, 101))
    manifest = replace(MANIFEST, shards=shards)
    bound = 10 * manifest.shard_bytes(shards[0]) + manifest.shard_bytes(manifest.held_out)
    chosen = {hotkey: copied_shards(manifest, hotkey, bound) for hotkey in ("a", "b", "c")}
    for indices in chosen.values():
        assert indices[0] == len(shards), "the held-out shard first"
        assert len(indices) == len(set(indices)) == 11
    assert len({index for indices in chosen.values() for index in indices}) > 22
    assert sorted(copied_shards(manifest, "a")) == list(range(101))


@pytest.mark.parametrize(("segments", "is_copied"), [(64, True), (65, False)])
def test_a_long_shard_is_left_to_the_mirrors(segments: int, is_copied: bool) -> None:
    long = Shard(sha256="ee" * 32, num_segments=segments)
    manifest = replace(MANIFEST, shards=(long,), page_tokens=2**13, segment_pages=64)
    assert manifest.segment_bytes * 64 == MAX_COPIED_BYTES
    assert (0 in copied_shards(manifest, "a")) == is_copied
    assert mirror_module.MIRROR_BYTES > MAX_COPIED_BYTES
