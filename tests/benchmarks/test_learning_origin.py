"""A row of the learning benchmark is only as good as the code that made it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.learning import report, suite
from benchmarks.learning.origin import (
    CURRENT,
    PACKAGES,
    STALE,
    UNMARKED,
    age,
    code_digest,
    read_module,
    rule_digest,
    to_run,
)
from benchmarks.learning.record import append, load
from benchmarks.learning.run import as_row, run_trial
from benchmarks.learning.text import ROOT
from benchmarks.learning.trial import Trial
from benchmarks.learning.vouch import vouch

OURS = Trial(strategy="ours")
MEAN = Trial(strategy="mean")
ADAMW = Trial(strategy="adamw_dp", lag=0)
NOISY = Trial(strategy="ours", noise_miners=2)


@pytest.fixture
def copied(tmp_path) -> Path:
    """This repository's sources, to be changed."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("results", "*.pyc")
        )
    return tmp_path


def change(root: Path, file: str, before: str, after: str) -> None:
    path = root / file
    text = path.read_text()
    assert text.count(before) == 1, f"{file} has changed: choose another line"
    path.write_text(text.replace(before, after))
    rule_digest.cache_clear()
    read_module.cache_clear()


def ages(root: Path) -> list[str]:
    """Of rows of three rules, made by the code that is here, at the sources under `root`."""
    return [age(t, {"code": code_digest(t)}, root) for t in (OURS, MEAN, ADAMW)]


def test_a_changed_rule_makes_its_rows_stale_and_they_run_again(copied):
    assert ages(copied) == [CURRENT] * 3
    change(
        copied, "benchmarks/learning/strategies/ours.py",
        "self.outer = workers.spec.outer", 'raise ValueError("planted")',
    )  # fmt: skip
    assert ages(copied) == [STALE, CURRENT, CURRENT]
    rows = {t.key: {"code": code_digest(t, copied)} for t in (OURS, MEAN)}
    assert to_run([OURS, MEAN, ADAMW], rows) == [OURS, ADAMW]


@pytest.mark.parametrize(
    ("file", "before", "after", "expected"),
    [
        ("benchmarks/learning/workers.py", "SCORING = 0, 1, 2", "SCORING = 0, 1, 7", [STALE] * 3),
        ("template/training/rates.py", "floor = training", "floor = 2 * training", [STALE] * 3),
        ("benchmarks/learning/strategy.py", "DENSER = 4", "DENSER = 5", [STALE, STALE, CURRENT]),
        ("template/base/feedback.py", "SHARE = 0.5", "SHARE = 0.6", [STALE, STALE, CURRENT]),
        ("compression/kernels.py", "RATIO_STEPS = 16", "RATIO_STEPS = 8", [STALE, STALE, CURRENT]),
        ("evaluation/work.py", "HELD_OUT = -1", "HELD_OUT = -2", [CURRENT] * 3),
        ("benchmarks/learning/strategies/mean.py", "mean of the payloads.", "text", [CURRENT] * 3),
        ("benchmarks/learning/strategies/mean.py", "class Mean(", "# Why.\nclass Mean(",
         [CURRENT] * 3),
        ("benchmarks/learning/space.py", "flat: Tensor)", "flat: object)", [CURRENT] * 3),
    ],
)  # fmt: skip
def test_what_decides_and_what_does_not(copied, file, before, after, expected):
    change(copied, file, before, after)
    assert ages(copied) == expected


def test_a_judge_decides_only_where_there_is_noise(copied):
    code = code_digest(NOISY)
    change(copied, "evaluation/work.py", "HELD_OUT = -1", "HELD_OUT = -2")
    assert age(NOISY, {"code": code}, copied) == STALE


def test_other_numbers_of_the_plan_are_other_code():
    assert code_digest(OURS) != code_digest(replace(OURS, inner_lr=1e-3))
    assert code_digest(OURS) == code_digest(replace(OURS, seed=9))


def test_rows_without_a_digest_run_again_only_if_asked():
    rows: dict[str, dict[str, str]] = {OURS.key: {}}
    assert age(OURS, rows[OURS.key]) == UNMARKED
    assert to_run([OURS, OURS], rows) == []
    assert to_run([OURS, OURS], rows, again=True) == [OURS]


def test_tables_and_pictures_say_what_is_of_other_code(tmp_path, capsys):
    groups = [
        suite.seeded("main", label, 24, trial, 2)
        for label, trial in (("adamw_dp", ADAMW), ("ours/1+", OURS))
    ]
    outcome = {
        "held_out_loss": 2.0, "curve": [[0, 2.1], [24, 2.0]], "tokens": 100, "noise_kept": 0,
        "bytes_up_per_param_round": 1.0, "bytes_down_per_param_round": 7.0, "seconds": 1.0,
    }  # fmt: skip
    rows = {
        trial.key: {
            "code": code_digest(trial),
            "outcome": outcome | {"held_out_loss": 2.0 + 0.1 * trial.seed * (trial.lag == 1)},
            "trial": {"warm_steps": 0, "miners": 8, "inner_steps": 15},
        }
        for group in groups
        for trial in group.trials
    }
    report.write(groups, rows, tmp_path, "a command")
    assert "all 4 runs are of the code that is here" in capsys.readouterr().out
    rows[groups[1].trials[0].key]["code"] = "of another day"
    del rows[groups[0].trials[0].key]["code"]
    report.write(groups, rows, tmp_path, "a command")
    said = capsys.readouterr().out
    assert "of 4, 1 are from before rows had a digest, 1 of code that was changed since" in said
    assert "ours/1+ *" in said
    points = json.loads((tmp_path / "learning.json").read_text())["summary"]
    assert [p["adamw_runs_of_other_code"] for p in points] == [1, 1]
    written = json.loads((tmp_path / "learning.json").read_text())
    assert [run["code"] for run in written["runs"]] == [UNMARKED, CURRENT, STALE, CURRENT]
    (row,) = written["against_adamw"]
    assert row["runs_of_other_code"] == 2
    assert row["rule"] == "ours/1+"
    assert row["shipped"]
    assert row["percent"] == pytest.approx(7.5)
    assert row["percent_low"] < row["percent"] < row["percent_high"]
    assert (tmp_path / "learning_rules.png").stat().st_size > 10_000


def test_rows_of_changed_code_are_kept_if_one_of_them_ends_equal(tmp_path):
    path = tmp_path / "record.jsonl"
    short = Trial(
        strategy="mean", model="tiny", miners=2, inner_steps=2, rounds=1, batch_pages=2, lag=0
    )
    trials = [short, replace(short, rounds=2)]
    for trial in trials:
        code = "0123456789abcdef." + code_digest(trial).partition(".")[2]
        append(path, as_row(trial, run_trial(trial, final_pages=20), code))
    assert to_run(trials, load(path)) == trials
    (line,) = vouch(path, final_pages=20)
    assert "2 rows, equal to the last bit" in line
    assert to_run(trials, load(path)) == []
    row = load(path)[short.key]
    row["outcome"]["held_out_loss"] += 1e-9
    append(path, row | {"code": row["code"].replace(row["code"][:4], "ffff")})
    (line,) = vouch(path, final_pages=20)
    assert "another result" in line
    assert to_run(trials, load(path)) == [short]
