"""The record of neurons of many ranks: memory falls, and scoring costs what the planner says."""

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale.__main__ import falls
from benchmarks.scale.scoring import BUDGET_S, scoring_of

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "scale.json"
BOUND = 1.4
"""Between formula and measurement, either way: the planner takes a third of a training step."""
STEP_SHARE = 0.05
"""Of a payload's seconds on 32 pages, for the step into the model and back."""


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return json.loads(RECORD.read_text("utf-8"))["rows"]


def of(rows: list[dict[str, Any]], role: str, size: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["role"], row["size"]) == (role, size)]


@pytest.mark.parametrize("role", ["miner", "validator"])
@pytest.mark.parametrize("size", ["10M", "100M"])
def test_the_fullest_rank_has_less_the_more_ranks_there_are(rows, role: str, size: str) -> None:
    found = of(rows, role, size)
    assert [row["ranks"] for row in found][:2] == [1, 2]
    assert falls(found)
    peaks = [max(row["peak_bytes_per_parameter"]) for row in found]
    assert all(after < before for before, after in pairwise(peaks))


@pytest.mark.parametrize("size", ["10M", "100M"])
def test_a_payload_costs_what_the_planner_calculates(rows, size: str) -> None:
    """CPU seconds of one thread: the machine's speed is that of a training step in the record."""
    row = of(rows, "validator", size)[0]
    scoring = scoring_of(row)
    assert row["scoring"] == pytest.approx(asdict(scoring))
    assert 1 / BOUND < scoring.pass_s / scoring.formula_pass_s < BOUND
    assert 1 / BOUND < scoring.payload_s / scoring.formula_pass_s < BOUND
    assert scoring.budget_s == BUDGET_S
    assert 1 / BOUND < scoring.fits / scoring.formula_fits < BOUND


@pytest.mark.parametrize("size", ["10M", "100M"])
def test_the_step_into_the_model_and_back_is_a_small_part_of_a_payload(rows, size: str) -> None:
    """The planner leaves the step out. On a pool's pages the share is smaller still."""
    scoring = scoring_of(of(rows, "validator", size)[0])
    assert scoring.step_s < STEP_SHARE * scoring.payload_s
