"""The run spec as a TOML file: read, checked and written."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from template.errors import ConfigError, ObjectError
from template.protocol.spec.run import RunSpec, spec_table, table_id
from template.protocol.strangers import MALFORMED, fault, refusing
from template.protocol.toml import from_table

MAX_SPEC_BYTES = 2**16
"""Maximum length of a spec's text: 256 mirrors take 13 kB, all other fields 3 kB."""

MAX_LINE_DOTS = 100
"""Maximum number of dots in a line: the parser takes the square of a dotted key's parts."""

PLAN_HINT = " (a plan, as in runs/, becomes a run spec by `neurons/owner.py publish --plan`)"


def parse_spec(text: str) -> RunSpec:
    """A spec from TOML text; ConfigError names the key and the allowed values."""
    return from_table(RunSpec, parse_toml(text, "run spec"))


def parse_named_spec(data: bytes, spec_id: bytes) -> RunSpec:
    """The spec with this id from a stranger's bytes.

    ObjectError unless the bytes are that spec. ConfigError if they are, and this version does not
    know what a key says.
    """
    return from_table(RunSpec, parse_named_table(data, spec_id))


def parse_named_table(data: bytes, spec_id: bytes) -> dict[str, Any]:
    """The table of the spec with this id; its keys may be those of a newer version.

    ObjectError unless the bytes are that spec.
    """
    what = f"run spec {spec_id.hex()}"
    with refusing(what):
        text = data.decode("utf-8")
    try:
        table = parse_toml(text, what)
    except ConfigError as error:
        raise ObjectError(f"{what}: refused: {fault(error)}") from error
    with refusing(what):
        found = table_id(table)
    if found != spec_id:
        raise ObjectError(f"{what}: the bytes are another spec, {found.hex()}")
    return table


def parse_toml(text: str, what: str) -> dict[str, Any]:
    """The table of a TOML text of at most `MAX_SPEC_BYTES` characters; ConfigError otherwise."""
    if len(text) > MAX_SPEC_BYTES:
        raise _too_long(what)
    if any(line.count(".") > MAX_LINE_DOTS for line in text.split("\n")):
        raise ConfigError(
            f"{what}: not valid TOML for a run spec: over {MAX_LINE_DOTS} dots in a line"
        )
    try:
        return tomllib.loads(text)
    except MALFORMED as error:
        raise ConfigError(f"{what}: not valid TOML: {fault(error)}") from error


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The table of a TOML file, read as far as a run spec may be long; ConfigError otherwise."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SPEC_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what}: cannot be read: {fault(error)}") from error
    if len(data) > MAX_SPEC_BYTES:
        raise _too_long(what)
    return parse_toml(text, what)


def _too_long(what: str) -> ConfigError:
    return ConfigError(
        f"{what}: longer than a run spec's {MAX_SPEC_BYTES} bytes; name another file"
    )


def load_spec(path: Path, flag: str = "--run") -> RunSpec:
    """A spec from the file of a flag; ConfigError if it is unreadable or the spec invalid."""
    what = f"{flag} {path}"
    table = read_toml(path, what)
    try:
        return from_table(RunSpec, table)
    except ConfigError as error:
        hint = PLAN_HINT if "missing" in str(error) else ""
        raise ConfigError(f"{what}: {error}{hint}") from error


def spec_to_toml(spec: RunSpec) -> str:
    """TOML text that parses back into an equal spec; no optional key at its default."""
    lines = [f"name = {_toml_value(spec.name)}"]
    for table, values in spec_table(spec).items():
        if isinstance(values, dict):
            lines += table_lines(table, values)
    return "\n".join(lines) + "\n"


def table_lines(name: str, values: Mapping[str, Any]) -> list[str]:
    """The TOML lines of a table; tables within it come after its keys."""
    inner = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = ["", f"[{name}]"]
    lines += [f"{key} = {_toml_value(value)}" for key, value in values.items() if key not in inner]
    for key, value in inner.items():
        lines += table_lines(f"{name}.{key}", value)
    return lines


def _toml_value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    # JSON strings are TOML strings, except for DEL, which only JSON allows unescaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
