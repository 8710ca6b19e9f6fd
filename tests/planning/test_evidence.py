"""The law of the work test's effect: the record's, its arithmetic, and what follows for a plan."""

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.incentive.__main__ import QUICK, RECORD, full, main
from benchmarks.incentive.law import Shown, fit, fit_gain, shown_in, typical_miss
from benchmarks.incentive.point import STEPS, Point, _own, play
from benchmarks.learning.record import load
from evaluation.work import WINSOR, WorkRules, WorkSample, WorkState
from template.planning.case import Case
from template.planning.evidence import (
    LAW_FILE,
    EffectLaw,
    effect_variance,
    law_text,
    log_effect,
    log_slopes,
    pages_to_pass,
    parse_law,
    read_law,
    windows_to_pass,
)
from template.protocol.spec import EvaluationSpec

LAW = EffectLaw(
    coefficients=(math.log(6.0), 0.25, math.log(100.0), 0.5),
    covariance=(
        (0.04, 0.0, 0.0, 0.0), (0.0, 0.01, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0),
    ),
    parameters=(1_000, 1_600_000),
    pages=(4, 400),
    points=9,
)  # fmt: skip


@pytest.fixture
def evaluation(case_of: Callable[..., Case]) -> EvaluationSpec:
    return case_of("localnet").spec.evaluation


def _shown(parameters: int, pages: int, effect: float, steps: int = STEPS) -> Shown:
    return Shown(
        model="any", parameters=parameters, pages=pages, seed=1, steps=steps, effect=effect,
        error=0.02, gain=2 * effect, payloads=6,
    )  # fmt: skip


def test_the_planners_law_follows_from_the_record() -> None:
    law = fit(map(shown_in, load(RECORD).values()))
    assert law_text(law) == LAW_FILE.read_text("ascii"), "run: make bench-incentive"
    assert {point.key for point in full()} == load(RECORD).keys()


def test_a_law_by_hand() -> None:
    """Of 10^5 parameters the turn is at 100 pages, of 16 times as many at 400."""
    assert LAW.effect(100_000, 25) == pytest.approx(6 / math.sqrt(25 * 1.25))
    assert LAW.effect(100_000, 100) == pytest.approx(6 / math.sqrt(200))
    assert LAW.effect(1_600_000, 400) == pytest.approx(12 / math.sqrt(800))
    assert LAW.turn(100_000) == pytest.approx(100)
    assert LAW.turn(1_600_000) == pytest.approx(400)
    far = LAW.effect(100_000, 10**6) / LAW.effect(100_000, 10**7)
    assert far == pytest.approx(10, rel=1e-3), "beyond the turn with the pages"
    near = LAW.effect(10**9, 4) / LAW.effect(10**9, 16)
    assert LAW.effect(10**9, 4) == WINSOR, "single pages are cut"
    assert near == WINSOR / LAW.effect(10**9, 16)
    low, high = LAW.interval(100_000, 100)
    middle = LAW.effect(100_000, 100)
    assert low / middle == pytest.approx(math.exp(-0.392))
    assert high / middle == pytest.approx(math.exp(0.392))
    wide = LAW.interval(1_600_000, 400)
    assert wide[1] / wide[0] > high / low, "further from where the exponent is known"
    assert LAW.covers(1_000, 4)
    assert LAW.covers(1_600_000, 400)
    assert not LAW.covers(999, 4)
    assert not LAW.covers(1_000, 401)
    assert parse_law(json.loads(law_text(LAW))) == LAW


@pytest.mark.parametrize("parameters", [2_000, 10**5, 10**9])
@pytest.mark.parametrize("pages", [1, 100, 10**6])
def test_the_slopes_are_those_of_the_law(parameters: int, pages: int) -> None:
    step = 1e-6
    for index, slope in enumerate(log_slopes(LAW.coefficients, parameters, pages)):
        moved = list(LAW.coefficients)
        moved[index] += step
        ends = [log_effect(each, parameters, pages) for each in (LAW.coefficients, moved)]
        assert slope == pytest.approx((ends[1] - ends[0]) / step, abs=1e-4)


def test_the_fit_finds_a_law_again_and_looks_at_points_without_effect() -> None:
    rng = np.random.default_rng(1)
    points = [
        _shown(n, p, LAW.effect(n, p) * (1 + 0.03 * rng.standard_normal()))
        for n in (20_000, 100_000, 3_000_000)
        for p in (15, 60, 240, 960)
    ]
    law = fit(points)
    assert law.coefficients == pytest.approx(LAW.coefficients, abs=0.3)
    for n, p in ((20_000, 60), (10**6, 500)):
        assert law.effect(n, p) == pytest.approx(LAW.effect(n, p), rel=0.1)
    assert (law.parameters, law.pages, law.points) == ((20_000, 3_000_000), (15, 960), 12)
    assert fit([*points, _shown(100_000, 960, 9.0, steps=480)]) == law, "other steps, no part"
    lower = fit([*points, *[_shown(20_000, 4000, -0.02)] * 3])
    assert lower.effect(20_000, 4000) < law.effect(20_000, 4000), "nothing is a figure too"
    assert typical_miss(law, points) < 0.1
    start, by_parameters, by_pages = fit_gain(
        replace(p, gain=0.1 * p.parameters**0.2 * p.pages**0.3) for p in points
    )
    assert (start, by_parameters, by_pages) == pytest.approx((math.log(0.1), 0.2, 0.3))


def test_too_few_points_and_points_alike_have_no_law() -> None:
    with pytest.raises(ValueError, match="5 points"):
        fit([_shown(10, 60, 0.5)] * 5)
    with pytest.raises(ValueError, match="do not differ"):
        fit([_shown(10, pages, 0.5) for pages in (60, 240, 960, 3840, 60, 240)])
    with pytest.raises(ValueError, match="1 payloads"):
        shown_in({"key": "k", "point": {}, "parameters": 1, "samples": [{"effect": 1.0}]})
    with pytest.raises(ValueError, match="equal steps"):
        Point(model="tiny", pages=61, seed=1)


def test_the_gate_of_the_real_test_opens_when_the_planner_says(evaluation) -> None:
    """With the mean effect in every window, the windows are those of `WorkState`."""
    variance = effect_variance(evaluation.claimed_pages, evaluation.held_out_pages)
    rules = WorkRules(effect=evaluation.work_effect, error=evaluation.work_error)
    for effect in (0.25, 0.3, 0.6, 1.2):
        expected, state, windows = windows_to_pass(effect, evaluation), WorkState(), 0
        sample = WorkSample(effect=effect, variance=variance, page_effect=0.0, page_square=1.0)
        while not state.holds:
            state, windows = state.after(sample, rules), windows + 1
        assert windows == max(1, math.ceil(expected)), effect
    half = evaluation.work_effect / 2
    assert windows_to_pass(half, evaluation) == math.inf
    assert windows_to_pass(half / 2, evaluation) == math.inf


def test_the_pages_for_a_window_open_the_gate_in_it_and_one_fewer_does_not(
    evaluation,
) -> None:
    pages = pages_to_pass(0.8, 64, 0.01, 1)
    assert pages is not None
    evaluation = replace(evaluation, work_effect=0.8, work_error=0.01, held_out_pages=64)
    assert windows_to_pass(0.8, replace(evaluation, claimed_pages=pages)) <= 1
    assert windows_to_pass(0.8, replace(evaluation, claimed_pages=pages - 1)) > 1
    assert pages_to_pass(0.2, 16, 0.01, 1) is None, "too few are held out"
    assert pages_to_pass(0.0, 64, 0.01, 9) is None
    more = pages_to_pass(0.8, 64, 0.01, 4)
    assert more is not None
    assert more < pages


def test_the_law_on_record_is_within_reason() -> None:
    """More pages show less, more parameters more; most measured points lie within a half of it."""
    law = read_law()
    start, by_parameters, _, by_turn = law.coefficients
    assert min(start, by_parameters, by_turn) > 0
    points = [shown_in(row) for row in load(RECORD).values()]
    clear = [p for p in points if p.steps == STEPS and p.effect > 0.2]
    ratios = [p.effect / law.effect(p.parameters, p.pages) for p in clear]
    assert sum(0.5 < ratio < 1.5 for ratio in ratios) > 0.8 * len(ratios)


def test_the_results_of_a_record_are_written_without_playing(tmp_path) -> None:
    """Tables, picture and JSON of the record; the planner's law lies beside the record's own."""
    (tmp_path / RECORD.name).write_bytes(RECORD.read_bytes())
    main(["--report", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "incentive.json").read_text())
    assert written["law"] == json.loads(LAW_FILE.read_text("ascii"))
    plans = {plan["plan"]: plan for plan in written["plans"]}
    assert plans["localnet"]["measured"]
    assert not plans["72b"]["measured"]
    table = (tmp_path / "incentive.md").read_text()
    assert table.count("\n| 113,984 |") == 18
    assert (tmp_path / "incentive.png").stat().st_size > 5000


def test_the_quick_points_are_enough_for_a_law() -> None:
    rows = load(RECORD)
    quick = [Point(model=model, pages=pages, seed=1).key for model, pages in QUICK]
    assert fit(shown_in(rows[key]) for key in quick).points == len(QUICK)


def test_own_pages_show_an_effect_and_none_is_held_out_or_taken_twice() -> None:
    ids, point = np.arange(500), Point(model="tiny", pages=60, seed=3)
    first, second, later = _own(ids, point, 0, 0), _own(ids, point, 0, 1), _own(ids, point, 1, 0)
    assert len(set(first) | set(second)) == 120
    assert set(first) != set(later)
    with pytest.raises(ValueError, match="more than the text has"):
        _own(ids[:100], point, 0, 1)
    row = play(point)
    assert row["parameters"] == 18_528
    assert len(row["samples"]) == 6
    shown = shown_in(row)
    assert shown.effect > 3 * shown.error, "trained pages stand out"
    assert shown.gain > 0
