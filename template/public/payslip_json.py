"""A payslip as a JSON value; `schemas/payslip.json` describes it, and docs/outputs.md in words."""

import json
import math
from dataclasses import asdict
from importlib.resources import files
from typing import Any, Final

from template.public.causes import cause_of
from template.public.statements import Payslip

VERSION: Final = 1
"""Rises with every change that a reader of the old form would misread."""


def payslip_json(slip: Payslip) -> dict[str, Any]:
    """The payslip with a version; numbers without a finite value become null."""
    row = asdict(slip)
    row["causes"] = [
        {"name": name, "kind": cause_of(name).kind, "words": cause_of(name).words,
         "remedy": cause_of(name).remedy, "where": cause_of(name).where}
        for name in slip.causes
    ]  # fmt: skip
    finite: dict[str, Any] = _finite({"version": VERSION, **row})
    return finite


def _finite(value: Any) -> Any:
    """JSON has neither infinities nor tuples."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def schema(name: str) -> dict[str, Any]:
    """A JSON schema of this package: "payslip", "run", "window" or "hotkey"."""
    text = files("template.public").joinpath("schemas", f"{name}.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
