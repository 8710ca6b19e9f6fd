"""The page of outputs names every field that the code writes, as the schemas describe it."""

import ast
import json
import re
from pathlib import Path

import pytest

from evaluation.verdict_log import encode_log
from template.public.causes import CAUSES
from template.public.payslip_json import schema
from tests.support.logs import made_up_log

ROOT = Path(__file__).parents[2]
OUTPUTS = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
EXPLAIN = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")
METRICS_WRITERS = ("template/base", "template/sync")


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}.*?(?=^## |\Z)", OUTPUTS, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[0]


def fields_of(kind: dict, prefix: str = "") -> dict[str, str]:
    """Name of a field with those it lies in -> description."""
    found = {}
    for name, row in kind["properties"].items():
        inner = row["oneOf"][1] if "oneOf" in row else row
        found[prefix + name] = inner.get("description", "")
        items = inner.get("items", {})
        if "properties" in items:
            found |= fields_of(items, f"{prefix}{name}[].")
        elif "properties" in inner:
            found |= fields_of(inner, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("payslip", "`tessera explain HOTKEY --json`"),
        ("run", "`tessera site`: `index.json`"),
        ("window", "`tessera site`: `window/WINDOW.json`"),
        ("hotkey", "`tessera site`: `hotkey/HOTKEY.json`"),
    ],
)
def test_each_field_of_a_schema_is_on_the_page_and_no_other(name, title) -> None:
    rows = re.findall(r"^\| `([^`]+)` \| [^|]+ \| (.*) \|$", section(title), re.MULTILINE)
    assert dict(rows) == fields_of(schema(name))


def test_each_field_of_a_verdict_log_is_on_the_page_and_no_other() -> None:
    rows = [json.loads(line) for line in encode_log(made_up_log(3)).splitlines()]
    written = {(row["kind"], name) for row in rows for name in row} - {
        (row["kind"], name) for row in rows for name in ("kind", "window")
    }
    told = set()
    for line in section("Verdict logs").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 5 and cells[1].startswith("`"):
            told |= {(cells[1].strip("`"), name) for name in re.findall(r"`(\w+)`", cells[2])}
    assert told == written


def metric_names() -> set[str]:
    """Keys of every dictionary that is handed to `metrics.log`, or stands for one."""
    found: set[str] = set()
    for folder in METRICS_WRITERS:
        for path in sorted((ROOT / folder).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="ascii"))
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("metrics.log"):
                    found |= {str(key) for arg in node.args for key in _keys(arg)}
                if isinstance(node, ast.AnnAssign | ast.Assign | ast.AugAssign):
                    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                    if ast.unparse(target).startswith("values"):
                        found |= _named(target) | {str(k) for k in _keys(node.value)}
    return found


def _keys(value: ast.expr | None) -> list[object]:
    if not isinstance(value, ast.Dict):
        return []
    return [key.value for key in value.keys if isinstance(key, ast.Constant)]


def _named(target: ast.expr) -> set[str]:
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        return {str(target.slice.value)}
    return set()


def test_each_metric_is_on_the_page() -> None:
    names = metric_names()
    assert {"held_out_loss", "inner_loss", "accepted_uids", "own_share", "no_op"} <= names
    told = set(re.findall(r"`([\w/]+)`", section("`metrics.jsonl`")))
    assert names <= told


def test_each_cause_is_on_the_page_in_the_words_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| ", EXPLAIN, re.MULTILINE))
    assert rows == {name: cause.words for name, cause in CAUSES.items()}
