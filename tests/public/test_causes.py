"""The table of causes is complete: every status and every reason of a refusal has words."""

import ast
from pathlib import Path

import pytest

from evaluation.verdict import MEASURED, MISSING, NOT_DRAWN, NOT_SCORED
from template.public.causes import (
    CAUSES,
    DECISIONS,
    EVIDENCE,
    PAY,
    STATUSES,
    VALIDATORS,
    cause_of,
    told_status,
)
from template.scoring.admission import CLAIMED, OVERLAP
from template.scoring.window import _FETCH_REASONS

ROOT = Path(__file__).parents[2]
CONSTANTS = {"OVERLAP": OVERLAP, "CLAIMED": CLAIMED}


def reasons_in_code() -> set[str]:
    """The first argument of every `PayloadError(...)` and `CodecError(...)` in the code."""
    found: set[str] = set()
    for folder in ("template", "compression"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="ascii"))):
                if isinstance(node, ast.Call) and node.args and _is_refusal(node.func):
                    found |= _reasons(node.args[0])
    return found


def _is_refusal(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id in ("PayloadError", "CodecError")


def _reasons(argument: ast.expr) -> set[str]:
    if isinstance(argument, ast.Constant):
        return {str(argument.value)}
    # A name of a constant; `reason` and `error.reason` pass on what another call has said.
    name = argument.id if isinstance(argument, ast.Name) else ""
    return {CONSTANTS[name]} if name in CONSTANTS else set()


def faults_of_the_decoder() -> set[str]:
    tree = ast.parse((ROOT / "compression" / "decoder.py").read_text(encoding="ascii"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_FAULTS":
            assert isinstance(node.value, ast.Dict)
            rows = [value for value in node.value.values if isinstance(value, ast.Tuple)]
            return {str(ast.literal_eval(row.elts[0])) for row in rows}
    raise AssertionError("compression/decoder.py has no _FAULTS")


def statuses_of_the_judge() -> set[str]:
    """Every text that judge.py assigns to `status`."""
    tree = ast.parse((ROOT / "evaluation" / "judge.py").read_text(encoding="ascii"))
    return {
        str(node.value.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "status"
        and isinstance(node.value, ast.Constant)
    }


def test_every_status_of_a_verdict_has_words() -> None:
    statuses = {*MEASURED, *MISSING, NOT_SCORED, NOT_DRAWN, *_FETCH_REASONS.values()}
    assert statuses_of_the_judge() == {"no_gain", "no_work"}
    assert statuses | statuses_of_the_judge() <= STATUSES.keys()


def test_every_reason_of_a_refusal_has_words() -> None:
    reasons = reasons_in_code()
    assert {"overlap", "claimed", "pages", "range", "stale", "magic", "scale"} <= reasons
    assert {"indices", "codes"} <= faults_of_the_decoder()
    assert reasons | faults_of_the_decoder() <= STATUSES.keys()


def test_the_table_names_nothing_that_the_code_never_says() -> None:
    said = {*MEASURED, *MISSING, NOT_SCORED, NOT_DRAWN, *_FETCH_REASONS.values()}
    assert STATUSES.keys() == said | reasons_in_code() | faults_of_the_decoder()


@pytest.mark.parametrize("name", sorted(CAUSES))
def test_a_cause_is_said_in_plain_words_with_a_place(name: str) -> None:
    cause = cause_of(name)
    assert len(cause.words.split()) >= 4
    assert not cause.words.endswith(".")
    assert cause.kind in ("taken", "waiting") or cause.remedy
    places = [place.strip() for place in cause.where.split(",")]
    assert all((ROOT / place).is_file() for place in places)


def test_a_name_has_one_meaning() -> None:
    tables = (STATUSES, DECISIONS, EVIDENCE, PAY, VALIDATORS)
    assert sum(map(len, tables)) == len(CAUSES)


@pytest.mark.parametrize(
    "word", ["a_status_of_tomorrow", "accepted", "undecided", "owner", "votes_agree", "unheard_of"]
)
def test_a_word_that_is_no_status_is_told_as_unheard_of(word) -> None:
    assert told_status(word) == "unheard_of"
    assert "says nothing of the payload" in cause_of(told_status(word)).words


def test_a_status_is_told_as_it_is() -> None:
    assert {told_status(status) for status in STATUSES} == STATUSES.keys()
