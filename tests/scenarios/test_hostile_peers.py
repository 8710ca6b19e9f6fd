"""Swarms with a part that means harm: it costs itself the window and nobody else anything."""

from dataclasses import replace

import pytest

from evaluation.verdict_log import decode_logs
from evaluation.verify import verify_logs
from simulation.swarm import (
    FOUR,
    STAKES_TAO,
    accepted,
    build_world,
    digests,
    honest,
    miner_with,
    run,
    to_the_end,
    uid_of,
)
from simulation.world import hotkey_of
from template.base.pace import ScoringPace
from template.base.pending import PendingPayload
from template.base.starts import Starts
from template.base.supervisor import supervise
from template.base.validator import Validator
from template.base.work import HonestWork
from template.chain.ballots import read_records
from template.context import NodeContext
from template.errors import NodeTrouble, NotFound
from template.protocol.keys import payload_key
from template.protocol.record import PayloadCommitment, Record, Vote, encode_record
from template.scoring.rules import pay_rules
from template.store.memory import MemoryStore
from template.training.inner import InnerResult
from tests.support.silent import Silent


def test_a_silent_bucket_costs_its_miner_the_window_and_nobody_else(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=3)
    world.buckets[hotkey_of("m1")] = silent = Silent()
    nodes = run(world, honest(*FOUR), tmp_path)
    silent.released.set()
    assert len(digests(nodes)) == 1
    named = accepted(nodes["val-a"])
    assert named == {key: {uid_of(world, "m0")} for key in range(3)}


@pytest.mark.parametrize("readers", [("val-a",), ("val-a", "val-b")])
def test_who_delivers_to_too_few_is_judged_by_half_of_the_stake(readers, tmp_path) -> None:
    """Validators of 1000, 900 and 200 TAO. What the first alone got was not delivered; what the
    last alone could not get is nobody's fault.
    """
    stakes = {**STAKES_TAO, "val-c": 200}
    world = build_world(stakes, schedule__num_windows=4)
    m1 = hotkey_of("m1")

    def shut(world, context):
        own = context.open_bucket
        nothing = MemoryStore()
        return replace(context, open_bucket=lambda p, a: nothing if p == m1 else own(p, a))

    def validator(name: str):
        def drive(world, context):
            node = Validator(context if name in readers else shut(world, context))
            supervise(node.step, max_failures=1)
            return node

        return drive

    drives = {name: validator(name) for name in ("val-a", "val-b", "val-c")}
    nodes = run(world, honest("m0", "m1") | drives, tmp_path)
    lost = {(w, m1) for w in range(3)} if readers == ("val-a",) else set()
    for name in drives:
        text = (nodes[name].context.state_dir / "verdicts.jsonl").read_text()
        logs = decode_logs(text)
        assert {found for log in logs for found in log.undelivered} == lost
        assert verify_logs(logs, pay_rules(world.spec)).found == ()
        uid = uid_of(world, "m1")
        assert (uid in logs[-1].shares) == (not lost and name in readers)
    statuses = {v.status for log in logs for v in log.verdicts if v.hotkey == m1}
    assert statuses == {"not_delivered"}
    assert len(digests(nodes)) == 1
    named = accepted(nodes["val-a"])
    assert all((uid_of(world, "m1") in uids) == (not lost) for uids in named.values())


class Unaskable(MemoryStore):
    """A bucket that its reader cannot ask, until the end."""

    is_over = False

    def get(self, key: str, *, max_bytes: int) -> bytes:
        if self.is_over:
            raise NotFound(key)
        raise NodeTrouble("this node could not ask (EMFILE)")


def test_a_validator_in_trouble_of_its_own_blames_no_miner(tmp_path) -> None:
    """Half of the stake cannot ask m1's bucket: not measured there, and reported by no vote."""
    stakes = {**STAKES_TAO, "val-c": 200}
    world = build_world(stakes, schedule__num_windows=4)
    m1, bucket = hotkey_of("m1"), Unaskable()

    def troubled(world, context):
        own = context.open_bucket
        node = Validator(
            replace(context, open_bucket=lambda p, a: bucket if p == m1 else own(p, a))
        )
        supervise(node.step, max_failures=1)
        return node

    drives = {"val-a": troubled, "val-b": troubled}
    nodes = run(world, honest("m0", "m1", "val-c") | drives, tmp_path)
    bucket.is_over = True
    for name in ("val-a", "val-b", "val-c"):
        logs = decode_logs((nodes[name].context.state_dir / "verdicts.jsonl").read_text())
        assert {found for log in logs for found in log.undelivered} == set()
        assert verify_logs(logs, pay_rules(world.spec)).found == ()
        statuses = {v.status for log in logs for v in log.verdicts if v.hotkey == m1}
        assert statuses == ({"not_scored"} if name in drives else {"named"})
    records = read_records(world.chain(m1), world.chain(m1).head(), world.spec.run_id)
    votes = [record.vote for record in records.values() if record.vote is not None]
    assert len(votes) == 3
    assert all(vote.missing == frozenset() for vote in votes)
    assert len(digests(nodes)) == 1


class Copier(HonestWork):
    """Commits the digest that m0 committed, and serves junk under it."""

    def make_frame(self, header, deltas):
        frame = super().make_frame(header, deltas)
        victim, chain = hotkey_of("m0"), self.parts.context.chain
        for _ in range(6):
            run_id = self.parts.context.run.run_id
            record = read_records(chain, chain.head(), run_id).get(victim)
            if record and record.payload and record.payload.window == header.window:
                self.stolen[header.window] = record.payload.digest
                break
            self.parts.context.waiter.pause()
        return frame

    def commitment(self, payload: PendingPayload) -> PayloadCommitment:
        digest = self.stolen.get(payload.window)
        if digest is None:
            return super().commitment(payload)
        context = self.parts.context
        context.bucket.put(payload_key(context.run.run_id, payload.window, digest), b"junk")
        return PayloadCommitment(window=payload.window, digest=digest)

    @property
    def stolen(self) -> dict[int, bytes]:
        return self.__dict__.setdefault("_stolen", {})


def test_who_copies_a_digest_harms_neither_its_owner_nor_the_model(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=4)
    drives = {**honest(*FOUR), "m1": to_the_end(miner_with(Copier))}
    nodes = run(world, drives, tmp_path)
    assert nodes["m1"].work.stolen, "no digest was copied: the test shows nothing"
    assert len(digests(nodes)) == 1
    m0, m1 = uid_of(world, "m0"), uid_of(world, "m1")
    named = accepted(nodes["val-a"])
    assert all(m0 in uids for uids in named.values())
    assert all(m1 not in named[window] for window in nodes["m1"].work.stolen)


class Nan(HonestWork):
    """Its loss is not finite in window 1."""

    def train(self, base: int, starts: Starts) -> InnerResult:
        result = super().train(base, starts)
        if base != 1:
            return result
        spoilt = {name: delta * float("nan") for name, delta in result.pseudo_gradient.items()}
        return replace(result, pseudo_gradient=spoilt)


def test_a_window_that_is_not_finite_is_dropped_and_the_next_one_counts(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=4)
    nodes = run(world, {**honest(*FOUR), "m1": to_the_end(miner_with(Nan))}, tmp_path)
    m1 = uid_of(world, "m1")
    assert [m1 in uids for uids in accepted(nodes["val-a"]).values()] == [True, False, True, True]
    assert len(digests(nodes)) == 1


def test_a_vote_with_too_little_stake_ends_nobody(tmp_path) -> None:
    """In window 2 only a tiny validator votes, and on a root that nobody has."""
    world = build_world({**STAKES_TAO, "val-c": 1}, schedule__num_windows=4)

    class Slow(ScoringPace):
        def is_too_late(self, window: int) -> bool:
            return window == 2 or super().is_too_late(window)

    class Late(Validator):
        def __init__(self, context: NodeContext) -> None:
            super().__init__(context)
            self._pace = Slow(context)

    class Liar(Validator):
        def _vote(self, window: int) -> None:
            if window == 2:
                vote = Vote(window=2, root=bytes(16), sample_digest=bytes(8), uids=frozenset())
                context = self.context
                record = Record.of(context.run.run_id, access=context.access, vote=vote)
                self.context.chain.publish(encode_record(record))
            else:
                super()._vote(window)

    drives = {name: to_the_end(Late) for name in ("val-a", "val-b")}
    nodes = run(world, {**honest(*FOUR), **drives, "val-c": to_the_end(Liar)}, tmp_path)
    assert len(digests(nodes)) == 1
    assert accepted(nodes["m0"])[2] == set()
    assert accepted(nodes["m0"])[3] != set()
