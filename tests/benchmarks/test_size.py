"""The benchmark of sizes: what counts to a window, which bars hold, and that both roles run."""

import json
import sys
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.size import __main__ as size
from benchmarks.size import ranges
from benchmarks.size.meter import BEFORE_WINDOW, Meter
from benchmarks.size.report import BAR_SIZE, bars, page, peak_per_param, window_s, write_all

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _phase(name: str, wall_s: float, peak_bytes: int) -> dict[str, Any]:
    return {"name": name, "wall_s": wall_s, "cpu_s": 2 * wall_s, "peak_bytes": peak_bytes}


def _result(role: str, peak: float) -> dict[str, Any]:
    phases = [
        _phase("join", 50.0, 0),
        _phase(BEFORE_WINDOW, 20.0, 0),
        _phase("train", 70.0, int(peak * 1e7)),
        _phase("encode", 0.4, 10),
        _phase("save", 0.1, 10),
    ]
    row = {"role": role, "size": BAR_SIZE, "params": 10_000_000, "phases": phases}
    return {"rows": [row], "machine": {"cpus": 2, "load": [0.0], "torch": "2"}}


def test_time_is_for_100_million_parameters_without_training_and_joining(tmp_path) -> None:
    result = _result("miner", 25.0)
    (row,) = result["rows"]
    assert window_s(row) == pytest.approx(5.0)
    assert window_s(row, "cpu_s") == pytest.approx(10.0)
    assert peak_per_param(row) == pytest.approx(25.0)
    assert all(bar.holds for bar in bars(result))
    write_all(result, tmp_path)
    assert "| 25.0 | 26 | 37.7 | holds |" in (tmp_path / "size.md").read_text("utf-8")
    assert (tmp_path / "size.png").stat().st_size > 1000


@pytest.mark.parametrize(("role", "peak"), [("miner", 26.1), ("validator", 16.1)])
def test_a_bar_that_does_not_hold_is_said(role: str, peak: float) -> None:
    result = _result(role, peak)
    assert [bar.holds for bar in bars(result)] == [False, True]
    assert "does not hold" in page(result)
    result["rows"][0]["size"] = "1M"
    assert bars(result) == []


def test_the_meter_sees_memory_of_its_phase_alone() -> None:
    meter = Meter()
    with meter.phase("large"):
        np.ones(8_000_000).sum()
    with meter.phase("small"):
        pass
    large, small = meter.phases
    assert large.peak_bytes >= 60_000_000
    assert small.peak_bytes < large.peak_bytes - 40_000_000


@pytest.mark.slow
def test_both_roles_run_at_the_smallest_size(tmp_path) -> None:
    threads = torch.get_num_threads()
    try:
        assert size.main(["--quick", "--repeats", "1", "--out", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(threads)
    text = (tmp_path / "size.md").read_text("utf-8")
    assert "## miner, 1," in text or "## miner, 9" in text
    assert "outer step" in text
    assert "| restart |" in text


@pytest.mark.slow
def test_a_range_takes_less_memory_of_its_own_than_the_whole(tmp_path) -> None:
    assert ranges.main(["--size", "10M", "--parts", "2", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "size_ranges.json").read_text("ascii"))["rows"]
    whole, *parts = (ranges.Row(**row) for row in rows)
    assert whole.own_bytes == whole.peak_bytes
    assert sum(part.trained for part in parts) == whole.trained == whole.params
    assert all(part.own_bytes < whole.own_bytes for part in parts)
    assert "| part 1 |" in (tmp_path / "size_ranges.md").read_text("utf-8")
