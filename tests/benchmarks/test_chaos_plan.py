"""The plan of faults: pure, complete, one every third window."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos.plan import (
    CALM_WINDOWS,
    EVERY_WINDOWS,
    LAST_WINDOWS,
    Crew,
    make_plan,
    windows_for,
)
from simulation.faults import PROCESS_WINDOWS, ProcessFault
from template.errors import ConfigError

CREW = Crew(miners=("m0", "m1", "m2", "m3"), validators=("top", "v1", "v2"))
crews = st.builds(
    Crew,
    miners=st.integers(2, 9).map(lambda n: tuple(f"m{i}" for i in range(n))),
    validators=st.integers(3, 6).map(lambda n: tuple(f"v{i}" for i in range(n))),
)
seeds = st.integers(0, 2**32)
lengths = st.integers(windows_for(1), 150)


@given(seeds, lengths, crews)
def test_a_fault_every_third_window_from_the_calm_to_the_end(seed, num_windows, crew) -> None:
    windows = [fault.window for fault in make_plan(seed, num_windows, crew)]
    assert windows[0] == CALM_WINDOWS
    assert {b - a for a, b in itertools.pairwise(windows)} <= {EVERY_WINDOWS}
    assert windows[-1] <= num_windows - LAST_WINDOWS < windows[-1] + EVERY_WINDOWS


@given(seeds, lengths, crews)
def test_the_same_arguments_the_same_plan(seed, num_windows, crew) -> None:
    assert make_plan(seed, num_windows, crew) == make_plan(seed, num_windows, crew)


@given(seeds, crews, st.integers(1, 3))
def test_every_kind_as_often_as_the_run_is_long(seed, crew, rounds) -> None:
    plan = make_plan(seed, windows_for(rounds * len(ProcessFault)), crew)
    assert Counter(fault.kind for fault in plan) == dict.fromkeys(ProcessFault, rounds)


@given(seeds, lengths, crews)
def test_targets_are_of_the_crew_and_of_the_right_role(seed, num_windows, crew) -> None:
    for fault in make_plan(seed, num_windows, crew):
        hit = set(fault.targets)
        assert fault.targets
        match fault.kind:
            case ProcessFault.KILL_CHAIN | ProcessFault.KILL_BUCKETS:
                assert hit <= {"chain", "buckets"}
            case ProcessFault.KILL_TOP_VALIDATOR:
                assert fault.targets == (crew.validators[0],)
            case ProcessFault.LIE_ROOT | ProcessFault.LIE_SAMPLE:
                assert fault.targets[0] == crew.liar == crew.validators[1]
                assert sorted(fault.targets) == sorted(crew.validators)
            case ProcessFault.KILL_VALIDATOR:
                assert hit <= set(crew.validators[1:])
            case ProcessFault.KILL_MINER:
                assert hit <= set(crew.miners)
            case ProcessFault.LEAVE:
                assert hit < set(crew.miners)
                assert len(hit) == len(crew.miners) // 2
            case ProcessFault.CUT_CHAIN | ProcessFault.SPLIT_BUCKETS:
                assert hit < set(crew.validators)
            case ProcessFault.SLOW | ProcessFault.TRUNCATED | ProcessFault.STORM:
                assert hit == set(crew.all)
            case _:
                assert len(hit & set(crew.all)) == 1


@given(seeds, lengths, crews)
def test_no_fault_begins_before_the_last_is_over(seed, num_windows, crew) -> None:
    plan = make_plan(seed, num_windows, crew)
    for one, after in itertools.pairwise(plan):
        assert one.window + one.at + one.lasts_windows <= after.window + after.at
    last = plan[-1]
    assert last.window + last.at + last.lasts_windows < num_windows


def test_seeds_differ() -> None:
    assert len({make_plan(seed, windows_for(15), CREW) for seed in range(20)}) == 20


def test_every_kind_has_a_length() -> None:
    assert set(PROCESS_WINDOWS) == set(ProcessFault)
    assert max(PROCESS_WINDOWS.values()) == 3


def test_a_run_that_holds_no_fault_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--windows 7: .* 8 or more"):
        make_plan(0, windows_for(1) - 1, CREW)
    assert len(make_plan(0, windows_for(1), CREW)) == 1


@pytest.mark.parametrize(("miners", "validators"), [(1, 3), (2, 2)])
def test_a_crew_that_cannot_lose_one_is_refused(miners, validators) -> None:
    crew = Crew(miners=CREW.miners[:miners], validators=CREW.validators[:validators])
    with pytest.raises(ConfigError, match="--validators"):
        make_plan(0, 40, crew)


def test_some_kinds_alone() -> None:
    plan = make_plan(3, windows_for(4), CREW, [ProcessFault.STORM, ProcessFault.CLOCK])
    assert [fault.window for fault in plan] == [4, 7, 10, 13]
    assert Counter(fault.kind for fault in plan) == {ProcessFault.STORM: 2, ProcessFault.CLOCK: 2}
