"""Sleepers, liars, and nodes that cannot heal: a swarm of the real loops goes on by its own root.

Each case ended honest nodes before: the votes of one window set the root, whoever cast them.
"""

import logging

import pytest

from simulation.swarm import accepted, build_world, digests, honest, metrics, run, to_the_end
from simulation.world import hotkey_of
from template.base.validator import Validator
from template.protocol.keys import blob_key
from template.protocol.record import ROOT_BYTES, SAMPLE_DIGEST_BYTES, Vote, decode_record
from tests.support.votes import asleep_in, lying_in, with_votes

FALSE_ROOT = bytes(ROOT_BYTES)
FALSE_SAMPLE = bytes(SAMPLE_DIGEST_BYTES)
NIGHT = 2
"""The window that honest validators miss."""
NUM_WINDOWS = 5
MINERS = ("m0", "m1")


def swarm(stakes_tao, *, sleepers, liar, lie, windows=(NIGHT,), folder):
    """Nodes of a run in which `sleepers` miss `windows` and `liar` lies in all of them."""
    world = build_world(
        {"owner": 0, **stakes_tao, "m0": 0, "m1": 0}, schedule__num_windows=NUM_WINDOWS
    )
    drives = honest(*stakes_tao, *MINERS)

    def changed(sent):
        return to_the_end(lambda context: Validator(with_votes(context, sent=sent)))

    for name in sleepers:
        drives[name] = changed(asleep_in(*windows))
    drives[liar] = changed(lying_in(world, *windows, **lie))
    return run(world, drives, folder)


def votes_of(world, name: str) -> dict[int, Vote]:
    """window -> the vote on it as it stood on chain."""
    _, values = world.ledger.commitments[hotkey_of(name)]
    votes = [vote for data in values if (vote := decode_record(data).vote) is not None]
    return {vote.window: vote for vote in votes}


def assert_the_night_is_empty_and_the_days_are_not(nodes, nights=(NIGHT,)) -> None:
    assert len(digests(nodes)) == 1
    for node in nodes.values():
        assert not node.follower.is_apart
        by_window = accepted(node)
        assert [w for w, uids in by_window.items() if not uids] == list(nights)
        assert all("away" in metrics(node).series("no_op")[window] for window in nights)
        assert set(metrics(node).series("differs_from_majority").values()) == {0}


@pytest.mark.parametrize(
    "lie",
    [
        {"root": FALSE_ROOT},
        pytest.param({"sample_digest": FALSE_SAMPLE}, marks=pytest.mark.slow),
        pytest.param({}, marks=pytest.mark.slow),
    ],
    ids=["a root that nobody has", "the right root and a wrong sample", "names alone"],
)
def test_a_liar_of_27_percent_is_alone_awake_for_a_window(lie, tmp_path) -> None:
    nodes = swarm(
        {"val-a": 400, "val-b": 330, "val-liar": 270},
        sleepers=("val-a", "val-b"),
        liar="val-liar",
        lie=lie,
        folder=tmp_path,
    )
    assert_the_night_is_empty_and_the_days_are_not(nodes)


def test_a_liar_of_40_percent_outvotes_those_awake(tmp_path) -> None:
    """36 % misses one vote; 40 % is more than half of what votes, and less than half of all."""
    nodes = swarm(
        {"val-a": 360, "val-b": 240, "val-liar": 400},
        sleepers=("val-a",),
        liar="val-liar",
        lie={"root": FALSE_ROOT},
        folder=tmp_path,
    )
    (digest,) = digests(nodes)
    assert digest[0] >= NUM_WINDOWS + 1
    by_window = accepted(nodes["m0"])
    assert by_window[NIGHT] == set()
    assert by_window[NIGHT + 1]
    assert metrics(nodes["m0"]).series("no_op")[NIGHT].startswith("no root has more than half")


def test_the_run_pauses_while_most_of_the_stake_sleeps(tmp_path, caplog) -> None:
    """And says why: miners' payloads are not refused, nobody decides on them."""
    caplog.set_level(logging.INFO, logger="template")
    nights = (1, 2, 3)
    nodes = swarm(
        {"val-a": 740, "val-liar": 260},
        sleepers=("val-a",),
        liar="val-liar",
        lie={"root": FALSE_ROOT},
        windows=nights,
        folder=tmp_path,
    )
    assert_the_night_is_empty_and_the_days_are_not(nodes, nights)
    for night in nights:
        told = [line for line in caplog.messages if line.startswith(f"window {night}: nobody's")]
        assert len(told) == len(nodes)
        assert all("half of the reference stake or more is away" in line for line in told)
    assert not any("accepted []" in line for line in caplog.messages)


def test_a_node_that_cannot_heal_goes_on_names_nobody_and_looks_again(tmp_path, caplog) -> None:
    """val-b sees other tensors voted than it has, as on another build of torch, for two windows."""
    world = build_world(
        {"owner": 0, "val-a": 800, "val-b": 200, "m0": 0, "m1": 0},
        schedule__num_windows=NUM_WINDOWS,
    )
    strange = lying_in(world, 1, 2, sample_digest=FALSE_SAMPLE)
    drives = honest("val-a", "val-b", *MINERS)
    drives["val-b"] = to_the_end(lambda context: Validator(with_votes(context, seen=strange)))
    nodes = run(world, drives, tmp_path)
    assert metrics(nodes["val-b"]).series("differs_from_majority") == {
        0: 0, 1: 1, 2: 1, 3: 0, 4: 0, NUM_WINDOWS: 0,
    }  # fmt: skip
    assert not nodes["val-b"].follower.is_apart
    assert len(digests(nodes, "val-a", *MINERS)) == 1
    votes = votes_of(world, "val-b")
    assert {w: bool(vote.uids) for w, vote in votes.items() if w < NUM_WINDOWS} == {
        0: True, 1: True, 2: False, 3: False, 4: True,
    }, "apart from the count of window 1 to the count of window 3"  # fmt: skip
    told = [r.message for r in caplog.records if "goes on by its own root" in r.message]
    assert len(told) == 2
    assert all("--run" in line for line in told)


def test_a_node_apart_goes_on_where_no_bucket_has_theta_0(tmp_path) -> None:
    """The owner's bucket and all copies are gone: no fault of the node's operator."""
    world = build_world(
        {"owner": 0, "val-a": 800, "val-b": 200, "m0": 0, "m1": 0},
        schedule__num_windows=NUM_WINDOWS,
    )
    strange = lying_in(world, 1, sample_digest=FALSE_SAMPLE)
    drives = honest("val-a", "val-b", *MINERS)
    drives["val-b"] = to_the_end(lambda context: Validator(with_votes(context, seen=strange)))
    key = blob_key(bytes.fromhex(world.spec.checkpoint.theta0_digest))

    def thief(world, context):
        context.waiter.until_head(context.schedule.first_block(2))
        for bucket in world.buckets.values():
            bucket.delete(key)

    nodes = run(world, drives | {"owner": thief}, tmp_path)
    assert metrics(nodes["val-b"]).series("differs_from_majority")[1] == 1
    assert len(digests(nodes, "val-a", "val-b", *MINERS)) == 1
