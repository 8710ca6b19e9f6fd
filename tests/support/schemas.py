"""JSON values held against the schemas of this project."""

from typing import Any

from jsonschema import Draft202012Validator

from template.public.payslip_json import schema


def check_json(value: Any, name: str) -> None:
    """Raises jsonschema.ValidationError, which names the field, unless the schema fits."""
    Draft202012Validator(schema(name)).validate(value)


def is_of(value: Any, name: str) -> bool:
    return bool(Draft202012Validator(schema(name)).is_valid(value))
