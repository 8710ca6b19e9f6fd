"""A swarm in one process in which most miners and validators misbehave."""

import json
from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from localnet.adversaries.catalogue import BEHAVIOURS
from localnet.adversaries.validators import WeightCopier
from simulation.swarm import Drive, accepted, build_world, digests, honest, run, to_the_end, uid_of
from simulation.world import World, hotkey_of
from template.base.validator import Validator
from template.chain.ballots import read_ballot
from template.context import NodeContext

STAKES_TAO = {"val-a": 1000, "val-b": 900, "liar": 500, "absent-namer": 400, "silent": 300}
COPIER_STAKE_TAO = 100
MINERS = ("m0", "m1", "m2")
FREE = ("copier", "undelivered", "flipped", "hijacker")
NUM_WINDOWS = 6


def copier_of(world: World) -> Callable[[NodeContext], Validator]:
    """A weight copier that reads this world's ledger, which is no chain with an address."""

    def read_weights() -> Mapping[int, Mapping[int, float]]:
        uids = {n.hotkey: n.uid for n in world.ledger.neurons}
        return {uids[h]: rows[-1] for h, rows in list(world.ledger.weights.items())}

    return lambda context: Validator(context, policy=WeightCopier(context, read_weights))


@pytest.fixture(scope="module")
def world() -> World:
    names = {"owner": 0, **STAKES_TAO, "weight-copier": COPIER_STAKE_TAO}
    names |= dict.fromkeys((*MINERS, *FREE), 0)
    return build_world(names, schedule__num_windows=NUM_WINDOWS)


@pytest.fixture(scope="module")
def nodes(world: World, tmp_path_factory) -> dict[str, object]:
    bad = ("liar", "absent-namer", "silent", *FREE)
    drives: dict[str, Drive] = {name: to_the_end(BEHAVIOURS[name].build) for name in bad}
    drives |= honest("val-a", "val-b", *MINERS)
    drives["weight-copier"] = to_the_end(copier_of(world))
    return run(world, drives, tmp_path_factory.mktemp("swarm"))


def _last_weights(world: World, name: str) -> dict[int, float]:
    return world.ledger.weights[hotkey_of(name)][-1]


def _statuses(world: World, nodes: Mapping[str, object], name: str) -> Counter[str]:
    node = nodes["val-a"]
    assert isinstance(node, Validator)
    lines = (node.context.state_dir / "verdicts.jsonl").read_text().splitlines()
    uid = uid_of(world, name)
    rows = [row for row in map(json.loads, lines) if row.get("kind") == "verdict"]
    return Counter(row["status"] for row in rows if row["uid"] == uid)


def uids_of_workers(world: World) -> list[int]:
    return [uid_of(world, name) for name in MINERS]


def test_all_follow_one_model(world, nodes) -> None:
    ((window, _, _),) = digests(nodes)
    assert window == NUM_WINDOWS + 1


def test_honest_miners_alone_are_paid(world, nodes) -> None:
    for name in ("val-a", "val-b", "silent"):
        paid = {uid for uid, share in _last_weights(world, name).items() if share > 0}
        paid -= {0}
        assert paid, name
        assert paid <= set(uids_of_workers(world)), name


def test_each_is_refused_for_what_it_does(world, nodes) -> None:
    """In most windows: a machine that is slow leaves some unscored."""
    reasons = {"copier": "overlap", "undelivered": "not_delivered", "flipped": "no_gain"}
    for name, reason in reasons.items():
        statuses = _statuses(world, nodes, name)
        assert statuses[reason] > NUM_WINDOWS // 2, (name, statuses)
        assert not statuses["named"], (name, statuses)


def test_liars_decide_nothing(world, nodes) -> None:
    uids = {uid_of(world, name) for name in ("copier", "undelivered", "flipped")}
    members = accepted(nodes["val-a"])
    assert not uids & set().union(*members.values())
    assert sum(len(named) >= len(MINERS) for named in members.values()) > NUM_WINDOWS // 2
    (lied,) = _last_weights(world, "liar")
    assert lied in {uid_of(world, name) for name in FREE}


def test_votes_are_what_the_names_say(world, nodes) -> None:
    ballot = read_ballot(world.chain(hotkey_of("owner")), world.run, NUM_WINDOWS - 1)
    votes = {voter.hotkey: voter.vote.uids for voter in ballot.voters}
    missing = {voter.hotkey: voter.vote.missing for voter in ballot.voters}
    assert hotkey_of("silent") not in votes
    assert hotkey_of("weight-copier") not in votes
    workers = set(uids_of_workers(world))
    assert votes[hotkey_of("val-a")] & workers
    assert not votes[hotkey_of("liar")] & workers
    assert missing[hotkey_of("liar")] & workers
    assert not missing[hotkey_of("val-a")] & workers
    named = votes[hotkey_of("absent-namer")]
    assert named >= {uid_of(world, "undelivered"), uid_of(world, "owner")}
    assert not votes[hotkey_of("val-a")] & {uid_of(world, "undelivered"), uid_of(world, "owner")}


def test_a_weight_copier_has_scored_nothing(world, nodes) -> None:
    copier = nodes["weight-copier"]
    assert isinstance(copier, Validator)
    assert not (copier.context.state_dir / "verdicts.jsonl").exists()
    copied = _last_weights(world, "weight-copier")
    assert sum(copied.values()) == pytest.approx(1.0)
    assert {uid for uid, share in copied.items() if share > 0} & set(uids_of_workers(world))
