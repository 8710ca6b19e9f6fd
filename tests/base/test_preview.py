"""What a miner makes of the payloads under way: the parameters that come, if it guesses right."""

from dataclasses import replace

import pytest
import torch

from localnet.adversaries.catalogue import BEHAVIOURS
from simulation.swarm import (
    FOUR,
    STAKES_TAO,
    accepted,
    build_world,
    digests,
    honest,
    metrics,
    miner_with,
    run,
    to_the_end,
)
from simulation.world import FakeChain, World, hotkey_of
from template.base.deadline import COMMIT_MARGIN_BLOCKS
from template.base.miner import Miner
from template.base.preview import Preview
from template.base.work import HonestWork
from template.errors import ChainError
from template.protocol.keys import payload_key
from template.protocol.payload import PayloadHeader, encode_payload, payload_digest
from template.protocol.record import PayloadCommitment, Record, encode_record
from template.protocol.root import tensors_digest
from template.protocol.ss58 import public_key
from template.store.memory import MemoryStore
from tests.support.silent import Silent

SIX = (*FOUR, "m2", "m3")


class Recording(Preview):
    """Notes what each preview said: (hotkey, window under way) -> digest of what it leads to."""

    said: dict[tuple[str, int], str]

    def poll(self):
        params = super().poll()
        if params is not None:
            self.said[self._context.hotkey, self._window] = tensors_digest(params).hex()
        return params


class Said(HonestWork):
    """Honest, and its previews are noted."""

    def preview(self, window: int) -> Preview:
        return Recording(self.parts.context, self.parts.peers, self.parts.follower, window)


@pytest.fixture
def said() -> dict[tuple[str, int], str]:
    Recording.said = {}
    return Recording.said


def _came(node) -> dict[int, str]:
    return metrics(node).series("params_digest")


class Hurried(Said):
    """Believes that it never has time to wait; its head moves on by a block at every step."""

    def has_time_to_wait(self, window: int) -> bool:
        return False

    def is_late(self, window: int) -> bool:
        self.parts.context.waiter.pause()
        return super().is_late(window)


def test_the_expected_parameters_are_those_that_come(said, tmp_path) -> None:
    """Wherever the same were accepted twice running, to the last bit."""
    world = build_world({**STAKES_TAO, "m2": 0, "m3": 0})
    nodes = run(world, {**honest(*SIX), "m0": to_the_end(miner_with(Said))}, tmp_path)
    sets, came = accepted(nodes["m0"]), _came(nodes["m0"])
    expecting = {w for hotkey, w in said if hotkey == hotkey_of("m0")}
    assert len(expecting) >= world.spec.schedule.num_windows - 3
    steady = [w for w in expecting if sets.get(w) and sets.get(w) == sets.get(w - 1)]
    assert steady
    for window in steady:
        assert said[hotkey_of("m0"), window] == came[window]
    waited = metrics(nodes["m0"]).series("caught_up_at_step")
    assert set(waited.values()) == {0}
    assert len(waited) == len(expecting)


@pytest.mark.slow
def test_whoever_has_no_time_to_wait_moves_in_the_middle(said, tmp_path) -> None:
    world = build_world({**STAKES_TAO, "m2": 0, "m3": 0})
    nodes = run(world, {**honest(*SIX), "m1": to_the_end(miner_with(Hurried))}, tmp_path)
    assert len(digests(nodes)) == 1
    moved = metrics(nodes["m1"]).series("caught_up_at_step")
    steps = metrics(nodes["m1"]).series("inner_steps")
    assert moved
    assert all(0 < moved[window] < steps[window] for window in moved), (moved, steps)
    assert {window for hotkey, window in said if hotkey == hotkey_of("m1")}


@pytest.mark.slow
def test_a_payload_that_cannot_be_fetched_is_left_out(tmp_path, monkeypatch) -> None:
    """m3's bucket has nothing for one miner, which takes the step all the same."""
    world = build_world({**STAKES_TAO, "m2": 0, "m3": 0})
    empty, fetch = MemoryStore(), world.context

    def context(hotkey, state_dir):
        made = fetch(hotkey, state_dir)
        if hotkey != hotkey_of("m0"):
            return made

        def open_bucket(peer, access):
            return empty if peer == hotkey_of("m3") else made.open_bucket(peer, access)

        return replace(made, open_bucket=open_bucket)

    monkeypatch.setattr(world, "context", context)
    nodes = run(world, {**honest(*SIX), "m0": to_the_end(Miner)}, tmp_path)
    assert len(digests(nodes)) == 1
    seen = metrics(nodes["m0"]).series("previewed_uids")
    three = str(next(n.uid for n in world.ledger.neurons if n.hotkey == hotkey_of("m3")))
    assert seen
    assert all(three not in uids.split(",") for uids in seen.values())


@pytest.mark.slow
def test_noise_that_was_never_accepted_is_not_expected(tmp_path) -> None:
    world = build_world({**STAKES_TAO, "garbage": 0})
    nodes = run(
        world, {**honest(*FOUR), "garbage": to_the_end(BEHAVIOURS["garbage"].build)}, tmp_path
    )
    uid = next(n.uid for n in world.ledger.neurons if n.hotkey == hotkey_of("garbage"))
    sets = accepted(nodes["m0"])
    for window, uids in metrics(nodes["m0"]).series("previewed_uids").items():
        last = next((sets[w] for w in range(window - 2, -1, -1) if sets.get(w)), set())
        assert (str(uid) in uids.split(",")) <= (uid in last), (window, uids, sets)


def _alone(world, tmp_path) -> Miner:
    miner = Miner(world.context(hotkey_of("m0"), tmp_path))
    miner.follower.ledger = replace(
        miner.follower.ledger, last_accepted=frozenset({hotkey_of("m1")})
    )
    return miner


def _preview(miner: Miner, window: int) -> Preview:
    assert isinstance(miner.work, HonestWork)
    return Preview(miner.context, miner.work.parts.peers, miner.follower, window)


def test_there_is_no_preview_before_a_decision_nor_from_an_older_base(tmp_path) -> None:
    world = build_world(STAKES_TAO)
    miner = _alone(world, tmp_path)
    assert miner.follower.state.window == 1
    assert _preview(miner, 1).pending
    assert not _preview(miner, 2).pending
    ledger = miner.follower.ledger
    miner.follower.ledger = replace(ledger, last_accepted=frozenset())
    assert not _preview(miner, 1).pending
    assert _preview(miner, 1).poll() is None


def test_nothing_is_asked_before_the_payloads_may_be_there(tmp_path) -> None:
    """Of nobody's payload there is no preview, and it says so once they may be there."""
    world = build_world(STAKES_TAO)
    miner, schedule = _alone(world, tmp_path), world.spec.schedule
    preview = _preview(miner, 1)
    first = schedule.schedule().first_block(1)
    for block in (first, first + schedule.upload_blocks + schedule.finality_lag_blocks - 1):
        world.time.block = block
        assert preview.poll() is None
        assert preview.pending
    world.time.block += 1
    assert preview.poll() is None
    assert not preview.pending
    assert preview.uids == ()


def test_a_bucket_that_never_answers_is_waited_for_no_longer_than_validators_wait(tmp_path) -> None:
    world = build_world(STAKES_TAO)
    miner, schedule = _alone(world, tmp_path), world.spec.schedule
    _commit(world, "m1", b"a frame")
    world.buckets[hotkey_of("m1")] = silent = Silent()
    preview = _preview(miner, 1)
    first = schedule.schedule().first_block(1) + schedule.upload_blocks
    last = first + schedule.finality_lag_blocks + schedule.scoring_blocks // 2
    for world.time.block in range(first, last):
        assert preview.poll() is None
        assert preview.pending
    world.time.block = last
    assert preview.poll() is None
    assert not preview.pending
    silent.released.set()


def test_without_most_of_the_payloads_there_is_no_preview(tmp_path) -> None:
    """Its own alone is no guess at what everybody's update will be."""
    world = build_world({**STAKES_TAO, "m2": 0, "m3": 0})
    miner = _alone(world, tmp_path)
    names = ("m0", "m1", "m2", "m3")
    miner.follower.ledger = replace(
        miner.follower.ledger, last_accepted=frozenset(map(hotkey_of, names))
    )
    digests_of = {name: _commit(world, name, _frame(miner, name)) for name in names}
    for name in ("m1", "m2"):
        world.buckets[hotkey_of(name)] = MemoryStore()
    world.time.block = world.spec.schedule.schedule().first_block(1) + 5
    preview = _preview(miner, 1)
    while preview.pending:
        assert preview.poll() is None
    assert preview.uids == ()
    miner.follower.keep(0, digests_of["m1"], _frame(miner, "m1"))
    three = _preview(miner, 1)
    found = None
    while three.pending:
        found = three.poll()
    assert len(three.uids) == 3
    assert found is not None
    assert tensors_digest(found) != tensors_digest(miner.follower.state.params)


@pytest.mark.slow
def test_a_dripping_bucket_holds_up_the_others_for_one_finality_lag(tmp_path) -> None:
    world = build_world({**STAKES_TAO, "m2": 0, "m3": 0})
    miner, schedule = _alone(world, tmp_path), world.spec.schedule
    names = ("m0", "m1", "m2", "m3")
    miner.follower.ledger = replace(
        miner.follower.ledger, last_accepted=frozenset(map(hotkey_of, names))
    )
    for name in names:
        _commit(world, name, _frame(miner, name))
    world.buckets[hotkey_of("m3")] = silent = Silent()
    preview = _preview(miner, 1)
    first = schedule.schedule().first_block(1) + schedule.upload_blocks
    world.time.block = first + schedule.finality_lag_blocks
    while preview._fetching is None or preview._fetching.num_waiting > 1:
        assert preview.poll() is None
    assert preview.poll() is None
    world.time.block += schedule.finality_lag_blocks
    assert preview.poll() is not None
    assert len(preview.uids) == 3
    silent.released.set()


def test_a_chain_that_does_not_answer_costs_the_preview_and_nothing_else(tmp_path) -> None:
    world = build_world(STAKES_TAO)
    miner = _alone(world, tmp_path)
    world.time.block = world.spec.schedule.schedule().first_block(1) + 5

    class Mute(FakeChain):
        def commitments(self, block):
            raise ChainError("no answer", code="unavailable")

    miner.context = replace(miner.context, chain=Mute(world.ledger, hotkey_of("m0")))
    preview = _preview(miner, 1)
    assert preview.poll() is None
    assert not preview.pending


def test_whoever_comes_late_into_a_window_asks_nobody(tmp_path) -> None:
    world = build_world(STAKES_TAO)
    miner = _alone(world, tmp_path)
    _commit(world, "m1", b"a frame")
    world.buckets[hotkey_of("m1")] = silent = Silent()
    world.time.block = world.spec.schedule.schedule().first_block(1) + 9
    preview = _preview(miner, 1)
    assert preview.poll() is None
    assert not preview.pending
    assert preview._fetching is None
    silent.released.set()


def test_a_miner_waits_while_twice_its_inner_loop_is_left(tmp_path) -> None:
    """And not before it knows how long that takes, nor after a restart any less."""
    world = build_world(STAKES_TAO)
    miner = _alone(world, tmp_path)
    end = world.spec.schedule.schedule().commit_block(1) - COMMIT_MARGIN_BLOCKS
    world.time.block = end - 7
    assert isinstance(miner.work, HonestWork)
    assert not miner.work.has_time_to_wait(1)
    miner.work.inner_loop_blocks = 3
    assert miner.work.has_time_to_wait(1)
    miner.save()
    again = Miner(miner.context)
    assert isinstance(again.work, HonestWork)
    assert again.work.inner_loop_blocks == 3
    assert again.follower.ledger.last_accepted == frozenset({hotkey_of("m1")})
    assert again.work.has_time_to_wait(1)
    world.time.block += 1
    late = Miner(miner.context).work
    assert isinstance(late, HonestWork)
    assert not late.has_time_to_wait(1)


def test_frames_that_cannot_be_admitted_are_left_out(tmp_path) -> None:
    """Bytes of the right digest that are no payload: as the outer step, so the preview."""
    world = build_world(STAKES_TAO)
    miner = _alone(world, tmp_path)
    before = tensors_digest(miner.follower.state.params)
    preview = _preview(miner, 1)
    member = _commit(world, "m1", b"no payload")
    world.time.block = world.spec.schedule.schedule().first_block(1) + 5
    while preview.pending:
        assert preview.poll() is None
    assert preview.uids == ()
    assert miner.follower.held(member) == b"no payload"
    assert tensors_digest(miner.follower.state.params) == before


def _frame(miner: Miner, name: str) -> bytes:
    """A valid payload of window 0."""
    header = PayloadHeader(
        window=0, base_window=0, pages_consumed=1, public_key=public_key(hotkey_of(name))
    )
    shapes = miner.context.form_at(0).shapes
    dense = {n: torch.full(shape, 0.01 * (1 + len(name))) for n, shape in shapes.items()}
    return encode_payload(header, dense, miner.context.form_at(0))[0]


def _commit(world, name: str, frame: bytes) -> bytes:
    """A miner's frame of window 0 in its bucket and its digest on chain; the digest."""
    hotkey, digest = hotkey_of(name), payload_digest(frame)
    commitment = PayloadCommitment(window=0, digest=digest)
    world.chain(hotkey).publish(
        encode_record(Record.of(world.spec.run_id, access=world.access(hotkey), payload=commitment))
    )
    world.buckets[hotkey].put(payload_key(world.spec.run_id, 0, digest), frame)
    return digest


class SlowEncoder(HonestWork):
    """Encoding takes six blocks."""

    world: World | None = None

    def make_frame(self, header, deltas) -> bytes:
        assert self.world is not None
        self.world.time.block += 6
        return super().make_frame(header, deltas)


def test_what_encoding_takes_ends_the_next_training_earlier(tmp_path) -> None:
    """Also after a restart; here a payload late for its window counts for nothing."""
    world = build_world(STAKES_TAO, outer__max_staleness=0)
    first = _alone(world, tmp_path)
    schedule = world.spec.schedule.schedule()
    world.time.block = schedule.first_block(0)
    miner = Miner(first.context, SlowEncoder)
    assert isinstance(miner.work, SlowEncoder)
    miner.work.world = world
    miner.make_payload(0)
    assert miner.work.deadline.recent_blocks == [6]
    miner.save()
    end = schedule.commit_block(1) - COMMIT_MARGIN_BLOCKS
    for block, late in ((end - 7, False), (end - 6, True)):
        world.time.block = block
        work = Miner(first.context).work
        assert isinstance(work, HonestWork)
        assert work.is_late(1) == late


def test_a_long_finish_does_not_end_all_training_of_a_machine_that_begins_late(tmp_path) -> None:
    """No payload, no finish to measure: the long one would have stayed, after restarts too."""
    world = build_world(STAKES_TAO, outer__max_staleness=0)
    first = _alone(world, tmp_path)
    schedule = world.spec.schedule.schedule()
    work = first.work
    assert isinstance(work, HonestWork)
    work.deadline.recent_blocks = [schedule.blocks_per_window]
    begins = COMMIT_MARGIN_BLOCKS + schedule.blocks_per_window // 2
    made = []
    for window in (0, 1):
        world.time.block = schedule.commit_block(window) - begins
        made.append(work.make_payload(window))
    assert made[0] is None
    assert made[1] is not None
