"""Constraints on single fields: which values pass, and the words about the others."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pytest

from template.errors import ConfigError
from template.protocol.spec.constraints import (
    Constraint,
    Hotkeys,
    OneOf,
    Range,
    Sha256,
    Table,
)

ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


@pytest.mark.parametrize(
    ("constraint", "good", "bad", "allowed"),
    [
        (Range(ge=1), [1, 9, math.inf], [0.99, -1, math.nan], "1 or more"),
        (Range(gt=0), [1e-300], [0, -1, math.nan], "above 0"),
        (Range(ge=1, le=256), [1, 256], [0, 257, math.nan], "in [1, 256]"),
        (Range(ge=0, lt=1), [0, 0.999], [1, -0.1], "in [0, 1)"),
        (Range(gt=0, le=1), [0.1, 1], [0, 1.1], "in (0, 1]"),
        (Range(gt=0, lt=0.5), [0.1], [0, 0.5, math.nan], "in (0, 0.5)"),
        (OneOf("no", "bf16"), ["no", "bf16"], ["", "fp16"], '"no" or "bf16"'),
        (Sha256(), ["ab" * 32], ["ab" * 31, "AB" * 32, "ab" * 32 + "\n"], Sha256.allowed),
        (Hotkeys(), [(ALICE,), (ALICE, ALICE)], [(), ("",), (ALICE, "5x")], Hotkeys.allowed),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str | list) else type(value).__name__,
)
def test_only_allowed_values_pass(
    constraint: Constraint, good: list[Any], bad: list[Any], allowed: str
) -> None:
    assert constraint.allowed == allowed
    assert [constraint.fault(value) for value in good] == [""] * len(good)
    assert all(constraint.fault(value) for value in bad)


@dataclass(frozen=True, kw_only=True, slots=True)
class Example(Table):
    TABLE: ClassVar[str] = "example"
    size: Annotated[int, Range(ge=1, le=9, because="a size is one digit")]
    rate: Annotated[float, Range(ge=1, le=2)]
    free: int


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((10, 1, 0), "run spec: example.size: is 10, must be in [1, 9]: a size is one digit"),
        ((9, 0.5, 0), "run spec: example.rate: is 0.5, must be in [1, 2]"),
        ((9, 2.5, 0), "run spec: example.rate: is 2.5, must be in [1, 2]"),
    ],
)
def test_a_table_names_the_key_the_value_and_what_is_allowed(
    values: tuple[int, float, int], message: str
) -> None:
    size, rate, free = values
    with pytest.raises(ConfigError) as caught:
        Example(size=size, rate=rate, free=free)
    assert str(caught.value) == message


def test_a_field_without_constraint_takes_any_value() -> None:
    assert Example(size=9, rate=1.5, free=-(10**9)).free == -(10**9)
