"""The JSON Schemas that docs/outputs_operating.md publishes, and a check of a value by one."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

PAGE = Path(__file__).parents[2] / "docs" / "outputs_operating.md"
_BLOCK = re.compile(r"^```json (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@cache
def schemas() -> dict[str, Any]:
    """Name of the output -> schema."""
    found = _BLOCK.findall(PAGE.read_text(encoding="ascii"))
    return {name: json.loads(text) for name, text in found}


def check_schema(name: str, value: object) -> None:
    """jsonschema.ValidationError unless the value is as the page says."""
    schema = schemas()[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(value)
