"""A secret must not appear in any text."""

import copy
import pickle  # noqa: TID251 - to show that it is refused
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from localnet.processes import Command
from localnet.weed import AccessKey, BucketIdentity
from template.protocol.record import Access, AccessKind, Record
from template.secret import REDACTED, Secret
from template.settings import BucketKey
from template.store.s3 import S3Bucket

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


@pytest.mark.parametrize(
    "holder",
    [
        AccessKey(access_key_id="id", secret_access_key=Secret(VALUE)),
        BucketIdentity(
            bucket="name",
            rw=AccessKey(access_key_id="id", secret_access_key=Secret(VALUE)),
            ro=AccessKey(access_key_id="id", secret_access_key=Secret(VALUE)),
        ),
        BucketKey(key_id="id", secret=Secret(VALUE)),
        S3Bucket(
            endpoint_url="https://s3.example",
            bucket="name",
            access_key_id="id",
            secret_access_key=Secret(VALUE),
        ),
        Record(
            access=Access(
                kind=AccessKind.S3,
                account="https://s3.example",
                access_key_id="id",
                secret_access_key=VALUE,
            )
        ),
        Command(name="n", argv=["x"], env={"TESSERA_BUCKET_WRITE_SECRET": VALUE}, log_path=Path()),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_what_holds_a_secret_does_not_show_it(holder: object) -> None:
    for text in (repr(holder), str(holder), f"{[holder]}", "%s" % (holder,)):  # noqa: UP031
        assert VALUE not in text


def test_equality_is_by_value_and_only_among_secrets() -> None:
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret(VALUE + "0")
    assert Secret(VALUE) != VALUE
    assert len({Secret(VALUE), Secret(VALUE)}) == 1
    assert Secret("schl\u00fcssel") == Secret("schl\u00fcssel")
