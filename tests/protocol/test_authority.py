"""Authority over whole runs: any stakes, any sleepers, any liars below half of the reference.

A naive run of many windows: honest validators vote the root of their state when they are awake,
and name what they like; liars vote whatever hurts, in any window. Every honest node counts every
ballot as `RunLedger` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from template.protocol.quorum import (
    Ballot,
    Decision,
    QuorumRules,
    Voter,
    decide,
    find_standing_authority,
    next_reference,
)
from template.protocol.record import Vote
from template.protocol.root import next_root
from tests.support.quorum import SAMPLE, SEED, member

UIDS = frozenset(range(4))
FALSE_ROOT = b"F" * 16
FALSE_SAMPLE = b"f" * 8
NUM_WINDOWS = 8

stakes = st.integers(1, 10**6)
names = st.frozensets(st.sampled_from(sorted(UIDS)))


@dataclass(frozen=True)
class Plan:
    """Who holds what, who sleeps when, and what liars say.

    `honest`, `liars`: stakes in rao. `awake[w]`: places of the honest awake in window w. `lies[w]`:
    one per liar, None for a silent liar, else (whether the root is true, whether the sample is
    true, uids named). `honest_names[w]`: uids named by the honest.
    """

    honest: list[int]
    liars: list[int]
    awake: list[set[int]]
    lies: list[list[tuple[bool, bool, frozenset[int]] | None]]
    honest_names: list[frozenset[int]]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    honest = draw(st.lists(stakes, min_size=1, max_size=5))
    liars = draw(st.lists(stakes, max_size=4))
    places = st.sets(st.integers(0, len(honest) - 1))
    lie = st.one_of(st.none(), st.tuples(st.booleans(), st.booleans(), names))
    per_liar = st.lists(lie, min_size=len(liars), max_size=len(liars))
    return Plan(
        honest=honest,
        liars=liars,
        awake=draw(st.lists(places, min_size=NUM_WINDOWS, max_size=NUM_WINDOWS)),
        lies=draw(st.lists(per_liar, min_size=NUM_WINDOWS, max_size=NUM_WINDOWS)),
        honest_names=draw(st.lists(names, min_size=NUM_WINDOWS, max_size=NUM_WINDOWS)),
    )


def _voter(uid: int, stake_rao: int, vote: Vote) -> Voter:
    return Voter(uid=uid, hotkey=f"validator-{uid}", stake_rao=stake_rao, vote=vote)


def _ballot(plan: Plan, window: int, root: bytes) -> Ballot:
    voters = []
    for place in sorted(plan.awake[window]):
        vote = Vote(
            window=window,
            root=root[:16],
            sample_digest=SAMPLE,
            uids=plan.honest_names[window],
        )
        voters.append(_voter(100 + place, plan.honest[place], vote))
    for place, lie in enumerate(plan.lies[window]):
        if lie is not None:
            is_true_root, is_true_sample, uids = lie
            vote = Vote(
                window=window,
                root=root[:16] if is_true_root else FALSE_ROOT,
                sample_digest=SAMPLE if is_true_sample else FALSE_SAMPLE,
                uids=uids,
            )
            voters.append(_voter(200 + place, plan.liars[place], vote))
    return Ballot(
        window=window, seed=SEED, candidates={uid: member(uid) for uid in UIDS}, voters=voters
    )


@settings(max_examples=80, deadline=None)
@given(plans(), st.integers(1, 1000), st.integers(0, 10**6))
def test_liars_below_half_of_the_reference_decide_nothing(
    plan: Plan, reference_windows: int, minimum_rao: int
) -> None:
    rules = QuorumRules(
        peers_per_step=20,
        reference_windows=reference_windows,
        min_reference_rao=minimum_rao,
        alpha_windows=24,
    )
    root, reference_rao = bytes(32), 0
    for window in range(NUM_WINDOWS):
        ballot = _ballot(plan, window, root)
        decision = decide(ballot, reference_rao, rules)
        assume(2 * sum(plan.liars) < decision.reference_rao)
        _assert_only_the_honest_decide(plan, window, decision, root)
        reference_rao = decision.reference_rao
        root = next_root(root, window, decision.members, b"", decision.voting_stake_rao, 0)


def _assert_only_the_honest_decide(
    plan: Plan, window: int, decision: Decision, root: bytes
) -> None:
    # No honest node meets a root or a sample with authority that is not its own: none has to heal.
    assert decision.root in (None, root[:16])
    assert decision.sample_digest in (None, SAMPLE)
    # What is applied was named by an honest voter.
    assert {m.uid for m in decision.members} <= plan.honest_names[window]
    if not plan.awake[window]:
        assert decision.root is None
        assert decision.members == ()
    awake_rao = sum(plan.honest[place] for place in plan.awake[window])
    if 2 * awake_rao > decision.reference_rao:
        # The run goes on as soon as more than half of the reference is awake and honest.
        assert decision.root == root[:16]
        assert decision.sample_digest == SAMPLE
        assert {m.uid for m in decision.members} == plan.honest_names[window]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(1, 10**6), st.integers(0, 9)
)
def test_a_reference_never_falls_faster_than_its_rule(
    before_rao: int, voting_rao: int, reference_windows: int, minimum_rao: int
) -> None:
    rules = QuorumRules(
        peers_per_step=1,
        reference_windows=reference_windows,
        min_reference_rao=minimum_rao,
        alpha_windows=24,
    )
    after_rao = next_reference(before_rao, voting_rao, rules)
    assert after_rao >= max(voting_rao, minimum_rao)
    kept_rao = before_rao * (reference_windows - 1) // reference_windows
    assert after_rao == max(voting_rao, minimum_rao, kept_rao)


def test_one_window_asleep_costs_one_window_and_no_node() -> None:
    """Seen before: 73 % miss one window, a liar of 27 % votes a root that nobody has."""
    rules = QuorumRules(
        peers_per_step=20, reference_windows=500, min_reference_rao=0, alpha_windows=24
    )
    liar_vote = Vote(window=1, root=FALSE_ROOT, sample_digest=FALSE_SAMPLE, uids=UIDS)
    ballot = Ballot(
        window=1,
        seed=SEED,
        candidates={uid: member(uid) for uid in UIDS},
        voters=[_voter(200, 27, liar_vote)],
    )
    decision = decide(ballot, 100, rules)
    assert (decision.root, decision.members, decision.dissenters) == (None, (), ())
    assert decision.no_op == "half of the reference stake or more is away"


def test_a_sleeping_majority_lasts_as_long_as_the_rule_says() -> None:
    """A liar of 26 % gains power once 74 % have slept for about 0.65 * reference_windows."""
    rules = QuorumRules(
        peers_per_step=20, reference_windows=500, min_reference_rao=0, alpha_windows=24
    )
    reference_rao, windows = 100 * 10**9, 0
    while reference_rao >= 2 * 26 * 10**9:
        reference_rao = next_reference(reference_rao, 26 * 10**9, rules)
        windows += 1
    assert 320 <= windows <= 330


standing_votes = st.lists(
    st.tuples(stakes, st.integers(0, 12), st.sampled_from([b"R" * 16, b"O" * 16])), max_size=6
)


@settings(max_examples=80, deadline=None)
@given(standing_votes, st.integers(1, 50))
def test_standing_votes_against_a_naive_count(
    drawn: list[tuple[int, int, bytes]], reference_windows: int
) -> None:
    rules = QuorumRules(
        peers_per_step=20,
        reference_windows=reference_windows,
        min_reference_rao=0,
        alpha_windows=24,
    )
    voters = [
        _voter(
            100 + place,
            stake,
            Vote(window=window, root=root, sample_digest=SAMPLE, uids=frozenset()),
        )
        for place, (stake, window, root) in enumerate(drawn)
    ]
    found = find_standing_authority(voters, 10, rules)
    counted = [one for one in drawn if one[1] <= 10]
    reference_rao, references_rao = 0, []
    for window in range(11):
        awake_rao = sum(stake for stake, voted, _ in counted if voted >= window)
        reference_rao = next_reference(reference_rao, awake_rao, rules)
        references_rao.append(reference_rao)
    totals: Mapping[tuple[int, bytes], int] = {
        key: sum(stake for stake, *rest in counted if tuple(rest) == key)
        for key in {(window, root) for _, window, root in counted}
    }
    passed = [key for key, rao in totals.items() if 2 * rao > references_rao[key[0]]]
    if not passed:
        assert found is None
    else:
        assert found is not None
        assert (found.window, found.root) == max(passed, key=lambda key: key[0])


def test_a_newcomer_believes_the_sleeping_majority_and_not_the_liar_awake() -> None:
    rules = QuorumRules(
        peers_per_step=20, reference_windows=500, min_reference_rao=0, alpha_windows=24
    )
    asleep = _voter(100, 74, Vote(window=9, root=b"R" * 16, sample_digest=SAMPLE, uids=frozenset()))
    liar = _voter(200, 26, Vote(window=10, root=FALSE_ROOT, sample_digest=SAMPLE, uids=frozenset()))
    assert find_standing_authority([liar, asleep], 10, rules) == asleep.vote
    assert find_standing_authority([liar], 10, rules) == liar.vote


def test_voters_who_left_long_ago_hold_nobody_back() -> None:
    """51 % have left: the rest decides once the reference is below twice the rest."""
    rules = QuorumRules(
        peers_per_step=20, reference_windows=500, min_reference_rao=0, alpha_windows=24
    )
    gone = _voter(100, 51, Vote(window=0, root=b"G" * 16, sample_digest=SAMPLE, uids=frozenset()))

    def at(window: int) -> Vote | None:
        rest = Vote(window=window, root=b"R" * 16, sample_digest=SAMPLE, uids=frozenset())
        return find_standing_authority([gone, _voter(101, 49, rest)], window, rules)

    found = at(40)
    assert found is not None
    assert found.root == b"R" * 16
    before = at(1)
    assert before is not None
    assert before.root == b"G" * 16
