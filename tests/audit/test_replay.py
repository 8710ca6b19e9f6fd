"""Who never took part replays the run from buckets and chain alone, and gets the same bits."""

import json
from dataclasses import replace

import pytest

from simulation.swarm import FOUR, STAKES_TAO, build_world, digests, honest, run, to_the_end
from simulation.world import hotkey_of
from template.audit.replay import audit_validators, replay_run
from template.errors import NotFound, Unavailable
from template.peers.client import Peers
from template.protocol.keys import lineage_key, verdict_key
from template.protocol.record import ROOT_BYTES, decode_record, encode_record
from template.protocol.root import tensors_digest
from template.sync.lineage import wait_for_voted_root
from tests.support.flipping import FlippingValidator

EVERY = 3
WINDOWS = 8


@pytest.fixture(scope="module")
def swarm(tmp_path_factory):
    """Three validators, of which the last flips a bit in window 2 and heals."""
    world = build_world(
        {**STAKES_TAO, "val-c": 300},
        schedule__num_windows=WINDOWS,
        checkpoint__every_windows=EVERY,
    )
    drives = {**honest(*FOUR), "val-c": to_the_end(FlippingValidator)}
    nodes = run(world, drives, tmp_path_factory.mktemp("replayed"))
    assert len(digests(nodes)) == 1
    return world, nodes["val-a"].follower.state


@pytest.fixture
def world(swarm):
    """The same, whatever a test does to the buckets."""
    world, _ = swarm
    before = {hotkey: dict(bucket._shelf.objects) for hotkey, bucket in world.buckets.items()}
    commitments = {h: (list(b), list(v)) for h, (b, v) in world.ledger.commitments.items()}
    block = world.time.block
    world.time.enter()
    yield world
    world.time.leave()
    world.time.block = block
    for hotkey, objects in before.items():
        world.buckets[hotkey]._shelf.objects.clear()
        world.buckets[hotkey]._shelf.objects.update(objects)
    world.ledger.commitments.clear()
    world.ledger.commitments.update(commitments)


def _replay(world, tmp_path, since: int = 1):
    context = world.context(hotkey_of("nobody-yet"), tmp_path / "replay")
    said: list[str] = []
    return replay_run(context, Peers(context), since, said.append), said


def _forget(world, text: str) -> int:
    """Take the objects whose key contains a text out of every bucket."""
    found = [(b, key) for b in world.buckets.values() for key in b.list("") if text in key]
    for bucket, key in found:
        bucket.delete(key)
    return len(found)


@pytest.fixture(autouse=True)
def _a_bucket_for_the_stranger(swarm):
    from template.store.memory import MemoryStore

    swarm[0].buckets.setdefault(hotkey_of("nobody-yet"), MemoryStore())


def test_from_the_first_parameters_to_the_same_bits(swarm, world, tmp_path) -> None:
    replayed, said = _replay(world, tmp_path)
    _, state = swarm
    assert replayed.start == 1
    assert replayed.state.window == WINDOWS + 1 == state.window
    assert replayed.state.root == state.root
    assert tensors_digest(replayed.state.params) == tensors_digest(state.params)
    assert replayed.num_payloads >= WINDOWS
    assert len(said) == WINDOWS + 1, "where it starts, and each window"
    flipped = FlippingValidator.FLIP_WINDOW
    assert list(replayed.wrong) == [hotkey_of("val-c")], "who voted with a wrong bit is named"
    assert [line.split(":")[0] for line in replayed.wrong[hotkey_of("val-c")]] == [
        f"window {flipped}"
    ]


@pytest.mark.parametrize("windows_later", [1, 3])
def test_long_after_the_end_it_ends_where_the_run_did(
    windows_later: int, swarm, world, tmp_path
) -> None:
    """The last votes prove the last state; that they are final makes no step of them."""
    schedule = world.spec.schedule.schedule()
    after = WINDOWS - 1 + windows_later
    world.time.block = schedule.vote_block(after) + world.ledger.finality_lag
    replayed, _ = _replay(world, tmp_path, since=6)
    _, state = swarm
    assert (replayed.state.window, replayed.state.root) == (state.window, state.root)


@pytest.mark.parametrize(("since", "start"), [(2, 3), (3, 3), (4, 6), (6, 6)])
def test_from_a_checkpoint_on(since: int, start: int, swarm, world, tmp_path) -> None:
    replayed, _ = _replay(world, tmp_path, since)
    assert replayed.start == start
    assert tensors_digest(replayed.state.params) == tensors_digest(swarm[1].params)


def test_where_old_payloads_are_gone_it_starts_later(swarm, world, tmp_path) -> None:
    assert _forget(world, "/payload/00000003/")
    replayed, said = _replay(world, tmp_path)
    assert replayed.start == 6
    assert any(line.startswith("cannot replay from theta_1: window 3") for line in said)
    assert tensors_digest(replayed.state.params) == tensors_digest(swarm[1].params)


def test_what_one_bucket_forges_is_not_taken(swarm, world, tmp_path) -> None:
    """The validator with the most stake says otherwise of every step and every checkpoint."""
    bucket, other = world.buckets[hotkey_of("val-a")], world.buckets[hotkey_of("val-b")]
    for key in bucket.list(f"{world.spec.run_id.hex()}/lineage/"):
        lines = other.get(key, max_bytes=2**20).splitlines()
        rows = [json.loads(line) for line in lines]
        for row in rows:
            row["members"] = []
        bucket.put(key, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    for key in bucket.list(f"{world.spec.run_id.hex()}/checkpoint/"):
        bucket.put(key, b'{"format": 1}')
    replayed, _ = _replay(world, tmp_path, since=2)
    assert replayed.start == 3
    assert tensors_digest(replayed.state.params) == tensors_digest(swarm[1].params)


def test_without_a_lineage_or_payloads_there_is_nothing_to_replay(world, tmp_path) -> None:
    assert _forget(world, "/payload/00000006/")
    with pytest.raises(NotFound, match="theta_1 or later"):
        _replay(world, tmp_path)
    assert _forget(world, lineage_key(world.spec.run_id, 6))
    with pytest.raises(NotFound, match="theta_1 or later"):
        _replay(world, tmp_path)


def test_the_last_window_is_left_out_where_its_payloads_are_gone(swarm, world, tmp_path) -> None:
    """Before the vote after the run's end, no root says yet what it leads to."""
    schedule = world.context(hotkey_of("nobody-yet"), tmp_path).schedule
    world.time.block = schedule.vote_block(WINDOWS - 1) + world.ledger.finality_lag
    assert _forget(world, f"/payload/{WINDOWS - 1:08d}/")
    replayed, said = _replay(world, tmp_path)
    assert replayed.state.window == WINDOWS
    assert said[-1].startswith(f"window {WINDOWS - 1} is left out: no bucket has")
    world.time.block = schedule.vote_block(WINDOWS) + world.ledger.finality_lag
    with pytest.raises(NotFound, match=f"voted for window {WINDOWS}"):
        _replay(world, tmp_path)


def test_every_validators_losses_are_computed_again(swarm, world, tmp_path) -> None:
    """One digit in one log is enough to be named; who voted with a wrong bit is named too."""
    bucket, key = world.buckets[hotkey_of("val-b")], verdict_key(world.spec.run_id, WINDOWS - 2)
    rows = [json.loads(line) for line in bucket.get(key, max_bytes=2**24).splitlines()]
    window = next(row for row in rows if row["kind"] == "window")
    window["before"][0][0] += 0.1
    context = world.context(hotkey_of("nobody-yet"), tmp_path / "replay")
    replayed = replay_run(context, Peers(context), 1, lambda _line: None)
    before = dict(replayed.wrong)
    said: list[str] = []
    audit_validators(context, replayed, said.append)
    assert replayed.wrong == before, "all logs are as the losses are"
    audited = {line.split(":")[0] for line in said if "losses computed again" in line}
    assert audited == {hotkey_of(name) for name in ("val-a", "val-b", "val-c")}
    bucket.put(key, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    audit_validators(context, replayed, lambda _line: None)
    assert set(replayed.wrong) == {hotkey_of("val-b"), hotkey_of("val-c")}
    assert any("loss" in line for line in replayed.wrong[hotkey_of("val-b")])


def _vote_otherwise(world, name: str) -> None:
    hotkey = hotkey_of(name)
    blocks, values = world.ledger.commitments[hotkey]
    record = decode_record(values[-1])
    assert record.vote is not None
    other = replace(record.vote, root=bytes(ROOT_BYTES))
    blocks.append(world.time.block)
    values.append(encode_record(replace(record, vote=other)))


def test_the_root_is_that_of_more_than_half_of_the_stake(world, tmp_path) -> None:
    """1000, 900 and 300: any two are more than half, none alone is."""
    context = world.context(hotkey_of("nobody-yet"), tmp_path / "replay")
    _vote_otherwise(world, "val-a")
    world.time.block += world.spec.schedule.blocks_per_window
    vote = wait_for_voted_root(context)
    assert vote == decode_record(world.ledger.commitments[hotkey_of("val-b")][1][-1]).vote
    assert vote.root != bytes(ROOT_BYTES)
    _vote_otherwise(world, "val-c")
    world.time.block += world.spec.schedule.blocks_per_window
    assert wait_for_voted_root(context).root == bytes(ROOT_BYTES)
    blocks, values = world.ledger.commitments[hotkey_of("val-c")]
    record = decode_record(values[-1])
    assert record.vote is not None
    third = replace(record.vote, root=bytes([1]) * ROOT_BYTES)
    blocks.append(world.time.block)
    values.append(encode_record(replace(record, vote=third)))
    world.time.block += world.spec.schedule.blocks_per_window
    with pytest.raises(Unavailable, match="more than half"):
        wait_for_voted_root(context)
