"""What a bucket may forget: never what a replay from the older of the last two checkpoints needs,
never what is not this run's.
"""

import dataclasses
import hashlib
import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.bucket.retention import Sweeper, expired, oldest_start
from template.errors import Denied, Unavailable
from template.protocol.keys import (
    blob_key,
    checkpoint_manifest_key,
    dropped_manifest_key,
    model_key,
    payload_key,
    verdict_key,
)
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.scoring.rules import pay_rules
from template.store.memory import MemoryStore
from template.training.theta0 import index_length

ZERO = bytes(32)


@pytest.fixture(scope="module")
def world() -> World:
    """A checkpoint every 4 windows; pay looks 8 windows back."""
    return build_world(
        {"owner": 0, "val-a": 1000},
        checkpoint__every_windows=4,
        evaluation__work_windows=8,
        weights__history_windows=8,
    )


@pytest.fixture(scope="module")
def spec(world: World) -> RunSpec:
    return world.spec


def _payloads(spec: RunSpec, windows) -> dict[int, str]:
    return {w: payload_key(spec.run_id, w, bytes([w % 256]) * 32) for w in windows}


def _lineage(spec: RunSpec, window: int) -> str:
    return f"{spec.run_id.hex()}/lineage/{window:08d}.json"


@pytest.mark.parametrize(
    ("window", "first_kept"),
    [(1, 0), (4, 0), (11, 0), (12, 3), (15, 3), (16, 7), (19, 7), (20, 11), (4004, 3995)],
)
def test_payloads_stay_until_the_second_checkpoint_with_them_in_is_proven(
    window: int, first_kept: int, spec: RunSpec
) -> None:
    """theta_8 is beyond doubt when theta_12 comes; theta_4 holds payloads of windows up to 2."""
    payloads = _payloads(spec, range(window))
    found = expired(payloads.values(), window, Run(spec))
    assert set(payloads.values()) - set(found.keys) == {
        key for w, key in payloads.items() if w >= first_kept
    }
    assert found.checkpoints == ()


def test_the_last_two_checkpoints_stay(spec: RunSpec) -> None:
    def gone(window: int, *published: int) -> tuple[int, ...]:
        keys = [checkpoint_manifest_key(spec.run_id, w) for w in published]
        return expired(keys, window, Run(spec)).checkpoints

    assert gone(8, 4, 8) == ()
    assert gone(15, 4, 8, 12) == ()
    assert gone(16, 4, 8, 12) == (4,)
    assert gone(19, 4, 8, 12, 16) == (4,)
    assert gone(20, 4, 8, 12, 16) == (4, 8)
    assert gone(400, 4) == gone(400, 4, 8) == ()
    assert gone(16, 12) == ()
    assert gone(5, 4, 8, 12) == ()


def test_a_checkpoint_that_is_not_out_yet_takes_nothing_away(spec: RunSpec) -> None:
    """At theta_20 only 4 and 8 lie in the bucket: a joiner here starts at 4."""
    published = [checkpoint_manifest_key(spec.run_id, w) for w in (4, 8)]
    payloads = _payloads(spec, range(20))
    found = expired([*published, *payloads.values()], 20, Run(spec))
    assert found.checkpoints == ()
    assert set(found.keys) == {payloads[w] for w in range(3)}


def test_verdict_logs_stay_as_long_as_pay_and_audits_look_back(spec: RunSpec) -> None:
    length = pay_rules(spec).length
    assert length == 8
    keys = {w: verdict_key(spec.run_id, w) for w in range(40)}
    found = expired(keys.values(), 44, Run(spec))
    first_audited = 36 - 1
    assert set(found.keys) == {keys[w] for w in range(first_audited - length)}


def test_a_shown_model_goes_with_the_checkpoint_of_its_window(spec: RunSpec) -> None:
    names = ("config.json", "model-00001-of-00002.safetensors", "README.md")
    models = {w: {model_key(spec.run_id, w, name) for name in names} for w in range(0, 44, 4)}
    manifests = [checkpoint_manifest_key(spec.run_id, w) for w in models]
    keys = [*manifests, *(key for files in models.values() for key in files)]
    found = expired(keys, 44, Run(spec))
    gone = {key for w in found.checkpoints for key in models[w]}
    assert gone
    assert set(found.keys) == gone


def test_only_what_is_plainly_this_runs_is_touched(spec: RunSpec) -> None:
    run, other = spec.run_id.hex(), "ab" * 16
    digest = "00" * 32
    strange = [
        f"{other}/payload/00000000/{digest}",
        f"{other}/verdict/00000000.jsonl",
        f"{other}/checkpoint/00000000/manifest.json",
        f"{run}/payload/00000000/{digest}.bak",
        f"{run}/payload/00000000/{digest[:-1]}",
        f"{run}/payload/0/{digest}",
        f"{run}/payload/000000000/{digest}",
        f"{run}/payload/-0000001/{digest}",
        f"{run}/payload/\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660/{digest}",
        f"{run}/payload/00000000",
        f"{run}/verdict/00000000.jsonl.gz",
        f"{run}/checkpoint/00000004/model.safetensors",
        f"{run}/model/00000000/mine/config.json",
        f"{run}/model/0/config.json",
        f"{other}/model/00000000/config.json",
        f"x{run}/payload/00000000/{digest}",
        f"{run}/notes.txt",
        blob_key(ZERO),
        "probe/1",
        *(_lineage(spec, w) for w in range(9)),
    ]
    assert expired(strange, 10**6, Run(spec)).keys == ()
    assert expired(strange, 10**6, Run(spec)).checkpoints == ()
    nine_digits = [payload_key(spec.run_id, 123456789, ZERO)]
    assert expired(nine_digits, 2 * 10**8, Run(spec)).keys == tuple(nine_digits)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_that_a_replay_needs_is_deleted(data, spec: RunSpec) -> None:
    every = data.draw(st.integers(1, 9), label="every_windows")
    spec = dataclasses.replace(
        spec, checkpoint=dataclasses.replace(spec.checkpoint, every_windows=every)
    )
    window = data.draw(st.integers(1, 36), label="window")
    due = list(range(every, window + 1, every))
    published = data.draw(st.sets(st.sampled_from(due) if due else st.nothing()), label="published")
    payloads, verdicts = _payloads(spec, range(38)), range(38)
    keys = [
        *payloads.values(),
        *(verdict_key(spec.run_id, w) for w in verdicts),
        *(_lineage(spec, w) for w in verdicts),
        *(checkpoint_manifest_key(spec.run_id, w) for w in published),
    ]
    found = expired(keys, window, Run(spec))
    # Whichever of the last two checkpoints of the run, or of this bucket, somebody starts from.
    proven = [w for w in due if w <= window - 4]
    beginning = [] if len(proven) > 1 else [1]
    for start in {*proven[-2:], *due[-2:], *sorted(published)[-2:], *beginning}:
        replayed = {payloads[w] for w in range(start - 1, 38)}
        assert replayed.isdisjoint(found.keys)
        history = {verdict_key(spec.run_id, w) for w in range(start - 1 - 8, 38) if w >= 0}
        assert history.isdisjoint(found.keys)
    assert set(sorted(published)[-2:]).isdisjoint(found.checkpoints)
    assert not any("/lineage/" in key for key in found.keys)
    # And it does forget: what is kept is bounded where nothing is late.
    if len(proven) > 1 and set(due[-2:]) <= published:
        kept = set(payloads.values()) - set(found.keys)
        assert len([w for w in range(window) if payloads[w] in kept]) <= 2 * every + 4
        assert found.checkpoints == tuple(w for w in sorted(published) if w < proven[-2])


@given(
    published=st.lists(st.integers(0, 100)),
    window=st.integers(0, 100),
    every=st.integers(1, 20),
)
def test_the_oldest_start_never_moves_back_as_time_goes_by(published, window, every, spec) -> None:
    spec = dataclasses.replace(
        spec, checkpoint=dataclasses.replace(spec.checkpoint, every_windows=every)
    )
    now, later = (oldest_start(published, w, Run(spec)) for w in (window, window + 1))
    assert now <= later <= max(0, window - 1 - every)


class Fragile(MemoryStore):
    """A bucket that fails each write from the n-th on."""

    def __init__(self) -> None:
        super().__init__()
        self.num_good: int | None = None
        self.error: Exception = Unavailable("away")

    def _tick(self) -> None:
        if self.num_good is not None:
            if self.num_good == 0:
                raise self.error
            self.num_good -= 1

    def put(self, key: str, data: bytes) -> None:
        self._tick()
        super().put(key, data)

    def delete(self, key: str) -> None:
        self._tick()
        super().delete(key)


def _blob(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _manifest(*names: str) -> bytes:
    files = [{"name": "x", "sha256": _blob(name).hex(), "bytes": 1} for name in names]
    return json.dumps({"files": files}).encode()


@pytest.fixture
def bucket(spec: RunSpec) -> Fragile:
    """Three checkpoints of this run and one of another, with files in common; theta_0's too."""
    bucket, run_id, other = Fragile(), spec.run_id, b"o" * 16
    bucket.put(
        checkpoint_manifest_key(run_id, 4),
        _manifest("a4", "b4", "config", "shared", "set", "theta_0"),
    )
    bucket.put(checkpoint_manifest_key(run_id, 8), _manifest("a8", "config"))
    bucket.put(checkpoint_manifest_key(run_id, 12), _manifest("a12", "config"))
    bucket.put(checkpoint_manifest_key(other, 4), _manifest("shared", "theirs"))
    for name in ("a4", "b4", "config", "shared", "set", "a8", "a12", "theirs", "loose", "theta_0"):
        bucket.put(blob_key(_blob(name)), b"x")
    index = _blob("theta_0") * (index_length(spec) // 32)
    bucket.put(blob_key(bytes.fromhex(spec.checkpoint.theta0_digest)), index)
    for key in _payloads(spec, range(12)).values():
        bucket.put(key, b"x")
    bucket.put(payload_key(other, 0, ZERO), b"x")
    bucket.put("readme.txt", b"x")
    return bucket


@pytest.fixture
def sweeper(world: World, bucket: Fragile, tmp_path) -> Sweeper:
    context = dataclasses.replace(world.context(hotkey_of("val-a"), tmp_path), bucket=bucket)
    return Sweeper(context, needed=[_blob("set")])


def _expected(bucket: MemoryStore, spec: RunSpec) -> set[str]:
    gone = {checkpoint_manifest_key(spec.run_id, 4), blob_key(_blob("a4")), blob_key(_blob("b4"))}
    return set(bucket.list("")) - gone - {_payloads(spec, [w])[w] for w in range(7)}


def test_a_sweep_leaves_what_is_kept_and_what_is_not_its_own(bucket, sweeper, spec) -> None:
    before = bucket.list("")
    sweeper.sweep(11)
    assert bucket.list("") == before
    expected = _expected(bucket, spec)
    sweeper.sweep(16)
    assert set(bucket.list("")) == expected


def test_a_sweep_is_done_once_for_each_checkpoint(bucket, sweeper, spec) -> None:
    sweeper.sweep(16)
    late = payload_key(spec.run_id, 0, ZERO)
    bucket.put(late, b"x")
    for window in (16, 17, 19):
        sweeper.sweep(window)
    assert late in bucket.list("")
    sweeper.sweep(20)
    assert late not in bucket.list("")


def test_whenever_it_breaks_off_another_process_finishes(bucket, world, spec, tmp_path) -> None:
    """A kill after any number of writes: nothing needed is gone, nothing else stays for ever."""
    expected = _expected(bucket, spec)
    objects = {key: bucket.get(key, max_bytes=2**20) for key in bucket.list("")}
    for num_good in range(30):
        broken = Fragile()
        for key, data in objects.items():
            broken.put(key, data)
        broken.num_good = num_good
        context = dataclasses.replace(world.context(hotkey_of("val-a"), tmp_path), bucket=broken)
        Sweeper(context, needed=[_blob("set")]).sweep(16)
        left = set(broken.list(""))
        assert expected <= left
        for key in left & objects.keys():
            if key.endswith("manifest.json"):
                names = [e["sha256"] for e in json.loads(objects[key])["files"]]
                assert all(blob_key(bytes.fromhex(name)) in left for name in names)
        broken.num_good = None
        Sweeper(context, needed=[_blob("set")]).sweep(16)
        assert set(broken.list("")) == expected
    assert num_good > len(objects) - len(expected) + 3


@pytest.mark.parametrize(
    ("error", "remedy"), [(Unavailable("away"), "away"), (Denied("no"), "let the write key delete")]
)
def test_a_failed_delete_is_told_once_and_tried_again(
    error, remedy, bucket, sweeper, spec, caplog
) -> None:
    expected = _expected(bucket, spec)
    bucket.num_good, bucket.error = 0, error
    with caplog.at_level(logging.WARNING):
        for window in (16, 17, 18):
            sweeper.sweep(window)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert remedy in record.getMessage()
    bucket.num_good = None
    sweeper.sweep(18)
    assert set(bucket.list("")) == expected


def test_a_sweep_without_time_removes_one_object_a_window(bucket, sweeper, spec) -> None:
    expected = _expected(bucket, spec)
    sizes = [len(bucket.list(""))]
    for _window in range(20):
        sweeper.sweep(16, stop=lambda: True)
        sizes.append(len(bucket.list("")))
    assert sizes[0] - sizes[1] == sizes[1] - sizes[2] == 1
    assert set(bucket.list("")) == expected


def test_a_manifest_that_cannot_be_read_keeps_every_blob(bucket, sweeper, spec, caplog) -> None:
    other = checkpoint_manifest_key(b"p" * 16, 4)
    bucket.put(other, b"not a manifest")
    sweeper.sweep(16)
    assert {blob_key(_blob("a4")), blob_key(_blob("shared"))} <= set(bucket.list(""))
    assert dropped_manifest_key(spec.run_id, 4) in bucket.list("")
    assert "checkpoint manifest" in caplog.text
    bucket.delete(other)
    sweeper.sweep(16)
    assert blob_key(_blob("a4")) not in bucket.list("")
    assert dropped_manifest_key(spec.run_id, 4) not in bucket.list("")
