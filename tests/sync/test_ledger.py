"""The ledger against a naive reference: any stakes, any sleepers, any roots; no I/O at all."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simulation.swarm import small_run
from template.protocol.lineage import is_chain
from template.protocol.payload import (
    Payload,
    PayloadFormat,
    PayloadHeader,
    decode_payload,
    encode_payload,
)
from template.protocol.quorum import VOID_WINDOWS, Ballot, Voter, decide
from template.protocol.record import ROOT_BYTES, Vote
from template.protocol.root import Member, next_root, sample_digest
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.sync.ledger import RunLedger, Standing
from template.sync.recovery import replay_steps, take_back
from template.training.outer import first_state

SEED = bytes(range(32))
OTHER_ROOT = b"\x77" * ROOT_BYTES
MEMBERS = {
    uid: Member(
        uid=uid,
        hotkey=f"5hotkey{uid}",
        public_key=bytes([uid]) * 32,
        coldkey=bytes([100 + uid]) * 32,
        digest=bytes([200 + uid]) * 32,
    )
    for uid in range(3)
}


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return small_run({"owner": 0}).spec


def new_ledger(spec: RunSpec) -> RunLedger:
    params = {"w": torch.arange(64, dtype=torch.float32).reshape(8, 8)}
    return RunLedger(run=Run(spec), state=first_state(params, spec.run_id))


def sample_of(ledger: RunLedger) -> bytes:
    return sample_digest(ledger.state.params, SEED)


def ballot(
    ledger: RunLedger,
    window: int,
    stakes_rao: Sequence[int],
    *,
    uids: frozenset[int] = frozenset(MEMBERS),
    root: bytes | None = None,
) -> Ballot:
    """All voters agree on `root` (default: the ledger's own) and accept `uids`."""
    vote = Vote(
        window=window,
        root=ledger.root if root is None else root,
        sample_digest=sample_of(ledger),
        uids=uids,
    )
    voters = [
        Voter(uid=10 + i, hotkey=f"5validator{i}", stake_rao=stake, vote=vote)
        for i, stake in enumerate(stakes_rao)
    ]
    return Ballot(window=window, seed=SEED, candidates=MEMBERS, voters=voters)


def step(ledger: RunLedger, given_ballot: Ballot) -> RunLedger:
    counted = ledger.count_ballot(given_ballot)
    decision = counted.decisions[given_ballot.window]
    return counted.apply_window(decision, {}, decision.root or b"")


stakes = st.lists(st.integers(0, 2**61), max_size=4)
accepted_uids = st.frozensets(st.sampled_from(sorted(MEMBERS)))


@given(windows=st.lists(st.tuples(stakes, accepted_uids), min_size=1, max_size=12))
def test_steps_are_a_hash_chain_and_roots_follow_the_naive_fold(spec, windows) -> None:
    ledger = new_ledger(spec)
    root = ledger.state.root
    reference_rao = 0
    for window, (stakes_rao, uids) in enumerate(windows):
        given_ballot = ballot(ledger, window, stakes_rao, uids=uids)
        # After the run's end votes are counted, and nothing is accepted any more.
        is_over = window >= spec.schedule.num_windows
        counted = replace(given_ballot, candidates={}) if is_over else given_ballot
        naive = decide(counted, reference_rao, spec.outer.quorum_rules())
        checkpoint = ledger.state.checkpoint_digest
        before, ledger = ledger, step(ledger, given_ballot)
        root = next_root(root, window, naive.members, checkpoint, sum(stakes_rao), 0)
        reference_rao = naive.reference_rao
        assert ledger.steps[-1].members == naive.members
        assert ledger.state.root == root
        assert (ledger.next_window, before.next_window) == (window + 1, window)
    assert is_chain(ledger.steps)
    assert len(ledger.steps) == len(windows)


@given(windows=st.lists(st.tuples(stakes, accepted_uids), min_size=1, max_size=8))
def test_ballots_counted_ahead_decide_as_ballots_counted_in_turn(spec, windows) -> None:
    """The quorum's stakes of a window do not depend on how far the node has applied."""
    ahead = in_turn = new_ledger(spec)
    for window, (stakes_rao, uids) in enumerate(windows):
        ahead = ahead.count_ballot(ballot(new_ledger(spec), window, stakes_rao, uids=uids))
    for window, (stakes_rao, uids) in enumerate(windows):
        in_turn = in_turn.count_ballot(ballot(new_ledger(spec), window, stakes_rao, uids=uids))
        decision = in_turn.decisions[window]
        assert decision == ahead.decisions[window]
        in_turn = in_turn.apply_window(decision, {}, b"")
        assert window not in in_turn.decisions


@given(
    roots=st.lists(st.sampled_from(["own", "other", "none"]), max_size=VOID_WINDOWS + 2),
)
def test_payloads_are_given_up_after_so_many_votes_for_this_root_and_not_before(
    spec, roots
) -> None:
    ledger = new_ledger(spec).count_ballot(ballot(new_ledger(spec), 0, [7]))
    for later, kind in enumerate(roots, start=1):
        if ledger.window_to_count_for_void() is None:
            break
        assert ledger.window_to_count_for_void() == later
        assert not ledger.payloads_given_up()
        stakes_rao = [] if kind == "none" else [7]
        root = OTHER_ROOT if kind == "other" else None
        ledger = ledger.count_ballot(ballot(ledger, later, stakes_rao, root=root))
    first = roots[:VOID_WINDOWS]
    assert ledger.payloads_given_up() == (first == ["own"] * VOID_WINDOWS)
    if "other" in first or "none" in first or len(first) == VOID_WINDOWS:
        assert ledger.window_to_count_for_void() is None


@pytest.mark.parametrize(
    ("root", "is_same_sample", "expected"),
    [
        ("own", True, Standing.EQUAL),
        ("own", False, Standing.OTHER_TENSORS),
        ("earlier", True, Standing.AHEAD),
        ("earlier", False, Standing.AHEAD),
        ("other", True, Standing.OTHER_ROOT),
        ("none", True, Standing.NO_MAJORITY),
    ],
)
def test_the_standing_beside_the_majority(spec, root, is_same_sample, expected) -> None:
    ledger = step(new_ledger(spec), ballot(new_ledger(spec), 0, [5]))
    roots = {"own": ledger.root, "earlier": new_ledger(spec).root, "other": OTHER_ROOT}
    given_ballot = ballot(ledger, 1, [] if root == "none" else [5], root=roots.get(root))
    decision = ledger.count_ballot(given_ballot).decisions[1]
    if not is_same_sample:
        decision = replace(decision, sample_digest=bytes(8))
    assert ledger.compare_with_majority(decision, SEED) is expected
    assert expected.contradicts == (expected in (Standing.OTHER_ROOT, Standing.OTHER_TENSORS))


def test_voters_who_share_a_root_and_no_tensors_contradict_nobody(spec) -> None:
    ledger = new_ledger(spec)
    decision = ledger.count_ballot(ballot(ledger, 0, [5])).decisions[0]
    decision = replace(decision, sample_digest=None)
    assert ledger.compare_with_majority(decision, SEED) is Standing.EQUAL


def test_a_flipped_bit_shows_as_other_tensors(spec) -> None:
    ledger = new_ledger(spec)
    decision = ledger.count_ballot(ballot(ledger, 0, [5])).decisions[0]
    flipped = {"w": ledger.state.params["w"].clone()}
    flipped["w"].view(torch.int32).view(-1)[3] ^= 1
    wrong = replace(ledger.state, params=flipped)
    assert ledger.compare_with_majority(decision, SEED, wrong) is Standing.OTHER_TENSORS


@given(stuck=st.integers(0, VOID_WINDOWS + 1), members=st.booleans())
def test_an_applied_window_is_void_once_the_votes_after_it_stand_before_it(
    spec, stuck, members
) -> None:
    """This node had the payloads, the majority did not: it voted the root from before them."""
    before = new_ledger(spec)
    uids = frozenset(MEMBERS) if members else frozenset()
    ledger = step(before, ballot(before, 0, [9], uids=uids))
    for window in range(1, 1 + stuck):
        ledger = step(ledger, ballot(ledger, window, [9], root=before.root, uids=frozenset()))
    void = ledger.find_new_void()
    assert (void is not None) == (members and stuck == VOID_WINDOWS)
    if void is not None:
        assert void.window == 0
        recovered = take_back([before.state], ledger.steps, 0, lambda _step: {}, Run(spec))
        assert recovered is not None
        after = ledger.recover(recovered.state, recovered.steps)
        assert [s.members for s in after.steps] == [()] * len(ledger.steps)
        assert after.state.window == ledger.state.window
        assert after.state.root != ledger.state.root
        assert after.find_new_void() is None


def test_a_ballot_counts_once_and_leaves_the_old_ledger_as_it_was(spec) -> None:
    ledger = new_ledger(spec)
    counted = ledger.count_ballot(ballot(ledger, 0, [5]))
    assert ledger.decisions == {}
    assert counted.count_ballot(ballot(ledger, 0, [5], uids=frozenset())) is counted


@pytest.mark.parametrize("window", [1, 2, 5])
def test_a_window_is_not_decided_before_its_predecessors(spec, window) -> None:
    ledger = new_ledger(spec)
    with pytest.raises(ValueError, match=f"window {window} cannot be decided from theta_1"):
        ledger.count_ballot(ballot(ledger, window, [5]))


def test_a_window_that_is_over_is_not_decided_again(spec) -> None:
    ledger = step(new_ledger(spec), ballot(new_ledger(spec), 0, [5]))
    with pytest.raises(ValueError, match="window 0 cannot be decided"):
        ledger.count_ballot(ballot(ledger, 0, [5]))


def test_recovery_leads_to_the_same_window(spec) -> None:
    ledger = step(new_ledger(spec), ballot(new_ledger(spec), 0, [5]))
    with pytest.raises(ValueError, match="theta_1 is not theta_2"):
        ledger.recover(new_ledger(spec).state, ())


def test_the_hotkeys_accepted_last_outlive_windows_that_accept_none(spec) -> None:
    ledger = step(new_ledger(spec), ballot(new_ledger(spec), 0, [5], uids=frozenset({1})))
    assert ledger.last_accepted == {MEMBERS[1].hotkey}
    ledger = step(ledger, ballot(ledger, 1, [5], uids=frozenset()))
    assert ledger.last_accepted == {MEMBERS[1].hotkey}


def _paced(ledger: RunLedger, window: int, paces: Sequence[int], **changes) -> Ballot:
    """A voter of equal stake for each pace."""
    given_ballot = ballot(ledger, window, [5] * len(paces), **changes)
    voters = [
        replace(voter, vote=replace(voter.vote, pace=pace))
        for voter, pace in zip(given_ballot.voters, paces, strict=True)
    ]
    return replace(given_ballot, voters=voters)


@given(st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=4), max_size=8))
def test_the_exponent_is_the_sum_of_the_voted_paces(spec, windows) -> None:
    ledger, exponent = new_ledger(spec), 0
    for window, paces in enumerate(windows):
        counted = ledger.count_ballot(_paced(ledger, window, paces))
        exponent += counted.decisions[window].pace
        ledger = step(ledger, _paced(ledger, window, paces))
        assert ledger.state.exponent == exponent
        assert ledger.steps[-1].pace == counted.decisions[window].pace
    assert is_chain(ledger.steps)
    retaken = replay_steps(new_ledger(spec).state, ledger.steps, lambda _step: {}, Run(spec))
    assert retaken.state.exponent == exponent
    assert retaken.state.root == ledger.state.root
    assert retaken.steps == ledger.steps


@given(first=st.sampled_from([-1, 0, 1]), pace=st.sampled_from([-1, 1]))
def test_a_window_taken_back_takes_its_move_of_alpha_back(spec, first, pace) -> None:
    start = step(new_ledger(spec), _paced(new_ledger(spec), 0, [first]))
    ledger = step(start, _paced(start, 1, [pace]))
    assert ledger.state.exponent == first + pace
    for window in range(2, 2 + VOID_WINDOWS):
        ledger = step(ledger, ballot(ledger, window, [5], root=start.root, uids=frozenset()))
    void = ledger.find_new_void()
    assert void is not None
    recovered = take_back([start.state], ledger.steps, void.window, lambda _step: {}, Run(spec))
    assert recovered is not None
    assert recovered.state.exponent == first
    assert [s.pace for s in recovered.steps] == [0] * (1 + VOID_WINDOWS)
    assert is_chain(recovered.steps)


def test_a_ledger_holds_the_state_before_its_newest_step_where_it_was_asked_to(spec) -> None:
    """Only where a payload was applied, and never after a recovery."""
    given_ballot = ballot(new_ledger(spec), 0, [5])
    assert step(new_ledger(spec), given_ballot).step_start is None
    asked = replace(new_ledger(spec), keeps_step_start=True)
    counted = asked.count_ballot(given_ballot)
    decision, payloads = counted.decisions[0], {0: _payload_of_nothing(asked)}
    after = counted.apply_window(decision, payloads, b"")
    assert after.step_start is asked.state
    assert after.recover(after.state, after.steps).step_start is None
    assert step(after, ballot(after, 1, [5])).step_start is None, "members without a payload"


@pytest.mark.parametrize(("alpha_windows", "is_kept"), [(0, False), (1, False), (2, True)])
def test_the_state_before_a_step_is_held_while_votes_move_alpha(
    spec, alpha_windows, is_kept
) -> None:
    """The step from theta_1 leads to theta_2, where window 1 is scored."""
    outer = replace(spec.outer, alpha_windows=alpha_windows)
    asked = replace(
        new_ledger(spec), keeps_step_start=True, run=Run(replace(spec, outer=outer))
    ).count_ballot(ballot(new_ledger(spec), 0, [5]))
    after = asked.apply_window(asked.decisions[0], {0: _payload_of_nothing(asked)}, b"")
    assert (after.step_start is not None) is is_kept


def _payload_of_nothing(ledger: RunLedger) -> Payload:
    form = PayloadFormat(run_id=bytes(16), shapes={"w": (8, 8)}, top_k=64)
    header = PayloadHeader(window=0, base_window=0, pages_consumed=1, public_key=bytes(32))
    zeros = {"w": torch.zeros_like(ledger.state.params["w"])}
    return decode_payload(encode_payload(header, zeros, form)[0], form)
