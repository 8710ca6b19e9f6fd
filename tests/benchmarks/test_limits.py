"""The limits of evaluation: budgets are the validator's, and what fits is read off right."""

import math
from dataclasses import replace

import pytest

from benchmarks.evaluation import limits
from benchmarks.learning.text import ROOT
from template.base.pace import VOTE_MARGIN_BLOCKS
from template.commands.plan import RunChoices, check_plan, load_plan
from template.scoring.rules import shown_pages


@pytest.mark.parametrize(("plan", "seconds"), [("localnet", 3.0), ("testnet", 696.0)])
def test_the_budget_is_from_the_pool_s_block_to_the_vote(plan: str, seconds: float) -> None:
    path = ROOT / "runs" / f"{plan}.toml"
    choices = RunChoices(owner_hotkey=limits.OWNER, start_block=100)
    schedule = check_plan(path, load_plan(path), choices).schedule.schedule()
    blocks = schedule.vote_block(5) - VOTE_MARGIN_BLOCKS - schedule.held_out_block(5)
    assert limits.budget_s(plan) == seconds == blocks * limits.BLOCK_S[plan]


def test_what_fits_is_between_the_numbers_measured() -> None:
    """A window of I payloads takes I squared over 100 seconds: 3 s is 17 payloads, 1.5 s 12."""
    rows = [{"size": "small", "payloads": n, "total_s": n * n / 100} for n in (4, 16, 64)]
    rows += [{"size": "large", "payloads": n, "total_s": 10.0 * n} for n in (4, 16, 64)]
    found = limits.fits(rows)
    assert found["localnet"]["small"] == {"1.0": "17", "0.5": "12"}
    assert found["localnet"]["large"]["1.0"] == "fewer than 4"
    assert found["testnet"]["small"]["1.0"] == "64 or more"
    assert found["testnet"]["large"]["0.5"] == str(math.floor(348 / 10))


@pytest.mark.slow
def test_a_window_is_measured_and_every_stage_takes_time(monkeypatch) -> None:
    monkeypatch.setattr(limits, "PASSES_S", 0.3)
    bench = limits.prepare("18 k", num_payloads=4)
    row = limits.measure(bench, 4)
    assert bench.num_params == 18_000 + 528
    assert min(row["seconds"].values()) > 0
    assert row["total_s"] == pytest.approx(sum(row["seconds"].values()))
    evaluation = replace(bench.spec.evaluation, max_payloads=4)
    assert row["pool_pages"] == evaluation.held_out_pages + 4 * evaluation.claimed_pages == 256
    assert row["shown_pages"] == shown_pages(evaluation) == 112
    passes = row["passes"]
    forward_s = 6 * passes["held_out_s"] + 8 * passes["claimed_s"]
    assert row["seconds"]["forward"] == pytest.approx(forward_s)
    # For a payload the peer takes 2 passes over held-out pages, and ours 6 / 4; both 2 over claims.
    assert 1.0 < row["peer"]["ratio"] < 4 / 3
    content = {"windows": [{"size": "18 k"} | row], "fits": limits.fits([{"size": "18 k"} | row]),
               "budget_s": {"localnet": 3.0, "testnet": 696.0}}  # fmt: skip
    assert "| 18 k | 4 | 256 | 112 |" in limits.markdown(content)
