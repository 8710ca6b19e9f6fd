"""Which spec a ballot adopts, whatever the stakes and the supporters, against a naive count."""

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template.errors import ObjectError
from template.protocol.lineage import LineageStep, encode_lineage, parse_lineage
from template.protocol.quorum import (
    LEAD_WINDOWS,
    VOID_WINDOWS,
    Ballot,
    Decision,
    QuorumRules,
    Voter,
    decide,
    next_reference,
    voided,
)
from template.protocol.record import Support, Vote
from template.protocol.root import next_root
from tests.support.quorum import OTHER, ROOT, SAMPLE, SEED, member

WINDOW = 5
FIRST = WINDOW + LEAD_WINDOWS
SPECS = (b"A" * 16, b"B" * 16)
RULES = QuorumRules(peers_per_step=99, reference_windows=8, min_reference_rao=0, alpha_windows=0)

stakes = st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1), st.just(10**18))
supports = st.none() | st.builds(
    Support, window=st.sampled_from([FIRST, FIRST - 1, FIRST + 1]), spec=st.sampled_from(SPECS)
)
voters = st.lists(st.tuples(stakes, st.sampled_from([ROOT, OTHER]), supports), max_size=7)
FOR_A = Support(window=FIRST, spec=SPECS[0])


def voter(uid: int, stake_rao: int, root: bytes, support: Support | None) -> Voter:
    vote = Vote(window=WINDOW, root=root, sample_digest=SAMPLE, uids=frozenset({1}))
    return Voter(
        uid=uid, hotkey=f"validator-{uid}", stake_rao=stake_rao, vote=vote, support=support
    )


def count(drawn: Sequence[tuple[int, bytes, Support | None]], reference_rao: int = 0) -> Decision:
    listed = [voter(100 + i, *each) for i, each in enumerate(drawn)]
    ballot = Ballot(window=WINDOW, seed=SEED, candidates={1: member(1)}, voters=listed)
    return decide(ballot, reference_rao, RULES)


@settings(deadline=None)
@given(voters, st.integers(0, 2**64))
def test_a_spec_is_adopted_by_more_than_half_of_the_reference_alone(drawn, before_rao) -> None:
    total = sum(stake for stake, _, _ in drawn)
    reference = next_reference(before_rao, total, RULES)

    def has_majority(chosen) -> bool:
        return Fraction(sum(chosen), max(1, reference)) > Fraction(1, 2)

    roots = [root for root in (ROOT, OTHER) if has_majority(s for s, r, _ in drawn if r == root)]
    expected = [
        spec
        for spec in SPECS
        for root in roots
        if has_majority(
            stake
            for stake, voted, support in drawn
            if voted == root and support == Support(window=FIRST, spec=spec)
        )
    ]
    assert count(drawn, before_rao).adopted == (expected[0] if expected else b"")
    assert len(expected) <= 1


@pytest.mark.parametrize(
    ("supporting_rao", "adopted"), [(50, b""), (51, SPECS[0]), (100, SPECS[0])]
)
def test_half_of_the_stake_is_not_enough(supporting_rao: int, adopted: bytes) -> None:
    drawn = [(supporting_rao, ROOT, FOR_A), (100 - supporting_rao, ROOT, None)]
    assert count(drawn).adopted == adopted


def test_who_sleeps_counts_in_the_reference() -> None:
    """A third of the stake that is awake alone decides nothing, however united."""
    assert count([(300, ROOT, FOR_A)], reference_rao=1000).adopted == b""
    assert count([(450, ROOT, FOR_A)], reference_rao=1000).adopted == SPECS[0]


def test_supporters_that_stand_elsewhere_do_not_count() -> None:
    drawn = [(40, OTHER, FOR_A), (30, ROOT, FOR_A), (60, ROOT, None)]
    assert count(drawn).adopted == b""
    assert count([(70, ROOT, FOR_A), (60, ROOT, None)]).adopted == SPECS[0]


def test_a_void_window_keeps_what_its_ballot_adopted() -> None:
    """Payloads were lacking, and not votes; and the switch comes after any void."""
    decision = count([(70, ROOT, FOR_A)])
    assert decision.members
    assert voided(decision).adopted == SPECS[0]
    assert voided(decision).members == ()
    assert LEAD_WINDOWS > VOID_WINDOWS + 1


def plain_step() -> LineageStep:
    return LineageStep(
        window=WINDOW,
        root=bytes(32),
        members=(),
        voting_stake_rao=7,
        checkpoint=b"",
        voted_root=b"",
    )


def test_what_is_adopted_is_part_of_the_root_and_of_the_lineage() -> None:
    step = plain_step()
    adopting = replace(step, adopted=SPECS[0])
    roots = {s.next_root for s in (step, adopting, replace(step, adopted=SPECS[1]))}
    assert len(roots) == 3
    assert step.next_root == next_root(bytes(32), WINDOW, (), b"", 7, 0)
    assert b"adopted" not in encode_lineage([step]), "older lineages stay as they are"
    assert parse_lineage(encode_lineage([adopting])) == [adopting]
    assert adopting.emptied().adopted == SPECS[0]


@pytest.mark.parametrize("adopted", ["00", "zz" * 16, "00" * 15, "00" * 17, 7, None])
def test_a_lineage_with_another_word_for_it_is_refused(adopted) -> None:
    step = plain_step()
    row = json.loads(encode_lineage([step])) | {"adopted": adopted}
    with pytest.raises(ObjectError):
        parse_lineage(json.dumps(row).encode() + b"\n")
