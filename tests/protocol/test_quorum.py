"""The accepted set: majorities at their limits in rao, roots, quorum, ties, order."""

import random
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template.protocol.holders import payload_line
from template.protocol.quorum import Ballot, Decision, QuorumRules, Voter, decide, next_reference
from template.protocol.record import Vote
from template.protocol.root import Member
from tests.support.quorum import OTHER, ROOT, SAMPLE, SEED, lot, member

WRONG = b"W" * 8
RULES = QuorumRules(peers_per_step=20, reference_windows=10, min_reference_rao=0, alpha_windows=24)


def voter(
    uid: int,
    stake_rao: int,
    uids: Collection[int] = (),
    root: bytes = ROOT,
    sample: bytes = SAMPLE,
) -> Voter:
    vote = Vote(window=5, root=root, sample_digest=sample, uids=frozenset(uids))
    return Voter(uid=uid, hotkey=f"validator-{uid}", stake_rao=stake_rao, vote=vote)


def ballot(*voters: Voter, candidates: Collection[int] = range(1, 30)) -> Ballot:
    members = {uid: member(uid) for uid in candidates}
    return Ballot(window=5, seed=SEED, candidates=members, voters=voters)


def uids(decision: Decision) -> list[int]:
    return [m.uid for m in decision.members]


@pytest.mark.parametrize(
    ("naming_rao", "silent_rao", "accepted"),
    [
        (1, 0, True),
        (1, 1, False),
        (500, 500, False),
        (501, 500, True),
        (500, 501, False),
        (10**18 + 1, 10**18, True),
        (10**18, 10**18, False),
    ],
)
def test_a_majority_is_more_than_half_to_the_rao(
    naming_rao: int, silent_rao: int, accepted: bool
) -> None:
    """Above 2^53 a double cannot tell these apart."""
    decision = decide(ballot(voter(100, naming_rao, {7}), voter(101, silent_rao)), 0, RULES)
    assert uids(decision) == ([7] if accepted else [])
    assert decision.voting_stake_rao == naming_rao + silent_rao
    assert bool(decision.no_op) == (not accepted)


def test_stakes_of_many_voters_add_up_per_uid() -> None:
    voters = voter(100, 30, {1, 2}), voter(101, 30, {2, 3}), voter(102, 40, {3})
    decision = decide(ballot(*voters), 0, RULES)
    assert uids(decision) == [2, 3]
    assert decision.members == (member(2), member(3))
    assert {uid: set(namers) for uid, namers in decision.namers.items()} == {
        2: {"validator-100", "validator-101"},
        3: {"validator-102", "validator-101"},
    }


def test_a_named_uid_without_a_commitment_is_not_accepted() -> None:
    decision = decide(ballot(voter(100, 1, {1, 2, 200}), candidates=[2]), 0, RULES)
    assert uids(decision) == [2]


def test_another_root_counts_in_the_total_and_names_nobody() -> None:
    agreeing, other = voter(100, 60, {1, 2}), voter(101, 40, {2, 3}, root=OTHER)
    decision = decide(ballot(agreeing, other), 0, RULES)
    assert uids(decision) == [1, 2]
    assert decision.namers == {1: ("validator-100",), 2: ("validator-100",)}
    assert decision.root == ROOT
    assert decision.dissenters == (101,)
    third = voter(102, 60, {2, 3}, root=b"T" * 16)
    decision = decide(ballot(agreeing, other, third), 0, RULES)
    assert uids(decision) == []
    assert decision.voting_stake_rao == 160


def test_the_heaviest_root_wins_and_not_the_most_frequent() -> None:
    few = [voter(100, 51, {1}, root=ROOT)]
    many = [voter(101 + i, 7, {2}, root=OTHER) for i in range(7)]
    decision = decide(ballot(*many, *few), 0, RULES)
    assert decision.root == ROOT
    assert uids(decision) == [1]
    assert decision.dissenters == tuple(range(101, 108))


def test_with_equal_roots_nobody_has_a_majority() -> None:
    decision = decide(
        ballot(voter(100, 5, {1}, root=ROOT), voter(101, 5, {2}, root=OTHER)), 0, RULES
    )
    assert decision.root is None
    assert decision.dissenters == ()
    assert uids(decision) == []


def test_a_root_needs_more_than_half_of_the_voting_stake() -> None:
    """Three roots, the largest at half: a plurality is nobody's word."""
    third = bytes(range(16))
    voters = [voter(100, 50, {1}), voter(101, 30, {1}, root=OTHER), voter(99, 20, root=third)]
    assert decide(ballot(*voters), 0, RULES).root is None
    voters[0] = voter(100, 51, {1})
    decision = decide(ballot(*voters), 0, RULES)
    assert decision.root == ROOT
    assert uids(decision) == [1]


def test_another_sample_dissents_but_names() -> None:
    """Its tensors differ, its history does not: it must heal, and its judgement still counts."""
    decision = decide(
        ballot(voter(100, 40, {1}), voter(101, 60, {1}, sample=WRONG), voter(99, 30, {1})),
        0,
        RULES,
    )
    assert decision.sample_digest == SAMPLE
    assert decision.dissenters == (101,)
    assert uids(decision) == [1]
    assert set(decision.namers[1]) == {"validator-101", "validator-100", "validator-99"}


def test_namers_stand_in_the_line_of_their_payload_and_dust_stands_last() -> None:
    """Hotkeys without stake are free: by the hash alone they would be asked first."""
    honest = [voter(100 + i, 50, {1, 2, 3}) for i in range(6)]
    dust = [voter(200 + i, 1, {1, 2, 3}) for i in range(20)]
    cast = ballot(*honest, *dust)
    decision = decide(cast, 0, RULES)
    for member_, namers in zip(decision.members, decision.namers.values(), strict=True):
        stakes = {v.hotkey: v.stake_rao for v in cast.voters}
        assert list(namers) == payload_line(cast.seed, member_.digest, stakes)
        assert set(namers[:6]) == {v.hotkey for v in honest}
    assert len({namers[:6] for namers in decision.namers.values()}) == 3, "each in its own order"
    other = decide(replace(cast, seed=b"another block"), 0, RULES)
    assert other.namers != decision.namers, "no miner knows the order when it commits"


def test_the_sample_of_another_root_has_no_say() -> None:
    decision = decide(
        ballot(voter(100, 60, {1}), voter(101, 50, {1}, root=OTHER, sample=WRONG)), 0, RULES
    )
    assert decision.sample_digest == SAMPLE


def test_dissenters_are_sorted() -> None:
    voters = [voter(uid, 1, root=OTHER) for uid in (30, 4, 17)]
    assert decide(ballot(voter(9, 100), *voters), 0, RULES).dissenters == (4, 17, 30)


@pytest.mark.parametrize("voters", [(), (voter(100, 0, {1}),)], ids=["no votes", "no stake"])
def test_nobody_voted(voters: tuple[Voter, ...]) -> None:
    decision = decide(ballot(*voters), 10, RULES)
    assert decision.members == ()
    assert decision.namers == {}
    assert decision.no_op == "no stake voted"
    assert decision.voting_stake_rao == 0
    assert decision.root is None


@pytest.mark.parametrize(
    ("stake_rao", "before_rao", "reference_rao", "has_authority"),
    [
        (1, 0, 1, True),
        (46, 100, 90, True),
        (45, 100, 90, False),
        (46, 101, 90, True),
        (46, 102, 91, True),
        (45, 101, 90, False),
        (100, 100, 100, True),
        (1, 1, 1, True),
        (10**18, 2 * 10**18, 18 * 10**17, True),
        (10**18, 3 * 10**18, 27 * 10**17, False),
    ],
)
def test_authority_needs_more_than_half_of_the_reference_to_the_rao(
    stake_rao: int, before_rao: int, reference_rao: int, has_authority: bool
) -> None:
    """A reference of 100 decays by a tenth to 90, of which 45 is half; the loss is rounded up."""
    decision = decide(ballot(voter(100, stake_rao, {1})), before_rao, RULES)
    assert decision.reference_rao == reference_rao
    assert uids(decision) == ([1] if has_authority else [])
    assert ("half of the reference stake or more is away" in decision.no_op) == (not has_authority)
    assert decision.root == (ROOT if has_authority else None)


def test_a_reference_decays_to_nothing_or_to_its_minimum() -> None:
    reference_rao, windows = 10**9, 0
    while reference_rao:
        reference_rao = next_reference(reference_rao, 0, RULES)
        windows += 1
    assert 100 < windows < 250
    floor = replace(RULES, min_reference_rao=7)
    assert next_reference(0, 3, floor) == 7
    assert next_reference(0, 9, floor) == 9
    assert decide(ballot(voter(100, 3, {1})), 0, floor).root is None
    assert decide(ballot(voter(100, 4, {1})), 0, floor).root == ROOT


def test_a_minority_awake_names_nobody_even_on_the_right_root() -> None:
    """A liar of 40 with an honest vote of 30 on the same root: only both together decide."""
    liar, honest = voter(100, 40, {1}), voter(101, 30, {2})
    decision = decide(ballot(liar, honest), 100, RULES)
    assert (decision.root, uids(decision)) == (ROOT, [])
    both = decide(ballot(liar, voter(101, 30, {1, 2})), 100, RULES)
    assert uids(both) == [1]


def test_a_sample_digest_needs_authority_of_its_own() -> None:
    decision = decide(ballot(voter(100, 40, sample=WRONG), voter(101, 30)), 100, RULES)
    assert (decision.root, decision.sample_digest) == (ROOT, None)
    assert decision.dissenters == ()


def test_more_winners_than_places_fall_to_stake_then_to_the_lot() -> None:
    rules = QuorumRules(
        peers_per_step=3, reference_windows=10, min_reference_rao=0, alpha_windows=24
    )
    everybody = set(range(1, 11))
    decision = decide(ballot(voter(100, 60, everybody), voter(101, 40, {8, 9})), 0, rules)
    drawn = min(everybody - {8, 9}, key=lot)
    assert uids(decision) == sorted([8, 9, drawn])
    assert set(decision.namers) == {8, 9, drawn}
    tied = decide(ballot(voter(100, 60, everybody)), 0, rules)
    assert uids(tied) == sorted(sorted(everybody, key=lot)[:3])


@pytest.mark.parametrize(("num_named", "num_accepted"), [(19, 19), (20, 20), (21, 20)])
def test_peers_per_step_at_its_limit(num_named: int, num_accepted: int) -> None:
    decision = decide(ballot(voter(100, 1, range(1, num_named + 1))), 0, RULES)
    assert len(decision.members) == num_accepted
    assert uids(decision) == sorted(uids(decision))


def naive_members(
    votes: list[tuple[int, frozenset[int], bytes]], candidates: Mapping[int, Member]
) -> set[int]:
    total = sum(stake for stake, _, _ in votes)
    roots = {root: sum(s for s, _, r in votes if r == root) for _, _, root in votes}
    heaviest = min(roots, key=lambda root: (-roots[root], root))
    return {
        uid
        for uid in candidates
        if sum(s for s, named, root in votes if root == heaviest and uid in named) > total / 2
    }


votes = st.tuples(
    st.integers(1, 5), st.frozensets(st.integers(0, 6)), st.sampled_from([ROOT, ROOT, OTHER])
)


@settings(max_examples=200, deadline=None)
@given(st.lists(votes, min_size=1, max_size=6), st.integers(1, 7), st.randoms())
def test_any_ballot_against_the_definition_and_in_any_order(
    drawn: list[tuple[int, frozenset[int], bytes]], limit: int, generator: random.Random
) -> None:
    rules = QuorumRules(
        peers_per_step=limit, reference_windows=10, min_reference_rao=0, alpha_windows=24
    )
    voters = [voter(50 + i, stake, named, root) for i, (stake, named, root) in enumerate(drawn)]
    first = ballot(*voters, candidates=range(6))
    decision = decide(first, 1, rules)
    expected = naive_members(drawn, first.candidates)
    assert set(uids(decision)) <= expected
    assert len(decision.members) == min(limit, len(expected))
    order = list(range(6))
    generator.shuffle(voters)
    generator.shuffle(order)
    assert decide(ballot(*voters, candidates=order), 1, rules) == decision


def missing(uid: int, stake_rao: int, uids: Collection[int], **changes: Any) -> Voter:
    one = voter(uid, stake_rao, **changes)
    return replace(one, vote=replace(one.vote, missing=frozenset(uids)))


@pytest.mark.parametrize(
    ("missing_rao", "silent_rao", "lost"),
    [(1, 0, True), (1, 1, True), (499, 501, False), (500, 501, False), (10**18, 10**18 + 1, False)],
)
def test_half_of_the_voting_stake_finds_a_payload_undelivered(
    missing_rao: int, silent_rao: int, lost: bool
) -> None:
    votes = ballot(missing(100, missing_rao, {7}), voter(101, silent_rao))
    assert decide(votes, 0, RULES).undelivered == ((member(7),) if lost else ())


def test_who_names_a_payload_does_not_miss_it() -> None:
    both = voter(100, 3, {7})
    both = replace(both, vote=replace(both.vote, missing=frozenset({7, 8})))
    decision = decide(ballot(both), 0, RULES)
    assert (uids(decision), decision.undelivered) == ([7], (member(8),))


def test_only_candidates_are_missed_and_another_root_misses_nothing() -> None:
    votes = ballot(missing(100, 3, {7, 200}), candidates=[7])
    assert decide(votes, 0, RULES).undelivered == (member(7),)
    stuck = missing(101, 3, {7, 8}, root=OTHER)
    assert decide(ballot(voter(100, 4), stuck), 0, RULES).undelivered == ()


def test_without_quorum_nobody_is_blamed() -> None:
    assert decide(ballot(missing(100, 1, {7})), 100, RULES).undelivered == ()
    assert decide(ballot(), 0, RULES).undelivered == ()
