"""Scoring on several real processes, over gloo: as one device's, and theta put back to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ranks.test_bands import crew_of_one
from tests.support.rank_run import (
    run_spec,
    tell_scores,
    together,
    told,
)

LARGE = {"words": 2**14, "model__tie_word_embeddings": False}
"""Losses in chunks, and an output layer of its own."""


def losses_in(said: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in said.items() if isinstance(value, list)}


def assert_same(many: dict[str, Any], one: dict[str, Any], tolerance: float) -> float:
    """The same parameters to the bit, and losses within the audit's tolerance; the difference."""
    assert {n: v for n, v in many.items() if isinstance(v, str)} == {
        n: v for n, v in one.items() if isinstance(v, str)
    }
    ours, theirs = losses_in(many), losses_in(one)
    assert ours.keys() == theirs.keys()
    apart = [float(np.abs(ours[n] - theirs[n]).max(initial=0.0)) for n in ours]
    assert max(apart) < tolerance
    assert (ours["again"] == ours["before"]).all()
    assert (ours["after 0"] != ours["before"]).any()
    return max(apart)


def test_one_rank_scores_as_one_process(tmp_path: Path) -> None:
    crew, _ = crew_of_one()
    (tmp_path / "crew").mkdir()
    spec = run_spec()
    said = tell_scores(together(crew, spec), tmp_path / "crew")
    one = told("scores", 1, tmp_path / "alone")
    assert_same(said, one, spec.evaluation.loss_tolerance)
    assert said["theta"] == said["loaded"] == said["in the block"] == said["without a factor"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "changes"), [(2, {}), (3, {}), (3, LARGE), (2, {"model__architecture": "qwen3"})]
)
def test_ranks_score_as_one_process(ranks: int, changes: dict[str, object], tmp_path: Path) -> None:
    """Half-way states, theta, three steps; then the next window from the state that was saved."""
    tolerance = run_spec(**changes).evaluation.loss_tolerance
    for _window in range(2):
        one = told("scores", 1, tmp_path / "alone", spec=changes)
        many = told("scores", ranks, tmp_path / "many", spec=changes)
        assert_same(many, one, tolerance)
        assert many["theta"] == many["loaded"] == many["in the block"]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3)])
def test_another_number_of_ranks_takes_the_next_window(
    before: int, after: int, tmp_path: Path
) -> None:
    spec = run_spec()
    one = [told("scores", 1, tmp_path / "alone") for _ in range(2)][1]
    told("scores", before, tmp_path / "many")
    many = told("scores", after, tmp_path / "many")
    assert_same(many, one, spec.evaluation.loss_tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_publish_the_bytes_of_one_process(ranks: int, tmp_path: Path) -> None:
    said = told("published", ranks, tmp_path / "ranks")
    assert said == told("published", 1, tmp_path / "alone")
