"""Validators whose votes say what nobody has: alone awake, and beside the honest."""

from dataclasses import replace
from pathlib import Path

import pytest

from localnet.adversaries.catalogue import BEHAVIOURS
from localnet.adversaries.validators import (
    FALSE_ROOT,
    FALSE_SAMPLE,
    FalseVoter,
    Lie,
    find_lie,
    plan_lies,
)
from simulation.swarm import (
    TINY,
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
from template.base.policy import ValidatorPolicy
from template.base.validator import Validator
from template.chain.ballots import read_ballot
from template.protocol.record import MAX_UIDS, Vote

STAKES_TAO = {"owner": 0, "val-a": 1000, "val-b": 900, "liar": 900, "m0": 0, "m1": 0}
"""Of the stake awake in every window but one the liar has 32 %, and alone in that one all."""
HONEST = ("val-a", "val-b", "m0", "m1")
ASLEEP, NUM_WINDOWS = 2, 5
VOTE = Vote(window=7, root=b"r" * 16, sample_digest=b"s" * 8, uids=frozenset({1, 4}))
AWAY = "half of the reference stake or more is away"


class Sleeper(Validator):
    """Honest, and votes on every window but ASLEEP."""

    def _vote(self, window: int) -> None:
        if window == ASLEEP:
            self.memory = self.memory.voted_on(window)
        else:
            super()._vote(window)


def policy_of(tmp_path: Path, lie: Lie) -> FalseVoter:
    world = build_world(STAKES_TAO, **TINY)
    return FalseVoter(world.context(hotkey_of("liar"), tmp_path), lie)


def test_an_honest_policy_votes_as_it_stands() -> None:
    assert ValidatorPolicy().vote(VOTE) is VOTE
    assert find_lie(VOTE) is None


def test_a_lie_changes_one_digest_and_names_garbage(tmp_path) -> None:
    garbage = replace(VOTE, uids=frozenset(range(MAX_UIDS)) - VOTE.uids, missing=VOTE.uids)
    root = policy_of(tmp_path, Lie.ROOT).vote(VOTE)
    assert root == replace(garbage, root=FALSE_ROOT)
    sample = policy_of(tmp_path, Lie.SAMPLE).vote(VOTE)
    assert sample == replace(garbage, sample_digest=FALSE_SAMPLE)
    assert (find_lie(root), find_lie(sample)) == (Lie.ROOT, Lie.SAMPLE)


def test_planned_lies_are_told_in_their_windows_alone(tmp_path) -> None:
    policy = policy_of(tmp_path, Lie.ROOT)
    plan_lies(tmp_path, {})
    assert policy.vote(VOTE) is VOTE
    plan_lies(tmp_path, {VOTE.window: Lie.SAMPLE, VOTE.window + 1: Lie.ROOT})
    told = [find_lie(policy.vote(replace(VOTE, window=VOTE.window + n))) for n in range(-1, 3)]
    assert told == [None, Lie.SAMPLE, Lie.ROOT, None]


def votes_on(world: World, window: int) -> dict[str, Vote]:
    chain = world.chain(hotkey_of("owner"))
    ballot = read_ballot(chain, world.run, window)
    return {voter.hotkey: voter.vote for voter in ballot.voters}


@pytest.mark.parametrize(
    ("name", "lie"),
    [
        ("false-root", Lie.ROOT),
        pytest.param("false-sample", Lie.SAMPLE, marks=pytest.mark.slow),
    ],
)
def test_a_false_voter_alone_awake_ends_nobody_and_moves_nothing(tmp_path, name, lie) -> None:
    world = build_world(STAKES_TAO, **TINY, schedule__num_windows=NUM_WINDOWS)
    drives = {
        **honest(*HONEST),
        **dict.fromkeys(("val-a", "val-b"), to_the_end(Sleeper)),
        "liar": to_the_end(BEHAVIOURS[name].build),
    }
    nodes = run(world, drives, tmp_path)

    ((window, _, _),) = digests(nodes)
    assert window == NUM_WINDOWS + 1
    alone = votes_on(world, ASLEEP)
    assert alone.keys() == {hotkey_of("liar")}
    assert find_lie(alone[hotkey_of("liar")]) is lie
    for node in HONEST:
        seen = metrics(nodes[node])
        assert seen.series("no_op").get(ASLEEP) == AWAY, node
        assert set(seen.series("differs_from_majority").values()) == {0}, node
        dissent = seen.series("dissenting_uids")
        named = {w for w, uids in dissent.items() if uids and w < NUM_WINDOWS}
        assert named == set(range(NUM_WINDOWS)) - {ASLEEP}, node
        assert any(uids for w, uids in accepted(nodes[node]).items() if w > ASLEEP), node
    good = {uid_of(world, "m0"), uid_of(world, "m1")}
    assert set().union(*accepted(nodes["m0"]).values()) <= good


def test_a_false_sample_digest_stands_beside_the_true_root(tmp_path) -> None:
    """The digest alone is false: such a vote counts for the root, not for the tensors."""
    world = build_world(STAKES_TAO, **TINY, schedule__num_windows=1)
    drives = {**honest(*HONEST), "liar": to_the_end(BEHAVIOURS["false-sample"].build)}
    nodes = run(world, drives, tmp_path)
    votes = votes_on(world, 0)
    liar, true = votes[hotkey_of("liar")], votes[hotkey_of("val-a")]
    assert liar.root == true.root != FALSE_ROOT
    assert liar.sample_digest == FALSE_SAMPLE != true.sample_digest
    assert len(digests(nodes)) == 1
