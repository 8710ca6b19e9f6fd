"""docs/run_spec.md says what the declarations of the run spec say."""

import runpy
import tomllib
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = runpy.run_path(str(ROOT / "contrib" / "run_spec_page.py"))


def test_the_page_follows_from_the_declarations() -> None:
    plan = tomllib.loads((ROOT / "runs" / "testnet.toml").read_text(encoding="utf-8"))
    written = (ROOT / "docs" / "run_spec.md").read_text(encoding="utf-8")
    assert PAGE["run_spec_page"](plan) == written, f"out of step; run: {PAGE['COMMAND']}"


def test_the_page_has_a_row_for_every_field_and_a_line_for_every_rule() -> None:
    page = PAGE["run_spec_page"]({name: {} for name in PAGE["tables"]()})
    for cls in PAGE["tables"]().values():
        assert all(f"| `{f.name}` |" in page for f in fields(cls))
    assert page.partition("## Rules")[2].count("\n- ") == len(PAGE["RULES"])
