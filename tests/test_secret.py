"""A secret must not appear in any text that is made of it."""

import copy
import pickle  # noqa: TID251 - to show that it is refused
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from template.secret import REDACTED, Secret

VALUE = "9f8e7d6c5b4a"


@dataclass(frozen=True)
class Holder:
    secret: Secret


def test_reveal_gives_the_value_back() -> None:
    assert Secret(VALUE).reveal() == VALUE


@pytest.mark.parametrize(
    "render",
    [
        str,
        repr,
        lambda s: f"{s}",
        lambda s: f"{s!r:>40}",
        lambda s: f"{s:>40}",
        lambda s: "%s %r" % (s, s),  # noqa: UP031
        lambda s: repr(Holder(s)),
        lambda s: repr([s, {"k": s}]),
        lambda s: str(ValueError("refused", s)),
    ],
)
def test_text_never_carries_the_value(render: Callable[[Secret], str]) -> None:
    text = render(Secret(VALUE))
    assert VALUE not in text
    assert REDACTED in text


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy])
def test_pickling_and_copying_are_refused_without_the_value(
    leak: Callable[[Secret], object],
) -> None:
    with pytest.raises(TypeError) as caught:
        leak(Secret(VALUE))
    assert VALUE not in str(caught.value)


def test_equality_is_by_value_and_only_among_secrets() -> None:
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret(VALUE + "0")
    assert Secret(VALUE) != VALUE
    assert len({Secret(VALUE), Secret(VALUE)}) == 1
    assert Secret("schl\u00fcssel") == Secret("schl\u00fcssel")
