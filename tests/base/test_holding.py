"""Uploads before the vote: what is in the bucket in time is named, and nothing else."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from simulation.swarm import STAKES_TAO, accepted, build_world, digests, honest, run, to_the_end
from simulation.world import World, hotkey_of
from template.base.holding import MAX_RESERVE, MIN_RESERVE, NamedPayloads
from template.base.validator import Validator
from template.context import NodeContext
from template.errors import Unavailable
from template.protocol.keys import payload_key
from template.protocol.payload import payload_digest
from template.protocol.record import decode_record
from template.store.memory import MemoryStore

WINDOW = 3


class Troubled(MemoryStore):
    """A bucket that refuses some keys, or holds their upload until `released`."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()
        self.held: set[str] = set()
        self.released = threading.Event()
        self.after_put: Callable[[], None] = lambda: None
        self.tries: list[str] = []

    def put(self, key: str, data: bytes) -> None:
        self.tries.append(key)
        if key in self.refused:
            raise Unavailable("away")
        if key in self.held:
            self.released.wait(30)
        super().put(key, data)
        self.after_put()


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(STAKES_TAO)


@pytest.fixture
def bucket() -> Troubled:
    return Troubled()


@pytest.fixture
def context(world, bucket, tmp_path) -> NodeContext:
    return replace(world.context(hotkey_of("val-a"), tmp_path), bucket=bucket)


def _frames(count: int) -> dict[int, bytes]:
    return {uid: bytes([uid]) * 50 for uid in range(count)}


def _key(context: NodeContext, frame: bytes) -> str:
    return payload_key(context.run.run_id, WINDOW, payload_digest(frame))


@pytest.mark.parametrize("count", [0, 1, 20])
def test_all_are_held_where_the_bucket_takes_them(count: int, context, bucket) -> None:
    frames = _frames(count)
    held = NamedPayloads(context).hold(WINDOW, frames, lambda: False)
    assert held == frames.keys()
    assert set(bucket.list("")) == {_key(context, frame) for frame in frames.values()}


def test_what_is_not_up_in_time_leaves_the_vote_and_holds_no_other(
    context, bucket, world, caplog
) -> None:
    """One upload is refused, one hangs; the others are up, and time passes meanwhile."""
    frames = _frames(5)
    bucket.refused, bucket.held = {_key(context, frames[1])}, {_key(context, frames[3])}
    up: list[int] = []
    bucket.after_put = lambda: up.append(1)
    world.time.enter()
    try:
        held = NamedPayloads(context).hold(WINDOW, frames, lambda: len(up) == 3)
    finally:
        bucket.released.set()
        world.time.leave()
    assert held == {0, 2, 4}
    (told,) = [r.message for r in caplog.records if "leave the vote" in r.message]
    assert "[1, 3]" in told


def test_a_refused_upload_is_tried_again_until_the_deadline(context, bucket, world) -> None:
    frames = _frames(1)
    bucket.refused = {key := _key(context, frames[0])}

    def is_late() -> bool:
        if len(bucket.tries) >= 3:
            bucket.refused.clear()
        return False

    world.time.enter()
    try:
        assert NamedPayloads(context).hold(WINDOW, frames, is_late) == {0}
    finally:
        world.time.leave()
    assert bucket.tries == [key] * 4


def test_the_reserve_grows_with_what_uploads_took(context, bucket, world) -> None:
    named = NamedPayloads(context)
    assert named.reserve(0, 100, context.run.first.outer.peers_per_step) == MIN_RESERVE
    whole_bytes = context.run.first.outer.peers_per_step * context.form_at(0).num_bytes
    frames = {0: bytes(whole_bytes // 2)}

    def pass_blocks() -> None:
        world.time.block += 8

    bucket.after_put = pass_blocks
    named.hold(WINDOW, frames, lambda: False)
    assert named.reserve(0, 100, context.run.first.outer.peers_per_step) == pytest.approx(
        1.5 * 16 / 100, abs=0.021
    )
    assert named.reserve(0, 20, context.run.first.outer.peers_per_step) == MAX_RESERVE
    bucket.after_put = lambda: None
    for _ in range(8):
        named.hold(WINDOW, frames, lambda: False)
    assert named.reserve(0, 100, context.run.first.outer.peers_per_step) == MIN_RESERVE


def test_a_validator_that_cannot_upload_a_payload_votes_in_time_without_it(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=4)

    class Partial(MemoryStore):
        """Refuses every second payload put into it, by digest."""

        def put(self, key: str, data: bytes) -> None:
            if "/payload/" in key and int(key[-1], 16) % 2:
                raise Unavailable("away")
            super().put(key, data)

    bucket = Partial()
    world.buckets[hotkey_of("val-b")] = bucket
    drives = honest("val-a", "val-b", "m0", "m1")
    drives["val-b"] = to_the_end(lambda context: Validator(replace(context, bucket=bucket)))
    nodes = run(world, drives, tmp_path)
    assert len(digests(nodes)) == 1
    digests_by_window = {
        window: {m.uid: m.digest.hex() for m in step.members}
        for step in nodes["val-a"].follower.ledger.steps
        for window in [step.window]
    }
    _, values = world.ledger.commitments[hotkey_of("val-b")]
    votes = {v.window: v for data in values if (v := decode_record(data).vote) is not None}
    assert set(range(4)) <= votes.keys(), "a vote in every window"
    left_out = 0
    for window, members in digests_by_window.items():
        for uid, digest in members.items():
            if int(digest[-1], 16) % 2:
                assert uid not in votes[window].uids
                left_out += 1
    assert left_out > 0
    assert all(accepted(nodes["m0"]).values())


def test_uploads_that_are_all_late_get_more_time_in_the_next_window(context, bucket) -> None:
    """Side by side on a slow line, no upload ends before the deadline."""
    frames = _frames(5)
    bucket.held = {_key(context, frame) for frame in frames.values()}
    named = NamedPayloads(context)
    small = 10
    reserves = [named.reserve(0, small, context.run.first.outer.peers_per_step)]
    for _window in range(3):
        assert named.hold(WINDOW, frames, lambda: True) == frozenset()
        reserves.append(named.reserve(0, small, context.run.first.outer.peers_per_step))
    bucket.released.set()
    assert reserves[0] == MIN_RESERVE
    assert reserves[1] > reserves[0]
    assert reserves[-1] <= MAX_RESERVE
