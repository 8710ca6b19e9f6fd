"""docs/hardware.md and min_compute.yml say what the planner says."""

import runpy
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
PAGES = runpy.run_path(str(ROOT / "contrib" / "hardware_pages.py"))
OUT_OF_STEP = f"out of step; run: {PAGES['COMMAND']}"
MEASURED = "# 2 cores, 24 GB: make localnet in 3 min 47 s, two thirds of one core busy"


@pytest.fixture(scope="module")
def outlooks():
    return [PAGES["outlook_of"](plan) for plan in PAGES["PLANS"]]


def test_the_page_follows_from_the_planner(outlooks) -> None:
    written = (ROOT / "docs" / "hardware.md").read_text("utf-8")
    assert PAGES["hardware_page"](outlooks) == written, OUT_OF_STEP


def test_min_compute_follows_from_the_planner(outlooks) -> None:
    written = (ROOT / "min_compute.yml").read_text("utf-8")
    assert PAGES["compute_text"](outlooks) == written, OUT_OF_STEP


def test_min_compute_has_the_template_s_form_and_keeps_what_was_measured() -> None:
    text = (ROOT / "min_compute.yml").read_text("utf-8")
    spec = yaml.safe_load(text)["compute_spec"]
    assert {"localnet", "testnet", "miner", "validator"} <= set(spec)
    assert spec["localnet"]["minimum"]["tried"] is True
    assert MEASURED in text
    for plan in PAGES["PLANS"]:
        rows = spec[f"plan_{plan}"]
        assert (ROOT / rows["plan"]).is_file()
        assert [rows[role]["tried"] for role in ("miner", "validator", "owner")] == [False] * 3
