"""What a fault did, from rows written by hand: blocks of ten a window, from block 100."""

from dataclasses import replace

import pytest

from benchmarks.chaos.measure import (
    AWAY,
    Ended,
    Happened,
    Run,
    Sight,
    digests_equal,
    final_digests,
    heal_windows,
    judged_windows,
    lost_windows,
    results,
    together,
    verdict,
)
from template.protocol.quorum import Ballot, QuorumRules, Voter, decide
from template.protocol.record import Vote
from template.protocol.schedule import Schedule

SCHEDULE = Schedule(start_block=100, blocks_per_window=10, upload_blocks=3, vote_margin_blocks=2)
VALIDATORS = ("a", "b", "c")
NODES = (*VALIDATORS, "miner")
NUM_WINDOWS = 14


def sight(node: str, window: int, *, late: int = 0, **changes: object) -> Sight:
    """As a healthy node says it: one block before it is applied, or `late` blocks after that."""
    row = Sight(
        node=node,
        window=window,
        state_window=window + 2,
        root=f"root {window}",
        digest=f"digest {window}",
        accepted=(4, 5),
        block=SCHEDULE.first_block(window + 2) - 1 + late,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def healthy(*, without: tuple[tuple[str, int], ...] = ()) -> list[Sight]:
    """Every node in every window, but for some."""
    return [
        sight(node, w) for w in range(NUM_WINDOWS) for node in NODES if (node, w) not in without
    ]


def fault(window: int, *, ended: int | None = None, **changes: object) -> Happened:
    row = Happened(
        name="a fault",
        targets=("a",),
        window=window,
        began_block=SCHEDULE.first_block(window) + 5,
        ended_block=SCHEDULE.first_block(window if ended is None else ended) + 5,
        took_effect=True,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def run_of(sights: list[Sight], *faults: Happened, produced: dict | None = None) -> Run:
    return Run(
        schedule=SCHEDULE,
        num_windows=NUM_WINDOWS,
        nodes=NODES,
        validators=VALIDATORS,
        sights=tuple(sights),
        faults=faults,
        produced=produced or {},
    )


def test_nothing_happens_in_a_healthy_run() -> None:
    run = run_of(healthy(), fault(4), fault(7), produced={(4, 5): True})
    assert lost_windows(run) == []
    for row in results(run):
        expected = {
            "took_effect": True,
            "windows_lost": 0,
            "heal_windows": 0,
            "digests_equal": True,
            "payloads_lost": 0,
        }
        assert expected.items() <= row.items()
    assert final_digests(run) == dict.fromkeys(NODES, (NUM_WINDOWS + 1, "digest 13"))


def test_a_window_in_which_nothing_was_accepted_is_lost() -> None:
    sights = [replace(s, accepted=()) if s.window in (3, 5) else s for s in healthy()]
    run = run_of(sights, fault(4), fault(7))
    assert lost_windows(run) == [3, 5]
    # The window before a fault is still being voted on: it is the fault's, not the one before's.
    assert [row["windows_lost"] for row in results(run)] == [2, 0]


@pytest.mark.parametrize(("late", "lost"), [(0, []), (10, []), (11, [5]), (40, [5])])
def test_a_window_that_most_apply_a_window_late_is_lost(late, lost) -> None:
    sights = healthy(without=(("a", 5), ("b", 5)))
    sights += [sight("a", 5, late=late), sight("b", 5, late=late)]
    assert lost_windows(run_of(sights)) == lost


def test_miners_that_are_behind_lose_no_window() -> None:
    assert lost_windows(run_of(healthy(without=(("miner", 5),)))) == []
    away = (("miner", 5), ("a", 5), ("b", 5))
    assert lost_windows(run_of(healthy(without=away))) == [5]


def test_one_validator_of_three_loses_no_window() -> None:
    away = tuple(("a", w) for w in range(3, 9))
    assert lost_windows(run_of(healthy(without=away))) == []
    assert lost_windows(run_of(healthy(without=(*away, ("b", 5))))) == [5]


def test_a_window_that_nobody_decided_is_lost() -> None:
    assert lost_windows(run_of([])) == list(range(NUM_WINDOWS))


def test_a_minority_with_another_set_does_not_count() -> None:
    sights = [
        replace(s, root="other", accepted=()) if (s.node, s.window) == ("a", 5) else s
        for s in healthy()
    ]
    assert lost_windows(run_of(sights)) == []


def test_a_node_that_says_a_row_again_counts_once() -> None:
    sights = [s for s in healthy() if s.window != 5] + [sight("a", 5), sight("a", 5)]
    assert lost_windows(run_of(sights)) == [5]


def test_what_is_lost_in_calm_windows_is_not_the_faults() -> None:
    sights = [replace(s, accepted=()) if s.window in (1, 2, 4, 5) else s for s in healthy()]
    assert [row["windows_lost"] for row in results(run_of(sights, fault(4)))] == [0]
    sights = [replace(s, accepted=()) if s.window in (0, 4, 5) else s for s in healthy()]
    assert [row["windows_lost"] for row in results(run_of(sights, fault(4)))] == [2]


def returns(first: int, last: int, block: int) -> list[Sight]:
    """A run in which node a says windows `first` to `last` only at `block`, all at once."""
    away = tuple(("a", w) for w in range(first, last + 1))
    return healthy(without=away) + [sight("a", w, block=block) for _, w in away]


@pytest.mark.parametrize(("late", "apart"), [(-1, []), (0, [5])])
def test_together_is_at_the_end_of_the_window(late, apart) -> None:
    run = run_of(returns(3, 4, SCHEDULE.first_block(6) + late))
    assert [w for w in range(2, 14) if not together(run, w)] == apart


def test_another_digest_is_not_together_however_early() -> None:
    sights = [replace(s, digest="x") if (s.node, s.window) == ("a", 5) else s for s in healthy()]
    run = run_of(sights, fault(6))
    assert not together(run, 7)
    assert not digests_equal(run, range(5, 8))
    assert digests_equal(run, range(6, 8))
    assert not digests_equal(run, range(90, 93))
    assert heal_windows(run, run.faults[0]) == 2


@pytest.mark.parametrize("num_away", [1, 2, 5])
def test_healing_takes_until_the_node_stands_with_the_others(num_away) -> None:
    sights = returns(4, 4 + num_away, SCHEDULE.first_block(6 + num_away))
    run = run_of(sights, fault(6), fault(12))
    assert heal_windows(run, run.faults[0]) == num_away


def test_healing_counts_from_the_end_of_the_fault() -> None:
    run = run_of(returns(4, 8, SCHEDULE.first_block(10)), fault(6, ended=9), fault(12))
    assert heal_windows(run, run.faults[0]) == 1


def test_healing_that_reaches_into_the_next_fault_is_followed() -> None:
    run = run_of(returns(4, 9, SCHEDULE.first_block(11)), fault(6), fault(9))
    assert heal_windows(run, run.faults[0]) == 5


def test_who_never_comes_back_has_not_healed() -> None:
    missing = tuple(("a", w) for w in range(4, NUM_WINDOWS))
    run = run_of(healthy(without=missing), fault(6))
    assert heal_windows(run, run.faults[0]) is None


def test_a_joiner_by_checkpoint_needs_no_row_of_what_it_skipped() -> None:
    missing = tuple(("a", w) for w in range(4, 7))
    run = run_of(healthy(without=missing), fault(6))
    assert heal_windows(run, run.faults[0]) == 2


def test_windows_apart_are_counted_to_the_next_fault() -> None:
    run = run_of(returns(4, 9, SCHEDULE.first_block(11)), fault(6), fault(9), fault(12))
    assert [row["apart_windows"] for row in results(run)] == [3, 2, 0]


def test_a_window_in_which_all_was_measured_and_nothing_good_is_not_lost() -> None:
    sights = [replace(s, accepted=()) if s.window in (4, 5) else s for s in healthy()]
    run = replace(run_of(sights), judged=frozenset({5}))
    assert lost_windows(run) == [4]
    late = replace(run_of([s for s in sights if s.window != 5]), judged=frozenset({5}))
    assert lost_windows(late) == [4, 5]


def said(window: int, *statuses: str) -> list[dict[str, object]]:
    return [{"kind": "verdict", "window": window, "status": status} for status in statuses]


def test_judged_is_what_most_validators_measured_and_did_not_name() -> None:
    bad, good, away = ("no_gain", "no_work"), ("no_gain", "named"), ("no_gain", "unavailable")
    logs: list[list[dict[str, object]]] = [
        [*said(1, *bad), *said(2, *bad), *said(3, *bad), *said(4, *away), {"kind": "window"}],
        [*said(1, *bad), *said(2, *bad), *said(3, *good), *said(4, *away)],
        [*said(1, *bad), *said(3, *good), *said(4, *bad)],
    ]
    assert judged_windows(logs) == {1, 2}
    assert judged_windows([]) == judged_windows([[], []]) == frozenset()


def test_missing_votes_are_those_of_who_votes_at_other_times() -> None:
    voters = {w: frozenset({"a", "b"}) for w in range(NUM_WINDOWS)}
    voters |= {3: frozenset({"b"}), 5: frozenset(), 9: frozenset({"a"})}
    del voters[4]
    run = replace(run_of(healthy(), fault(4), fault(7)), voters=voters)
    assert [row["votes_missing"] for row in results(run)] == [{"3": ["a"], "5": ["a", "b"]}, {}]
    assert results(run_of(healthy(), fault(4)))[0]["votes_missing"] == {}


def test_lost_payloads_are_counted_where_they_were_accepted() -> None:
    produced = {(3, 4): False, (4, 4): True, (6, 4): False, (6, 5): False}
    run = run_of(healthy(), fault(4), fault(7), produced=produced)
    assert [row["payloads_lost"] for row in results(run)] == [1, 2]


def test_no_ops_are_told_with_the_reasons_of_all_nodes() -> None:
    sights = [
        replace(s, accepted=(), no_op=AWAY if s.node == "a" else "no stake voted")
        if s.window in (3, 7)
        else s
        for s in healthy()
    ]
    sights.append(sight("a", 3, accepted=(), no_op="said again"))
    first, second = results(run_of(sights, fault(4), fault(9)))
    assert first["no_ops"] == {"3": {AWAY: 1, "no stake voted": 3}}
    assert second["no_ops"] == {}


def test_processes_that_ended_belong_to_the_fault_before() -> None:
    first = SCHEDULE.first_block
    ends = (
        Ended(node="a", status=0, block=first(4) - 1),
        Ended(node="a", status=2, block=first(4)),
        Ended(node="a", status=-9, block=first(7) - 1),
        Ended(node="b", status=1, block=first(7)),
    )
    rows = results(replace(run_of(healthy(), fault(4), fault(7)), ends=ends))
    assert [row["exits"] for row in rows] == [{"a": [2, -9]}, {"b": [1]}]


def test_the_reason_is_the_one_that_the_protocol_gives() -> None:
    rules = QuorumRules(
        peers_per_step=20, reference_windows=500, min_reference_rao=0, alpha_windows=24
    )
    vote = Vote(window=3, root=bytes(16), sample_digest=bytes(8), uids=frozenset())
    liar = Voter(uid=1, hotkey="liar", stake_rao=900, vote=vote)
    ballot = Ballot(window=3, seed=b"", candidates={}, voters=[liar])
    decision = decide(ballot, 2710, rules)
    assert (decision.root, decision.no_op) == (None, AWAY)


GOOD = {
    "name": "kill",
    "window": 4,
    "took_effect": True,
    "evidence": {},
    "digests_equal": True,
    "payloads_lost": 0,
    "heal_windows": 1,
    "windows_lost": 0,
}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"took_effect": False}, "did not take effect"),
        ({"digests_equal": False}, "differ"),
        ({"payloads_lost": 2}, "2 accepted payloads are lost"),
        ({"heal_windows": None}, "did not come together"),
        ({"windows_lost": 1}, "cost 1 windows"),
    ],
)
def test_what_does_not_hold_is_said(changes, word) -> None:
    (sentence,) = verdict([GOOD, {**GOOD, **changes}], "kill")
    assert word in sentence
    assert "window 4, kill" in sentence


LIE = {**GOOD, "no_ops": {"3": {AWAY: 7}}, "exits": {}, "windows_lost": 1}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"no_ops": {}}, "window 3 is no no-op"),
        ({"no_ops": {"4": {AWAY: 7}}}, "window 3 is no no-op"),
        ({"no_ops": {"3": {AWAY: 6, "no stake voted": 1}}}, "no stake voted"),
        ({"exits": {"miner-0": [2]}}, "processes ended: {'miner-0': [2]}"),
        ({"windows_lost": 3}, "no window after the lie"),
    ],
)
def test_what_does_not_hold_of_a_lie_is_said(changes, word) -> None:
    assert verdict([{**LIE, **changes}], "top", ["another"]) == []
    (sentence,) = verdict([LIE, {**LIE, **changes}], "top", ["kill"])
    assert word in sentence
    assert "window 4, kill" in sentence


def test_only_the_top_validator_may_cost_no_window() -> None:
    assert verdict([{**GOOD, "windows_lost": 3}], "another") == []
    assert verdict([GOOD], "kill") == []


def test_a_plan_that_planted_nothing_fails() -> None:
    assert verdict([], "kill") == ["no fault was planted"]
