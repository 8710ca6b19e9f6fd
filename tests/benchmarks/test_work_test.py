"""The work test's power: careers are walked as the test walks them, and drawn without a bias."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.evaluation import work_test as power
from benchmarks.evaluation import work_test_record as record
from evaluation.work import WorkRules, WorkSample, WorkState

RULES = WorkRules(effect=0.4, error=0.01)
SIZES = {"HELD": 24, "FREE": 120, "OWN": 16}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_career_passes_where_the_test_first_holds() -> None:
    rng = np.random.default_rng(0)
    bank = power.Bank(effects=rng.normal(0.2, 0.5, (300, 20)), variances=np.full((300, 20), 0.2))
    found = power.first_pass(bank.ratios(RULES.effect), RULES.bound)
    for effects, first in zip(bank.effects, found, strict=True):
        state, expected = WorkState(), math.inf
        for number, effect in enumerate(effects.tolist(), 1):
            state = state.after(_sample(effect), RULES)
            expected = min(expected, number if state.holds else math.inf)
        assert first == expected
    assert 0.2 < np.isfinite(found).mean() < 0.9


def test_drawing_a_sample_twice_makes_luck_that_is_not_there() -> None:
    rates = power.resampling(0.01)
    assert rates["without_replacement"] == pytest.approx(rates["fresh"], rel=0.4)
    assert rates["with_replacement"] > 2.5 * rates["fresh"]


def _sample(effect: float) -> WorkSample:
    return WorkSample(effect=effect, variance=0.2, page_effect=effect, page_square=1.0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[list[record.Window]]:
    """A short run of the smaller model, on a small pool; the second time from the cache."""
    cache = tmp_path_factory.mktemp("cache")
    trial = replace(record.TRIALS["attack suite"], rounds=4, inner_steps=8, warm_steps=40)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in SIZES.items():
            patch.setattr(record, name, size)
        played = [record.recorded(trial, cache)]
        again = record.recorded(trial, cache)
    assert all((a.probes_IFQ == b.probes_IFQ).all() for a, b in zip(again, played[0], strict=True))
    return played


@pytest.mark.slow
def test_a_copy_gains_what_its_rival_gains_and_noise_does_not(runs) -> None:
    for window in (window for run in runs for window in run):
        assert window.honest_IKQ.shape == (6, 24 + 120 + 16, 4)
        assert window.probes_IFQ.shape == (len(record.PROBES), 144, 4)
        honest_IF = window.honest_IKQ[:, :144].mean(axis=2)
        gains = dict(zip(record.PROBES, window.probes_IFQ.mean(axis=2), strict=True))
        copied_F, noise_F = gains["copy of this window"], gains["noise"]
        assert np.isclose(honest_IF, copied_F, rtol=1e-5, atol=1e-7).all(axis=1).sum() == 1
        assert max(np.corrcoef(row, noise_F)[0, 1] for row in honest_IF) < 0.95
        assert honest_IF.mean() > 0
        assert copied_F.mean() > 1.5 * abs(noise_F.mean())


@pytest.mark.slow
def test_a_study_of_the_record_and_its_report(runs, monkeypatch, tmp_path) -> None:
    for name, value in {**SIZES, "DRAWS": 4, "CAREERS": 400, "CLAIMED": (4, 16)}.items():
        monkeypatch.setattr(power, name, value)
    found = power.study([*runs, *runs], 16, 0.01)
    assert [r["claimed_pages"] for r in found["rates"]] == [4] * 6 + [16] * 6
    assert found["effects"][16]["honest_mean"] > found["effects"][16]["nobody_mean"] + 0.1
    assert found["effects"][4]["honest_sd_stated"] > 1.5 * found["effects"][16]["honest_sd_stated"]
    for rate in found["rates"]:
        assert list(rate["false_pass_of_kinds"]) == list(record.PROBES)
        kinds = np.array([*rate["false_pass_of_kinds"].values()])
        assert kinds.mean() == pytest.approx(rate["false_pass"])
        assert kinds.min() >= 0
        assert kinds.max() <= 1
    content = {"models": {"attack suite": json.loads(json.dumps(found))}, "evaluations": 20,
               "careers": 400, "resampling": power.resampling(0.01)}  # fmt: skip
    assert "| 16 | 0.25 |" in power.markdown(content)
    power.draw(content, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
