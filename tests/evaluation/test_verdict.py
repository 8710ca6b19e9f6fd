"""Verdicts as rows of the log: strict JSON, with every field."""

import json
import math
from dataclasses import fields, replace

import pytest

from evaluation.verdict import NAMED, Verdict

VERDICT = Verdict(
    window=4,
    uid=7,
    hotkey="5Grw",
    digest="ab" * 32,
    status=NAMED,
    detail="",
    gain=0.125,
    gain_standard_error=0.01,
    relative_gain=0.9,
    pages_consumed=240,
    base_window=4,
    alike=(2, 9),
    quarter_profile=(0.5, 0.25, -0.5, 1.0),
    half_gap=-0.001,
)


def _verdict(row: dict) -> Verdict:
    lists = {name: tuple(row[name]) for name in ("alike", "quarter_profile")}
    return Verdict(**row | lists)


def test_a_row_holds_every_field() -> None:
    row = json.loads(json.dumps(VERDICT.as_row(), allow_nan=False))
    assert row.keys() == {field.name for field in fields(Verdict)}
    assert _verdict(row) == VERDICT


def test_a_refused_payload_has_a_row() -> None:
    refused = Verdict(window=4, uid=7, hotkey="5Grw", digest="", status="length", detail="3 bytes")
    row = json.loads(json.dumps(refused.as_row(), allow_nan=False))
    assert _verdict(row) == refused
    assert not refused.named


@pytest.mark.parametrize("gain", [-math.inf, math.inf, math.nan])
def test_a_gain_that_json_cannot_hold_is_none(gain: float) -> None:
    row = replace(VERDICT, gain=gain, gain_standard_error=0.0).as_row()
    assert json.loads(json.dumps(row, allow_nan=False))["gain"] is None


@pytest.mark.parametrize(("status", "named"), [(NAMED, True), ("no_gain", False), ("", False)])
def test_named(status: str, named: bool) -> None:
    assert replace(VERDICT, status=status).named is named
