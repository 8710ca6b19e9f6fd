"""The benchmark of long runs: rules that err as built, guesses as the neurons make them."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.attacks.actor import Actor
from benchmarks.attacks.idle import Undelivered
from benchmarks.attacks.panel import Setting
from benchmarks.attacks.swarm import Swarm
from benchmarks.learning.trial import Trial
from benchmarks.long import report
from benchmarks.long.case import BACK, HONEST, TURN, Case, cases, play
from benchmarks.long.contenders import (
    RULES,
    Figures,
    figures_of,
    gain_test,
    turned,
    windows_to_naming,
    windows_to_refusal,
    without_gain,
)
from benchmarks.long.turncoat import Turncoat
from evaluation.work import WorkSample

TINY = Trial(strategy="ours", lag=0, model="tiny", miners=3, inner_steps=3, rounds=3, warm_steps=8)
WORKED = WorkSample(effect=1.5, variance=0.08, page_effect=1.4, page_square=2.6)
IDLE = WorkSample(effect=0.0, variance=0.08, page_effect=0.0, page_square=1.0)
GOOD = Figures(gain=0.004, error=0.0005, work=WORKED)
NOISE = Figures(gain=-0.004, error=0.001, work=IDLE)
RUN = [{0: GOOD, 1: GOOD, 2: GOOD, 3: GOOD, 4: NOISE}] * 30


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_names_clear_work_and_no_noise(name: str) -> None:
    named = list(RULES[name](RUN))
    assert named == [set(HONEST)] * len(RUN)
    assert windows_to_refusal(RULES[name], turned(RUN, 3, 4, 10), 3, 10) == 0
    assert windows_to_refusal(RULES[name], RUN, 3, 10) == 20, "never refused"
    assert windows_to_naming(RULES[name], RUN, 3, 10) == 0
    assert windows_to_naming(RULES[name], RUN, 4, 10) == 20, "never named"


def test_late_gains_are_named_by_rules_with_a_memory_alone() -> None:
    late = [
        {
            uid: Figures(gain=0.002 + 0.001 * (-1) ** (uid + window), error=0.0009, work=WORKED)
            for uid in HONEST
        }
        for window in range(20)
    ]
    shares = {
        name: sum(len(uids) for uids in rule(late)) / (len(HONEST) * len(late))
        for name, rule in RULES.items()
    }
    assert shares["gain test"] == 1.0
    assert shares["one window"] <= 0.5 < 0.8 < shares["filter"]


def test_a_payload_without_effect_is_refused_soon() -> None:
    assert windows_to_refusal(gain_test, without_gain(RUN, 3, 10), 3, 10) <= 3


def test_figures_of_a_payload_that_was_not_measured_are_none() -> None:
    assert figures_of(["overlap", None, None, None, None, 0.0]) is None
    assert figures_of(["named", 0.004, 0.0005, 1.5, 0.08, 0.2]) is not None


def _params(guesses: bool, roster: list[Actor]) -> torch.Tensor:
    setting = Setting(guesses=guesses, refuses=False)
    return Swarm(replace(TINY, miners=len(roster)), roster, setting=setting).run()


class Silent(Undelivered):
    """Delivers in the first two windows, and then no more."""

    def send(self, honest, view):
        return honest if view.number < 2 else None


def test_a_right_guess_changes_nothing_and_a_wrong_one_does() -> None:
    """Where the same are accepted in each window, miners guess the update to the bit."""
    constant = [Actor(), Actor()]
    assert torch.equal(_params(True, constant), _params(False, constant))
    torn = [Actor(), Actor(), Silent()]
    assert torch.equal(_params(True, torn), _params(False, torn)), "none of a silent one"


def test_a_turncoat_turns_and_comes_back() -> None:
    turncoat = Turncoat("noise", TURN, BACK)
    shares = [turncoat.share_in(n) for n in (TURN - 1, TURN, BACK - 1, BACK)]
    assert shares == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.slow
def test_the_rule_asked_about_a_record_is_the_rule_of_the_run(tmp_path) -> None:
    case = Case(cast="noise", seed=1, windows=4)
    row = json.loads(json.dumps(play(case)))
    windows = [
        {uid: found for uid, each in enumerate(window) if (found := figures_of(each))}
        for window in row["windows"]
    ]
    for window, named in zip(row["windows"], gain_test(windows), strict=True):
        said = {uid for uid, each in enumerate(window) if each[0] == "named"}
        assert said == named
    clean = Case(cast="clean", seed=1, windows=4)
    rows = {case.key: row, clean.key: play(clean)}
    content = report.summary([case, clean], rows)
    assert content["runs"][0]["over_clean_percent"] == pytest.approx(
        100 * (row["held_out_loss"] / rows[clean.key]["held_out_loss"] - 1)
    )
    assert content["runs"][0]["noise_named"] == 0
    report.write(content, tmp_path, "a test")
    assert (tmp_path / "long.png").stat().st_size > 10_000


def test_the_cases_are_those_of_the_goals() -> None:
    wanted = [(c.cast, c.seed, c.windows) for c in cases()]
    assert {("noise", seed, 200) for seed in (1, 2, 3)} < set(wanted)
    assert ("noise", 1, 500) in wanted
    assert len({c.key for c in cases()}) == len(wanted)
