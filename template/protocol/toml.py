"""TOML tables into frozen dataclasses, strictly: unknown key, missing key, wrong type = error."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from template.errors import ConfigError
from template.protocol.strangers import quoted, shown

T = TypeVar("T")

MAX_INTEGER = 2**63 - 1
"""Limit of TOML; Python reads longer integers, which JSON and the run id cannot hold."""

_TYPE_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def from_table(cls: type[T], table: Mapping[str, Any], where: str = "") -> T:
    """An instance of a dataclass from a parsed TOML table; ConfigError names the key.

    `where` is the dotted prefix of the keys in messages. Integers become floats where a float is
    declared; booleans stay booleans.
    """
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise ConfigError(
                f"{where}{shown(key)}: unknown key; known here: {', '.join(sorted(known))}"
            )
    values = {}
    for name, field in known.items():
        if name in table:
            values[name] = _convert_value(hints[name], table[name], f"{where}{name}")
        elif field.default is MISSING:
            raise ConfigError(f"{where}{name}: missing; add it")
    return cls(**values)


def _convert_value(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, UnionType):  # an optional table, which is there
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: must be a table")
        return from_table(kind, value, f"{where}.")  # type: ignore[arg-type]
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: must be an array")
        return tuple(
            _convert_value(get_args(kind)[0], v, f"{where}[{i}]") for i, v in enumerate(value)
        )
    if kind is float and type(value) in (int, float):
        return _check_finite(value, where)
    if type(value) is not kind:
        raise ConfigError(f"{where}: must be {_TYPE_NAMES[kind]}, not {quoted(value)}")
    if kind is int and abs(value) > MAX_INTEGER:
        raise ConfigError(f"{where}: must fit 64 bits, not {quoted(value)}")
    return value


def _check_finite(value: int | float, where: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{where}: must be a finite number")
    return number
