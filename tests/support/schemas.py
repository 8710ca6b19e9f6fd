"""JSON values held against the schemas of this project: those in the package, those in the docs."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from template.public.payslip_json import schema

PAGE = Path(__file__).parents[2] / "docs" / "outputs_operating.md"
_BLOCK = re.compile(r"^```json (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def check_json(value: Any, name: str) -> None:
    """Raises jsonschema.ValidationError, which names the field, unless the schema fits."""
    Draft202012Validator(schema(name)).validate(value)


def is_of(value: Any, name: str) -> bool:
    return bool(Draft202012Validator(schema(name)).is_valid(value))


@cache
def schemas() -> dict[str, Any]:
    """Name of the output -> schema, of docs/outputs_operating.md."""
    found = _BLOCK.findall(PAGE.read_text(encoding="ascii"))
    return {name: json.loads(text) for name, text in found}


def check_schema(name: str, value: object) -> None:
    """jsonschema.ValidationError unless the value is as that page says."""
    found = schemas()[name]
    Draft202012Validator.check_schema(found)
    Draft202012Validator(found).validate(value)
