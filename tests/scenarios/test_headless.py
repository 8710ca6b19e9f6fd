"""A run whose owner is gone: validators hold all that a newcomer needs, and no more than is said.

The owner's bucket is emptied for good in mid-run; whoever joins after that ends where all are.
"""

import pytest

from simulation.swarm import (
    FOUR,
    STAKES_TAO,
    accepted,
    build_world,
    digests,
    honest,
    metrics,
    run,
    to_the_end,
    uid_of,
)
from simulation.world import World, hotkey_of
from template.base.miner import Miner
from template.base.supervisor import supervise
from template.base.validator import Validator
from template.bucket.budget import miner_storage, payload_windows, validator_storage
from template.data.manifest import parse_manifest
from template.errors import Unavailable
from template.peers.client import Peers
from template.protocol.keys import blob_key, checkpoint_manifest_key, verdict_key
from template.store.memory import MemoryStore
from template.sync.dataset import open_pages
from template.training.model import payload_bytes
from template.training.published import checkpoint_limit_bytes, parse_published
from template.training.theta0 import index_length, parse_index, theta0_bytes

WINDOWS = 11
EVERY = 2
EMPTIED_IN = 3
JOINED_IN = 6
LATE = {"m2": 0, "val-c": 500}


class Emptier:
    """Stands for the owner: takes everything out of its bucket, and keeps it empty."""

    def __init__(self, context) -> None:
        self.context = context
        self.num_objects = 0

    def step(self) -> bool:
        schedule = self.context.schedule
        self.context.waiter.until_head(schedule.first_block(EMPTIED_IN))
        for key in self.context.bucket.list(""):
            self.context.bucket.delete(key)
            self.num_objects += 1
        return False


def _late(kind: type):
    def drive(_world, context) -> object:
        context.waiter.until_head(context.schedule.first_block(JOINED_IN) + 4)
        node = kind(context)
        node.started_at = node.follower.state.window
        supervise(node.step, max_failures=1)
        return node

    return drive


class Measured(MemoryStore):
    """A bucket that remembers the most that ever lay in it, by what it was for."""

    def __init__(self) -> None:
        super().__init__()
        self.peaks: dict[str, int] = {}

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        kind = key.split("/")[0 if key.startswith(("blob/", "shard/")) else 1]
        held = [k for k in self.list("") if kind in k.split("/")[:2]]
        self.peaks[kind] = max(self.peaks.get(kind, 0), sum(self.size(k) for k in held))


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> tuple[World, dict, bytes]:
    """The world, its nodes, and the dataset's manifest as the owner published it."""
    world = build_world(
        {**STAKES_TAO, **LATE},
        schedule__num_windows=WINDOWS,
        checkpoint__every_windows=EVERY,
        checkpoint__part_bytes=2**13,
    )
    digest = bytes.fromhex(world.spec.data.manifest_digest)
    manifest = world.buckets[hotkey_of("owner")].get(blob_key(digest), max_bytes=2**20)
    for name in (*FOUR, *LATE):
        world.buckets[hotkey_of(name)] = Measured()
    late = {"m2": _late(Miner), "val-c": _late(Validator)}
    drives = {**honest(*FOUR), **late, "owner": to_the_end(Emptier)}
    nodes = run(world, drives, tmp_path_factory.mktemp("headless"))
    return world, nodes, manifest


def test_newcomers_end_where_all_are_without_the_owner(story) -> None:
    world, nodes, _ = story
    assert nodes["owner"].num_objects >= 4
    assert world.buckets[hotkey_of("owner")].list("") == []
    followers = [name for name in nodes if name != "owner"]
    ((window, _, _),) = digests(nodes, *followers)
    assert window == WINDOWS + 1
    for name in LATE:
        assert nodes[name].started_at == JOINED_IN - EVERY, "the newest that votes prove"
        assert set(metrics(nodes[name]).series("differs_from_majority").values()) == {0}
    m2 = uid_of(world, "m2")
    named = [w for w, uids in accepted(nodes["val-a"]).items() if m2 in uids]
    assert named, "the newcomer's payloads were never accepted"
    assert min(named) <= JOINED_IN + 3, "its first gains are a twentieth of the others'"


def test_a_validator_that_was_there_has_the_whole_run_for_others(story) -> None:
    world, _, manifest_data = story
    manifest, spec = parse_manifest(manifest_data), world.spec
    wanted = {spec.data.manifest_digest, spec.checkpoint.theta0_digest, manifest.held_out.sha256}
    wanted |= {shard.sha256 for shard in manifest.shards}
    for name in ("val-a", "val-b"):
        held = set(world.buckets[hotkey_of(name)].list("blob/"))
        assert {blob_key(bytes.fromhex(digest)) for digest in wanted} <= held
    assert world.buckets[hotkey_of("m0")].list("blob/") == []


def test_buckets_hold_the_last_checkpoints_whole_and_nothing_older(story) -> None:
    world, _nodes, manifest_data = story
    spec, run = world.spec, world.spec.run_id.hex()
    oldest, newest = WINDOWS - 3 - EVERY, WINDOWS + 1
    dataset = {shard.sha256 for shard in parse_manifest(manifest_data).shards}
    dataset |= {parse_manifest(manifest_data).held_out.sha256}
    dataset |= {spec.data.manifest_digest, spec.checkpoint.theta0_digest}
    theta0 = blob_key(bytes.fromhex(spec.checkpoint.theta0_digest))
    index = world.buckets[hotkey_of("val-a")].get(theta0, max_bytes=index_length(spec))
    dataset |= {digest.hex() for digest, _ in parse_index(index, spec)}
    for name in ("val-a", "val-b", "val-c"):
        bucket = world.buckets[hotkey_of(name)]
        keys = [checkpoint_manifest_key(spec.run_id, w) for w in range(oldest, newest + 1, EVERY)]
        assert bucket.list(f"{run}/checkpoint/") == keys
        files = [parse_published(bucket.get(k, max_bytes=2**20), spec).files for k in keys]
        named = {f.digest.hex() for one in files for f in one}
        held = {key.removeprefix("blob/") for key in bucket.list("blob/")}
        assert named <= held
        assert held - named <= dataset
    assert set(_windows(world, "val-a", "payload")) == set(range(oldest - 1, WINDOWS))
    assert set(_windows(world, "m0", "payload")) <= set(range(oldest - 1, WINDOWS))
    assert set(_windows(world, "m0", "payload")) >= set(range(oldest - 1, WINDOWS - 1))
    logs = world.buckets[hotkey_of("val-a")].list(f"{run}/verdict/")
    assert logs == [verdict_key(spec.run_id, w) for w in range(WINDOWS)]


def _windows(world: World, name: str, kind: str) -> list[int]:
    keys = world.buckets[hotkey_of(name)].list(f"{world.spec.run_id.hex()}/{kind}/")
    return [int(key.split("/")[2]) for key in keys]


def test_what_a_bucket_ever_held_is_what_is_stated(story) -> None:
    """Payloads, theta_0 and shards to the byte; checkpoints to within the norms they carry."""
    world, nodes, manifest_data = story
    spec, manifest = world.spec, parse_manifest(manifest_data)
    stated = validator_storage(spec, manifest)
    assert stated == validator_storage(spec, manifest, hotkey_of("val-a"))
    named = sorted(len(uids) for uids in accepted(nodes["val-a"]).values())
    one = payload_bytes(spec)
    for name in ("val-a", "val-b"):
        peaks = world.buckets[hotkey_of(name)].peaks
        assert peaks["payload"] <= payload_windows(spec) * named[-1] * one
        assert peaks["payload"] >= (payload_windows(spec) - 1) * named[0] * one
        assert peaks["payload"] <= stated.payload_bytes
        held = peaks["blob"] + peaks["shard"] + peaks["checkpoint"]
        assert held <= stated.checkpoint_bytes + stated.dataset_bytes
    for name in ("m0", "m1"):
        peak = world.buckets[hotkey_of(name)].peaks["payload"]
        assert payload_windows(spec) * one <= peak <= miner_storage(spec).payload_bytes
    bucket = world.buckets[hotkey_of("val-a")]
    key = blob_key(bytes.fromhex(spec.checkpoint.theta0_digest))
    index = bucket.get(key, max_bytes=index_length(spec))
    parts = parse_index(index, spec)
    assert all(bucket.size(blob_key(digest)) == length for digest, length in parts)
    assert len(index) + sum(length for _, length in parts) == theta0_bytes(spec)
    (*_, newest) = bucket.list(f"{spec.run_id.hex()}/checkpoint/")
    files = parse_published(bucket.get(newest, max_bytes=2**20), spec).files
    tensors = sum(f.num_bytes for f in files)
    whole = tensors + bucket.size(newest)
    slack = checkpoint_limit_bytes(spec) - whole
    assert slack >= 0
    assert tensors <= checkpoint_limit_bytes(spec) - slack
    every = (*manifest.shards, manifest.held_out)
    shards = sum(manifest.shard_bytes(s) + s.list_bytes for s in every)
    assert stated.dataset_bytes == shards + len(manifest_data) + theta0_bytes(spec)
    assert stated.total_bytes == (
        stated.payload_bytes + stated.checkpoint_bytes + stated.dataset_bytes
    )


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 3])
def test_at_any_cadence_a_newcomer_finds_what_it_has_to_replay(every: int, tmp_path) -> None:
    """With a checkpoint in every window the newest two are never proven yet."""
    world = build_world(
        {**STAKES_TAO, "m2": 0}, schedule__num_windows=9, checkpoint__every_windows=every
    )
    nodes = run(world, {**honest(*FOUR), "m2": _late(Miner)}, tmp_path)
    assert len(digests(nodes)) == 1
    assert nodes["m2"].started_at == {1: JOINED_IN - 2, 3: 3}[every]
    m2 = uid_of(world, "m2")
    assert min(w for w, uids in accepted(nodes["val-a"]).items() if m2 in uids) <= JOINED_IN + 1


class Stubborn(MemoryStore):
    """A bucket that takes payloads and logs, and no blob, manifest or delete, until told."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = True
        self.num_refused = 0

    def _refuse(self, key: str) -> None:
        if self.is_away and ("checkpoint" in key or key.startswith("blob/")):
            self.num_refused += 1
            raise Unavailable("the bucket takes no checkpoint")

    def put(self, key: str, data: bytes) -> None:
        self._refuse(key)
        super().put(key, data)


def test_a_bucket_that_takes_no_checkpoint_costs_no_vote(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=6, checkpoint__every_windows=EVERY)
    bucket = world.buckets[hotkey_of("val-a")] = Stubborn()

    class Healing(Validator):
        def step(self) -> bool:
            bucket.is_away = self.follower.next_window < 5
            return super().step()

    nodes = run(world, {**honest(*FOUR), "val-a": to_the_end(Healing)}, tmp_path)
    assert len(digests(nodes)) == 1
    assert bucket.num_refused >= 4
    stakes = set(metrics(nodes["m0"]).series("voting_stake_rao").values())
    assert len(stakes) == 1, "the validator missed a vote"
    published = bucket.list(f"{world.spec.run_id.hex()}/checkpoint/")
    assert published == [checkpoint_manifest_key(world.spec.run_id, 6)]
    alone = world.context(hotkey_of("m1"), tmp_path / "alone")
    for name in ("owner", "val-b"):
        world.buckets[hotkey_of(name)] = MemoryStore()
    assert open_pages(alone, Peers(alone)).held_out_pages([0]).size
