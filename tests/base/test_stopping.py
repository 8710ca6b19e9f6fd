"""A stopped miner: what is committed goes up within a bound, and the log says what is missed."""

import logging
import threading

import pytest

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.base.miner import Miner
from template.base.stopping import STOP_UPLOAD_S
from template.base.validator import Validator
from template.cli.signals import STOP_LIMIT_S
from template.commands.neuron import _run_until_stopped
from template.errors import ChainError, Unavailable
from template.protocol.keys import payload_key
from template.protocol.record import decode_record
from template.store.memory import MemoryStore
from tests.support.waiting import HANG_S

NAMES = {"owner": 0, "val-a": 1000, "m0": 0, "m1": 0}
MANY = 2.0
"""Seconds of a bound that in-memory parts never reach."""


def _world(**overrides: object) -> World:
    return build_world(NAMES, **overrides)


def _schedule(world: World):
    return world.spec.schedule.schedule()


def _committed(world: World, tmp_path, name: str = "m0") -> Miner:
    """A miner in window 0, right after its commitment."""
    miner = Miner(world.context(hotkey_of(name), tmp_path / name))
    world.time.block = _schedule(world).first_block(0)
    miner.make_payload(0)
    miner.commit(0)
    return miner


def _is_up(world: World, miner: Miner) -> bool:
    newest = miner.pending.newest
    assert newest is not None
    key = payload_key(world.spec.run_id, newest.window, newest.digest)
    return key in miner.context.bucket.list("")


def test_a_stop_right_after_the_commitment_delivers_the_payload(tmp_path, caplog) -> None:
    world = _world()
    miner = _committed(world, tmp_path)
    assert not _is_up(world, miner)
    caplog.set_level(logging.INFO)
    miner.stop(MANY)
    assert _is_up(world, miner)
    text = "\n".join(caplog.messages)
    assert "window 0: the committed payload is uploaded" in text
    assert "a second signal ends the process at once" in text
    assert "windows from 1 on are missed" in text
    assert f"until block {_schedule(world).commit_block(1)}, " in text


def test_a_stop_before_the_commitment_uploads_nothing(tmp_path, caplog) -> None:
    """What nobody has committed, others could commit."""
    world = _world()
    miner = Miner(world.context(hotkey_of("m0"), tmp_path))
    world.time.block = _schedule(world).first_block(0)
    miner.make_payload(0)
    caplog.set_level(logging.INFO)
    miner.stop(MANY)
    assert not _is_up(world, miner)
    assert "windows from 0 on are missed" in caplog.text


def test_nothing_is_committed_once_a_stop_has_looked(tmp_path) -> None:
    """A lane that was saving when the stop came: what it commits then, nobody would upload."""
    world = _world()
    miner = Miner(world.context(hotkey_of("m0"), tmp_path))
    world.time.block = _schedule(world).first_block(0)
    assert miner.work.make_payload(0) is not None
    miner.stop(MANY)
    assert not miner._save_and_commit()
    assert miner.desk.unsaved() == [], "a restart commits it, if there is time"
    world.time.block += 1
    said = world.chain(hotkey_of("m0")).commitments(world.time.block)[hotkey_of("m0")]
    assert decode_record(said).payload is None


def test_a_commitment_without_an_answer_counts_as_one(tmp_path) -> None:
    """Ctrl-C while the chain takes the commitment in: it may be on chain."""
    world = _world()
    miner = Miner(world.context(hotkey_of("m0"), tmp_path))
    world.time.block = _schedule(world).first_block(0)
    miner.make_payload(0)

    def interrupted(_record: bytes) -> None:
        raise KeyboardInterrupt

    setattr(miner.context.chain, "publish", interrupted)  # noqa: B010  as a signal would
    with pytest.raises(KeyboardInterrupt):
        miner.commit(0)
    miner.stop(MANY)
    assert _is_up(world, miner)


def test_after_a_restart_an_old_commitment_is_delivered_by_a_stop(tmp_path) -> None:
    world = _world()
    _committed(world, tmp_path)
    after = Miner(world.context(hotkey_of("m0"), tmp_path / "m0"))
    after.stop(MANY)
    assert _is_up(world, after)


def test_what_is_surely_not_drawn_stays_secret(tmp_path, caplog) -> None:
    """Two payloads, one is drawn. Before the draw is final both go up."""
    world = _world(evaluation__max_payloads=1)
    miners = [_committed(world, tmp_path, name) for name in ("m0", "m1")]
    world.time.block = _schedule(world).stake_block(0) + world.spec.schedule.finality_lag_blocks
    caplog.set_level(logging.INFO)
    for miner in miners:
        miner.stop(MANY)
    assert sorted(_is_up(world, miner) for miner in miners) == [False, True]
    assert sum("stays secret in the state folder" in line for line in caplog.messages) == 1
    (secret,) = (miner for miner in miners if not _is_up(world, miner))
    again = Miner(world.context(secret.context.hotkey, tmp_path / _name(secret)))
    world.time.block = _schedule(world).commit_block(1) + world.spec.schedule.finality_lag_blocks
    again.reveal()
    assert _is_up(world, again)


def test_before_the_draw_is_final_what_may_be_drawn_goes_up(tmp_path) -> None:
    world = _world(evaluation__max_payloads=1)
    miners = [_committed(world, tmp_path, name) for name in ("m0", "m1")]
    for miner in miners:
        miner.stop(MANY)
    assert [_is_up(world, miner) for miner in miners] == [True, True]


def _name(miner: Miner) -> str:
    return next(name for name in NAMES if hotkey_of(name) == miner.context.hotkey)


class Held(MemoryStore):
    """A bucket whose puts last until the test lets them go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def put(self, at: str, data: bytes) -> None:
        self.let_go.wait(HANG_S)
        super().put(at, data)


def test_a_bucket_that_drips_holds_no_stop_and_the_loss_is_told(tmp_path, caplog) -> None:
    world = _world()
    world.buckets[hotkey_of("m0")] = held = Held()
    miner = _committed(world, tmp_path)
    caplog.set_level(logging.INFO)
    miner.stop(0.2)
    assert not held.let_go.is_set(), "the stop has not waited for the bucket"
    held.let_go.set()
    (lost,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    said = lost.getMessage()
    schedule, spec = _schedule(world), world.spec.schedule
    assert "window 0: the committed payload is NOT uploaded (no answer within" in said
    assert "the worst verdict" in said
    last = schedule.held_out_block(0) + (spec.scoring_blocks + 1) // 2
    number = int(said.split("before block ")[1].split(",")[0])
    assert schedule.held_out_block(0) < number <= last


def test_a_bucket_that_refuses_is_named(tmp_path, caplog) -> None:
    class Refusing(MemoryStore):
        def put(self, at: str, data: bytes) -> None:
            raise Unavailable("the server answered 503")

    world = _world()
    world.buckets[hotkey_of("m0")] = Refusing()
    miner = _committed(world, tmp_path)
    miner.stop(MANY)
    assert "NOT uploaded (the server answered 503)" in caplog.text


def test_a_chain_that_does_not_answer_keeps_nothing_back(tmp_path) -> None:
    world = _world(evaluation__max_payloads=1)
    miner = _committed(world, tmp_path)

    def away() -> int:
        raise ChainError("no answer")

    for name in ("head", "finalized"):
        setattr(miner.context.chain, name, away)
    miner.stop(MANY)
    assert _is_up(world, miner)


def test_a_validator_says_which_votes_it_misses(tmp_path, caplog) -> None:
    world = _world()
    validator = Validator(world.context(hotkey_of("val-a"), tmp_path))
    caplog.set_level(logging.INFO)
    validator.context.waiter.recent_head()
    validator.stop()
    assert "votes and weights from window 0 on are missed" in caplog.text
    assert f"counted at block {_schedule(world).vote_block(0)}, " in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, ChainError("gone", is_final=True)])
def test_whatever_ends_a_neuron_early_it_takes_its_leave(error) -> None:
    class Neuron:
        stops = 0

        def step(self) -> bool:
            raise error

        def stop(self) -> None:
            self.stops += 1

    neuron = Neuron()
    with pytest.raises((KeyboardInterrupt, ChainError)):
        _run_until_stopped(neuron)
    assert neuron.stops == 1


def test_the_bound_leaves_time_to_close() -> None:
    assert STOP_UPLOAD_S < STOP_LIMIT_S
