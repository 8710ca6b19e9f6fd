"""The block time that follows from a measurement, and when blocks become longer."""

from dataclasses import replace
from pathlib import Path

import pytest

from localnet.measure import main as measure
from localnet.pacing import (
    MARGIN,
    MAX_AUTO_S,
    MIN_AUTO_S,
    STRETCH,
    UNKNOWN,
    Arrival,
    Costs,
    Strain,
    choose_block_s,
    costs_of,
    least_block_s,
    load_of,
    voting_block_s,
)
from localnet.roster import make_roster
from template.errors import ConfigError
from tests.support.localnet.costs import COSTS, OWNER, ROW, SPEC


def block_s(costs: Costs, miners: int = 4, validators: int = 2) -> float:
    roster = make_roster(miners, validators, {"garbage": 1})[1:]
    return choose_block_s(SPEC, load_of(SPEC, roster, costs), costs)


def test_two_idle_cores_keep_the_quick_run_and_busy_ones_a_slower_one() -> None:
    """Two busy loops beside two cores leave a half of each."""
    busy = costs_of([{**ROW, "share": 0.5}] * 2, 2.0)
    assert (COSTS.cores, busy.cores) == (2.0, 1.0)
    assert MIN_AUTO_S <= block_s(COSTS) <= 0.25
    load = load_of(SPEC, make_roster(4, 2, {})[1:], busy)
    assert least_block_s(SPEC, load, busy) == 2 * least_block_s(SPEC, load, COSTS)
    assert block_s(COSTS) < block_s(busy)


def test_a_window_holds_everything_at_the_margin() -> None:
    roster = make_roster(4, 2, {})[1:]
    load = load_of(SPEC, roster, COSTS)
    blocks = SPEC.schedule.blocks_per_window
    assert least_block_s(SPEC, load, COSTS) * blocks == pytest.approx(load.total_s / 2.0)
    assert choose_block_s(SPEC, load, COSTS) * blocks >= MARGIN * load.total_s / 2.0
    assert load.total_s > load.burst_s + 2 * load.curve_s
    assert load.burst_s == pytest.approx(4 * load.inner_s + 2 * load.scoring_s)


def test_a_single_process_gets_its_time_on_a_machine_of_many_cores() -> None:
    """Seven neurons on a hundred cores: not all CPU counts, but the slowest neuron's."""
    slow = replace(COSTS, cores=100.0, step_cpu_s=1.0)
    load = load_of(SPEC, make_roster(4, 2, {})[1:], slow)
    window_s = least_block_s(SPEC, load, slow) * SPEC.schedule.blocks_per_window
    assert window_s == pytest.approx(30 * 1.0)


def test_votes_come_in_time_even_if_all_train_while_the_validators_score() -> None:
    heavy = replace(COSTS, step_cpu_s=0.1)
    load = load_of(SPEC, make_roster(8, 1, {})[1:], heavy)
    assert voting_block_s(SPEC, load, heavy) > MARGIN * least_block_s(SPEC, load, heavy)
    time_to_score_s = choose_block_s(SPEC, load, heavy) * SPEC.schedule.scoring_blocks
    assert time_to_score_s >= load.burst_s / heavy.cores


def test_more_neurons_need_longer_blocks() -> None:
    times = [block_s(COSTS, miners, 2) for miners in (1, 8, 32)]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_a_machine_that_is_too_slow_is_told_so_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"cores: .* cores are free.*--miners.*--plan"):
        block_s(replace(COSTS, cores=0.001, core_share=0.001))


def test_blocks_become_longer_after_a_window_without_payloads_and_only_then() -> None:
    strain = Strain(0.2, num_windows=24)
    assert strain.note(0, 0, 1) is None, "the first window is no sign"
    assert strain.note(1, 4, 2) is None
    assert strain.note(2, 0, 4) == pytest.approx(0.2 * STRETCH)
    assert strain.note(2, 0, 4) is None, "told twice"
    assert strain.note(4, 0, 5) is None, "had begun under the old block time"
    assert strain.note(5, 0, 6) == pytest.approx(0.2 * STRETCH**2)
    assert strain.note(24, 0, 26) is None, "after the run nothing can be accepted"


@pytest.mark.parametrize(
    ("committed", "in_time", "is_late"),
    [(0, 0, False), (1, 0, True), (1, 1, False), (2, 1, False), (3, 1, True), (4, 2, False)],
)
def test_late_is_fewer_than_half_of_what_was_committed(committed, in_time, is_late) -> None:
    assert Arrival(num_committed=committed, num_in_time=in_time).is_late == is_late


LATE, HALF = (Arrival(num_committed=4, num_in_time=count) for count in (1, 2))


@pytest.mark.parametrize(
    ("arrivals", "longer_after"),
    [
        ([LATE], []),
        ([LATE, LATE], [2]),
        ([HALF] * 4, []),
        ([LATE, HALF, LATE], []),
        ([LATE, UNKNOWN, LATE], []),
        ([LATE, LATE, LATE], [2]),
        ([LATE, LATE, LATE, LATE], [2, 4]),
    ],
    ids=["once", "twice", "half", "between", "unknown", "three", "four"],
)
def test_blocks_become_longer_after_two_late_windows_running(arrivals, longer_after) -> None:
    """Some payloads are accepted in each; the count begins anew under the new block time."""
    strain = Strain(0.2, num_windows=24)
    found = [w for w, each in enumerate(arrivals, 1) if strain.note(w, 1, w, each) is not None]
    assert found == longer_after
    assert strain.block_s == pytest.approx(0.2 * STRETCH ** len(longer_after), abs=0.01)


def test_a_late_window_after_one_that_nobody_saw_is_the_first() -> None:
    strain = Strain(0.2, num_windows=24)
    assert strain.note(0, 1, 0, LATE) is None, "the first window of the run is no sign"
    assert [strain.note(window, 1, window, LATE) for window in (1, 3)] == [None, None]
    assert strain.note(4, 1, 6, LATE) == pytest.approx(0.2 * STRETCH)
    assert [strain.note(window, 1, window, LATE) for window in (5, 6, 7)] == [None, None, None]
    assert strain.note(8, 1, 8, LATE) is not None


def test_late_windows_make_blocks_no_longer_than_the_bound() -> None:
    strain = Strain(MAX_AUTO_S, num_windows=24)
    assert [strain.note(window, 1, window, LATE) for window in (1, 2, 3)] == [None] * 3


def test_blocks_do_not_become_longer_without_end() -> None:
    strain = Strain(0.8 * MAX_AUTO_S, num_windows=24)
    assert [strain.note(window, 0, window) for window in (1, 2)] == [MAX_AUTO_S, None]


def test_a_measurement_names_a_wrong_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(["--plan", str(tmp_path / "none.toml"), "--owner", OWNER]) == 2
    assert "none.toml" in capsys.readouterr().err
