"""Properties of the accepted set, whatever the stakes and the votes, against a naive count."""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from template.protocol.quorum import Ballot, Decision, QuorumRules, Voter, decide, voided
from template.protocol.record import PACES, Vote
from tests.support.quorum import OTHER, ROOT, SAMPLE, SEED, lot, member

UIDS = range(8)
HALF = Fraction(1, 2)
ROOTS = (ROOT, OTHER, b"T" * 16)

any_stake = st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1), st.just(10**18))


@st.composite
def voter_lists(draw: st.DrawFn, stakes=any_stake, roots=ROOTS) -> list[Voter]:
    """Up to seven validators: any stakes, any names, any roots."""
    drawn = draw(
        st.lists(
            st.tuples(
                stakes,
                st.frozensets(st.sampled_from([*UIDS, 200])),
                st.sampled_from(roots),
                st.sampled_from(PACES),
            ),
            max_size=7,
        )
    )
    return [_voter(100 + i, *vote) for i, vote in enumerate(drawn)]


def _voter(
    uid: int, stake_rao: int, uids: Collection[int], root: bytes = ROOT, pace: int = 0
) -> Voter:
    vote = Vote(window=5, root=root, sample_digest=SAMPLE, uids=frozenset(uids), pace=pace)
    return Voter(uid=uid, hotkey=f"validator-{uid}", stake_rao=stake_rao, vote=vote)


def _ballot(voters: Sequence[Voter], candidates: Collection[int] = UIDS) -> Ballot:
    members = {uid: member(uid) for uid in candidates}
    return Ballot(window=5, seed=SEED, candidates=members, voters=voters)


def _rules(peers_per_step: int = 99) -> QuorumRules:
    return QuorumRules(
        peers_per_step=peers_per_step, reference_windows=8, min_reference_rao=0, alpha_windows=24
    )


def _decide(voters: Sequence[Voter], **rules: int) -> Decision:
    return decide(_ballot(voters), 0, _rules(**rules))


def _accepted(decision: Decision) -> set[int]:
    return {m.uid for m in decision.members}


def _share(voters: Sequence[Voter], counts: Callable[[Vote], bool]) -> Fraction:
    """Of the voting stake that votes for which `counts` holds, 0 if there is none."""
    total = sum(v.stake_rao for v in voters)
    return Fraction(sum(v.stake_rao for v in voters if counts(v.vote)), total or 1)


def _is_for(root: bytes) -> Callable[[Vote], bool]:
    return lambda vote: vote.root == root


def _naive_root(voters: Sequence[Voter]) -> bytes | None:
    for root in ROOTS:
        if _share(voters, _is_for(root)) > HALF:
            return root
    return None


def _naive_share(voters: Sequence[Voter], uid: int) -> Fraction:
    root = _naive_root(voters)
    return _share(voters, lambda vote: vote.root == root is not None and uid in vote.uids)


@settings(max_examples=100)
@given(voter_lists(), st.frozensets(st.sampled_from(UIDS)))
def test_accepted_if_and_only_if_more_than_half_of_the_voting_stake_names_it(
    voters: list[Voter], candidates: frozenset[int]
) -> None:
    """Any stakes, any roots; a uid that is no candidate (dropped, or committed nothing) is none."""
    decision = decide(_ballot(voters, candidates), 0, _rules())
    assert _accepted(decision) == {u for u in candidates if _naive_share(voters, u) > HALF}
    assert decision.root == _naive_root(voters)
    assert bool(decision.no_op) == (not decision.members)


@settings(max_examples=100)
@given(voter_lists(stakes=st.just(10**15)), st.integers(1, 7))
def test_with_equal_stakes_more_than_half_of_the_heads_decide(
    voters: list[Voter], limit: int
) -> None:
    decision = _decide(voters, peers_per_step=limit)
    root = _naive_root(voters)
    heads = {u: sum(v.vote.root == root and u in v.vote.uids for v in voters) for u in UIDS}
    won = sorted(
        (u for u in UIDS if root is not None and 2 * heads[u] > len(voters)),
        key=lambda u: (-heads[u], lot(u)),
    )
    assert _accepted(decision) == set(won[:limit])


@settings(max_examples=100)
@given(voter_lists(), st.integers(1, 8), st.randoms(use_true_random=False))
def test_neither_the_order_of_votes_nor_of_candidates_changes_anything(
    voters: list[Voter], limit: int, generator: random.Random
) -> None:
    decision, uids = _decide(voters, peers_per_step=limit), list(UIDS)
    generator.shuffle(voters)
    generator.shuffle(uids)
    assert decide(_ballot(voters, uids), 0, _rules(limit)) == decision


@settings(max_examples=100)
@given(voter_lists(), st.integers(1, 8))
def test_the_cap_keeps_those_that_the_most_stake_names_then_the_lot(
    voters: list[Voter], limit: int
) -> None:
    won = [uid for uid in UIDS if _naive_share(voters, uid) > HALF]
    won.sort(key=lambda uid: (-_naive_share(voters, uid), lot(uid)))
    assert _accepted(_decide(voters, peers_per_step=limit)) == set(won[:limit])


any_names = st.frozensets(st.sampled_from(UIDS))


@settings(max_examples=100)
@given(voter_lists(roots=(ROOT,)), st.integers(0, 2**64), any_names, any_names)
def test_a_wrong_root_weighs_and_says_nothing(
    agreeing: list[Voter], wrong_rao: int, first: frozenset[int], second: frozenset[int]
) -> None:
    """Whatever those on another root name, with less stake than the majority: nothing changes."""
    wrong_rao = min(wrong_rao, sum(v.stake_rao for v in agreeing) - 1)
    assume(wrong_rao >= 0)
    decision = _decide([*agreeing, _voter(99, wrong_rao, first, OTHER)])
    assert decision == _decide([*agreeing, _voter(99, wrong_rao, second, OTHER)])
    assert (decision.root, decision.dissenters) == (ROOT, (99,))
    assert all("validator-99" not in namers for namers in decision.namers.values())
    silent = _decide([*agreeing, _voter(99, wrong_rao, ())])
    assert decision.members == silent.members


@settings(max_examples=100)
@given(voter_lists(), st.sampled_from(UIDS))
def test_a_dropped_uid_is_not_accepted_and_takes_no_other_with_it(
    voters: list[Voter], dropped: int
) -> None:
    there = _accepted(_decide(voters))
    gone = decide(_ballot(voters, [u for u in UIDS if u != dropped]), 0, _rules())
    assert _accepted(gone) == there - {dropped}


@settings(max_examples=100)
@given(voter_lists(), st.integers(0, 2**66))
def test_the_reference_weighs_like_a_silent_voter(voters: list[Voter], before_rao: int) -> None:
    """A stake asleep decides as the same stake awake without a name: by its weight alone."""
    decision = decide(_ballot(voters), before_rao, _rules())
    awake_rao = sum(v.stake_rao for v in voters)
    silent = _voter(99, max(0, decision.reference_rao - awake_rao), (), b"S" * 16)
    assert _accepted(decision) == _accepted(_decide([*voters, silent]))
    assert decision.root in (None, _decide([*voters, silent]).root)


@settings(max_examples=100)
@given(voter_lists(), st.integers(0, 2**7 - 1))
def test_of_two_parts_of_one_ballot_at_most_one_has_the_majority_of_it(
    voters: list[Voter], chosen: int
) -> None:
    """Measured against the stake of the whole ballot: what votes of a part name with more than half
    of it the whole ballot accepts, and the rest of the votes can do so with nothing.
    """
    parts = [[v for i, v in enumerate(voters) if chosen >> i & 1 == side] for side in (0, 1)]
    half_rao = Fraction(sum(v.stake_rao for v in voters), 2)
    named = [{u for u in UIDS if _naming_rao(part, u) > half_rao} for part in parts]
    assert not (named[0] and named[1])
    assert named[0] | named[1] <= _accepted(_decide(voters))


def _naming_rao(voters: Sequence[Voter], uid: int) -> int:
    root = _decide(voters).root
    return sum(v.stake_rao for v in voters if v.vote.root == root and uid in v.vote.uids)


def test_two_halves_that_count_their_own_votes_alone_accept_different_sets() -> None:
    """So no node may: `decide` is safe only with the one ballot of a finalised block."""
    left, right = [_voter(100, 5, {1}), _voter(101, 5, {1})], [_voter(102, 9, {2})]
    assert (_accepted(_decide(left)), _accepted(_decide(right))) == ({1}, {2})
    assert _accepted(_decide(left + right)) == {1}


@settings(max_examples=100)
@given(voter_lists())
def test_alpha_moves_if_and_only_if_more_than_half_of_the_stake_at_the_root_says_so(
    voters: list[Voter],
) -> None:
    decision, root = _decide(voters), _naive_root(voters)
    shares = {pace: _share(voters, _is_paced(root, pace)) for pace in (-1, 1)}
    wanted = next((pace for pace, share in shares.items() if share > HALF), 0)
    assert decision.pace == (wanted if decision.members else 0)


@settings(max_examples=100)
@given(
    voter_lists(roots=(ROOT,)),
    st.lists(st.tuples(st.integers(0, 2**64), st.sampled_from(ROOTS)), max_size=4),
    st.sampled_from([-1, 1]),
)
def test_liars_with_less_than_half_of_the_stake_move_alpha_nowhere(
    honest: list[Voter], liars: list[tuple[int, bytes]], pace: int
) -> None:
    """Whatever the liars' root: alpha goes where some honest voter wants it, or stays."""
    honest_rao = sum(v.stake_rao for v in honest)
    assume(sum(rao for rao, _ in liars) < honest_rao)
    lying = [_voter(200 + i, rao, UIDS, root, pace) for i, (rao, root) in enumerate(liars)]
    decision = _decide([*honest, *lying])
    assert decision.pace in {0, *(v.vote.pace for v in honest)}
    against = [replace(v, vote=replace(v.vote, pace=0)) for v in honest]
    assert _decide([*against, *lying]).pace == 0


@settings(max_examples=100)
@given(voter_lists(), st.integers(0, 2**66))
def test_sleepers_in_the_reference_hold_alpha(voters: list[Voter], before_rao: int) -> None:
    decision = decide(_ballot(voters), before_rao, _rules())
    saying = [v for v in voters if v.vote.pace == decision.pace and v.vote.root == decision.root]
    if decision.pace:
        assert 2 * sum(v.stake_rao for v in saying) > decision.reference_rao


def test_a_window_without_payloads_and_a_void_window_leave_alpha() -> None:
    voters = [_voter(100, 5, (1,), pace=1)]
    assert _decide(voters).pace == 1
    assert voided(_decide(voters)).pace == 0
    assert _decide([_voter(100, 5, (), pace=1)]).pace == 0
    assert decide(_ballot(voters, ()), 0, _rules()).pace == 0


@pytest.mark.parametrize(("alpha_windows", "moved"), [(0, 0), (5, 0), (6, 1)])
def test_votes_move_alpha_in_the_first_windows_alone(alpha_windows: int, moved: int) -> None:
    """The ballot is on window 5."""
    rules = replace(_rules(), alpha_windows=alpha_windows)
    assert decide(_ballot([_voter(100, 5, (1,), pace=1)], UIDS), 0, rules).pace == moved


def _is_paced(root: bytes | None, pace: int) -> Callable[[Vote], bool]:
    return lambda vote: vote.root == root is not None and vote.pace == pace
