"""Payloads that are accepted and gone: most of the stake stuck before a window makes it void, and
who had gone on goes back. If they turn up in time, nothing is lost but the windows in between.
"""

from typing import Any

import pytest

from simulation.swarm import accepted, build_world, digests, metrics, run, to_the_end, uid_of
from simulation.world import hotkey_of
from template.audit.auditor import Auditor
from template.audit.logs import audit_windows, logs_in_bucket
from template.base.miner import Miner
from template.base.validator import Validator
from template.protocol.quorum import VOID_WINDOWS
from template.protocol.record import ROOT_BYTES, decode_record
from template.sync.lineage import read_lineage
from tests.support.audited import reader

LOST = 2
"""The window whose payload of m0 is gone."""
STAKES_TAO = {"owner": 0, "val-a": 400, "val-b": 400, "val-c": 400, "m0": 0, "m1": 0}


class Careless(Validator):
    """Names what it has seen, and keeps nothing of one window for others or itself."""

    def _hold_named(self, window, uids, scored):
        return uids if window == LOST else super()._hold_named(window, uids, scored)


def _thief(back_at: int | None) -> type:
    """Takes m0's payload out of its bucket once all have seen it; when does it bring it back?"""

    class Thief:
        def __init__(self, context) -> None:
            self.context = context
            self.world_bucket: Any = None

        def step(self) -> bool:
            schedule, bucket = self.context.schedule, self.world_bucket
            self.context.waiter.until_head(schedule.vote_block(LOST) - 1)
            (key,) = bucket.list(f"{self.context.run.run_id.hex()}/payload/{LOST:08d}/")
            frame = bucket.get(key, max_bytes=2**20)
            bucket.delete(key)
            if back_at is not None:
                self.context.waiter.until_head(schedule.first_block(back_at))
                bucket.put(key, frame)
            return False

    return Thief


def _swarm(tmp_path, back_at: int | None, num_windows: int = 12):
    world = build_world(STAKES_TAO, schedule__num_windows=num_windows)

    def thief(context):
        node = _thief(back_at)(context)
        node.world_bucket = world.buckets[hotkey_of("m0")]
        return node

    drives = {name: to_the_end(Careless) for name in ("val-a", "val-b", "val-c")}
    drives |= {"m0": to_the_end(Miner), "m1": to_the_end(Miner), "owner": to_the_end(thief)}
    nodes = run(world, drives, tmp_path)
    nodes.pop("owner")
    return world, nodes


@pytest.mark.slow
def test_payloads_that_are_gone_for_good_are_given_up_by_all_alike(tmp_path) -> None:
    world, nodes = _swarm(tmp_path, None)
    assert len(digests(nodes)) == 1
    both = {uid_of(world, "m0"), uid_of(world, "m1")}
    for node in nodes.values():
        sets = accepted(node)
        assert [w for w in sorted(sets) if not sets[w]] == list(
            range(LOST, LOST + VOID_WINDOWS + 1)
        )
        assert sets[LOST - 1] == both
        assert any(sets[w] for w in range(LOST + VOID_WINDOWS + 1, 12)), "the run goes on"
    went_on = [v for w, v in metrics(nodes["m0"]).rows if w == LOST and v.get("accepted_uids")]
    assert went_on, "it had its own payload, and took the step"
    roots = {tuple(metrics(node).series("state_root").items()) for node in nodes.values()}
    assert len({frozenset(series) for series in roots}) == 1, "of all windows, as they stand now"


@pytest.mark.slow
def test_an_audit_does_not_accuse_who_went_on_with_payloads_that_others_lacked(tmp_path) -> None:
    """val-d alone holds the payload of m0, and nobody can fetch it from there."""
    world = build_world({**STAKES_TAO, "val-d": 300}, schedule__num_windows=LOST + 6)

    def thief(context):
        node = _thief(None)(context)
        node.world_bucket = world.buckets[hotkey_of("m0")]
        hoard, step = world.buckets[hotkey_of("val-d")], node.step

        def step_and_hide() -> bool:
            goes_on = step()
            for key in hoard.list(f"{context.run.run_id.hex()}/payload/{LOST:08d}/"):
                hoard.delete(key)
            return goes_on

        node.step = step_and_hide
        return node

    drives = {name: to_the_end(Careless) for name in ("val-a", "val-b", "val-c")}
    drives |= {"m0": to_the_end(Miner), "m1": to_the_end(Miner), "val-d": to_the_end(Validator)}
    nodes = run(world, {**drives, "owner": to_the_end(thief)}, tmp_path)
    rows = metrics(nodes["val-d"]).rows
    assert any(w == LOST and v.get("no_op") == "void" for w, v in rows), "it took nothing back"
    context = reader(world, tmp_path / "auditor")
    auditor = Auditor(context, hotkey_of("val-d"), 0)
    source = logs_in_bucket(context, auditor.peers, hotkey_of("val-d"))
    found = list(audit_windows(auditor, source, 0, LOST + 5))
    assert [line for each in found for line in each.wrong] == []
    apart = [each.window for each in found if any("is void since" in u for u in each.unknown)]
    assert apart == list(range(LOST + 1, LOST + 1 + VOID_WINDOWS))
    assert found[-1].num_losses > 0, "afterwards it is audited again"


@pytest.mark.slow
def test_payloads_that_turn_up_again_are_applied_by_all(tmp_path) -> None:
    world, nodes = _swarm(tmp_path, LOST + 3)
    assert len(digests(nodes)) == 1
    both = {uid_of(world, "m0"), uid_of(world, "m1")}
    for node in nodes.values():
        sets = accepted(node)
        assert sets[LOST] == both
        assert sets[LOST + 1] == set(), "most of the stake said that it was stuck"
        assert metrics(node).series("no_op").keys().isdisjoint({LOST})
    state, reader = nodes["val-a"].follower.state, nodes["val-b"]
    steps = read_lineage(reader.context, reader.peers, state.window, state.root[:ROOT_BYTES])
    assert [step.window for step in steps] == list(range(state.window - 1))
    assert {m.uid for m in steps[LOST].members} == both
    assert read_lineage(reader.context, reader.peers, state.window, bytes(ROOT_BYTES)) == []


@pytest.mark.parametrize("windows_after", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_payloads_lost_in_the_last_windows_hold_nobody(windows_after: int, tmp_path) -> None:
    """Most validators lack the payload: votes after the run's end give it up."""
    num_windows = LOST + windows_after
    _, nodes = _swarm(tmp_path, None, num_windows)
    validators = [nodes[name] for name in ("val-a", "val-b", "val-c")]
    states = {(v.follower.state.window, v.follower.state.root) for v in validators}
    assert len(states) == 1
    assert all(accepted(node)[LOST] == set() for node in validators)


def test_a_run_that_nobody_questions_ends_in_its_last_window(tmp_path) -> None:
    """The last root is voted by all, and proven by the first votes after the end."""
    world = build_world(STAKES_TAO, schedule__num_windows=3)
    nodes = run(
        world,
        {
            **{name: to_the_end(Validator) for name in ("val-a", "val-b", "val-c")},
            **{name: to_the_end(Miner) for name in ("m0", "m1")},
        },
        tmp_path,
    )
    assert {node.follower.state.window for node in nodes.values()} == {4}
    _, values = world.ledger.commitments[hotkey_of("val-a")]
    vote = decode_record(values[-1]).vote
    assert vote is not None
    assert (vote.window, vote.root, vote.uids) == (
        3,
        nodes["m0"].follower.state.root[:ROOT_BYTES],
        frozenset(),
    )
    schedule = nodes["m0"].context.schedule
    assert schedule.vote_block(3) <= world.time.block < schedule.vote_block(4)
