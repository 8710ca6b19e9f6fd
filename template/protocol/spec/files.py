"""The run spec as a TOML file: read, checked and written."""

import json
import tomllib
from dataclasses import asdict
from pathlib import Path

from template.errors import ConfigError
from template.protocol.spec.run import RunSpec
from template.protocol.toml import from_table

PLAN_HINT = " (a plan, as in runs/, becomes a run spec by `neurons/owner.py publish --plan`)"


def parse_spec(text: str) -> RunSpec:
    """A spec from TOML text; ConfigError names the key and the allowed values."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"run spec: not valid TOML: {error}") from error
    return from_table(RunSpec, table)


def load_spec(path: Path) -> RunSpec:
    """A spec from a file; ConfigError if the file is unreadable or the spec invalid."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--run {path}: cannot be read: {error}") from error
    try:
        return parse_spec(text)
    except ConfigError as error:
        hint = PLAN_HINT if "missing" in str(error) else ""
        raise ConfigError(f"--run {path}: {error}{hint}") from error


def spec_to_toml(spec: RunSpec) -> str:
    """TOML text that parses back into an equal spec."""
    lines = [f"name = {_toml_value(spec.name)}"]
    for table, values in asdict(spec).items():
        if isinstance(values, dict):
            lines += ["", f"[{table}]"]
            lines += [f"{key} = {_toml_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    # JSON strings are TOML strings, except for DEL, which only JSON allows unescaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
