"""The costs of the host's work are those of the record, and the record's windows come out again."""

import json
from pathlib import Path

import pytest

from template.planning.costs import (
    COSTS_FILE,
    IN_THREADS,
    MAX_THREADS,
    SIZES,
    Costs,
    PhaseCost,
    costs_text,
    fit_costs,
    read_costs,
)

ROOT = Path(__file__).parents[2]
RECORD = json.loads((ROOT / "benchmarks" / "results" / "size.json").read_text("utf-8"))
ROWS = [row for row in RECORD["rows"] if row["size"] in SIZES]
TOLERANCE = 0.2
NOT_HERE = {"join", "load", "train", "score"}
"""Not of a window's host work: a start, or what a device does."""


def test_the_file_follows_from_the_record() -> None:
    written = COSTS_FILE.read_text("ascii")
    assert costs_text(RECORD) == written, "out of step; run: python contrib/hardware_pages.py"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['role']}-{row['size']}")
def test_seconds_of_a_window_are_the_records_within_a_fifth(row) -> None:
    costs, role, count = read_costs(), row["role"], row["params"]
    measured = sum(p["cpu_s"] for p in row["phases"] if p["name"] not in NOT_HERE)
    names = {p["name"] for p in row["phases"]} - NOT_HERE
    calculated = sum(
        costs.of(role, name).times * costs.seconds(role, name, count, cores=1) for name in names
    )
    assert calculated == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['role']}-{row['size']}")
def test_the_peak_of_memory_is_the_records_within_a_fifth(row) -> None:
    costs, count = read_costs(), row["params"]
    measured = max(p["peak_bytes"] for p in row["phases"])
    lines = max(cost.peak_bytes(count) for cost in costs.of_role(row["role"]))
    assert lines == pytest.approx(measured, rel=TOLERANCE)
    slope = max(cost.bytes_per_parameter for cost in costs.of_role(row["role"]))
    if row["size"] == "100M":  # below, the buffer for a part of a checkpoint counts as well
        assert slope * count == pytest.approx(measured, rel=TOLERANCE), "a figure a parameter"


def _record(near: tuple[float, int], far: tuple[float, int], times: int = 1):
    rows = []
    for (seconds, peak), size, params in zip((near, far), SIZES, (10, 100), strict=True):
        phase = {"name": "work", "cpu_s": seconds, "peak_bytes": peak}
        phases = [phase] * times
        rows.append({"role": "miner", "size": size, "params": params, "phases": phases})
    return {"rows": rows}


def test_a_line_goes_through_both_sizes_and_never_falls() -> None:
    (row,) = fit_costs(_record((2.0, 50), (11.0, 410), times=2))
    cost = PhaseCost(**row)
    assert (cost.times, cost.fixed_s, cost.s_per_parameter) == (2, 1.0, 0.1)
    assert (cost.peak_bytes(10), cost.peak_bytes(100)) == (50, 410)
    (row,) = fit_costs(_record((2.0, 50), (1.0, 40)))
    cost = PhaseCost(**row)
    assert (cost.fixed_s, cost.cpu_s(200), cost.peak_bytes(200)) == (0.0, 2.0, 80)


def test_no_phase_takes_less_than_no_time() -> None:
    (row,) = fit_costs(_record((0.1, 50), (10.0, 410)))
    assert PhaseCost(**row).cpu_s(1) == 0.0


def test_cores_help_loops_in_threads_and_no_others() -> None:
    (row,) = fit_costs(_record((1.0, 50), (10.0, 410)))
    loop = PhaseCost(**{**row, "name": next(iter(IN_THREADS))})
    costs = Costs((loop, PhaseCost(**row)))
    assert costs.seconds("miner", loop.name, 100, 1) == pytest.approx(10.0)
    assert costs.seconds("miner", loop.name, 100, 4) == pytest.approx(2.5)
    most = costs.seconds("miner", loop.name, 100, MAX_THREADS)
    assert costs.seconds("miner", loop.name, 100, 4096) == most == pytest.approx(10 / MAX_THREADS)
    assert costs.seconds("miner", "work", 100, 4096) == costs.seconds("miner", "work", 100, 1)


def test_an_unknown_phase_is_an_error_with_its_name() -> None:
    with pytest.raises(KeyError, match="'sleep' of a miner"):
        read_costs().of("miner", "sleep")
    assert {cost.name for cost in read_costs().phases} >= IN_THREADS
