"""Admission: which bytes enter a step, and the reason for each that does not."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from template.errors import PayloadError
from template.protocol.admission import open_payload
from template.protocol.payload import (
    PayloadFormat,
    PayloadHeader,
    encode_payload,
    payload_digest,
)
from template.protocol.root import Member

KEY = b"k" * 32
HEADER = PayloadHeader(window=9, base_window=9, pages_consumed=1, public_key=KEY)


def frame_of(form: PayloadFormat, header: PayloadHeader) -> tuple[bytes, Member]:
    tensors = {name: torch.ones(shape) for name, shape in form.shapes.items()}
    data, _ = encode_payload(header, tensors, form)
    return data, Member(uid=3, hotkey="h", public_key=KEY, coldkey=KEY, digest=payload_digest(data))


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_the_committed_bytes_are_admitted_up_to_the_stalest(
    form: PayloadFormat, staleness: int
) -> None:
    data, member = frame_of(form, replace(HEADER, base_window=9 - staleness))
    payload = open_payload(data, member, 9, form, max_staleness=2)
    assert payload.header.base_window == 9 - staleness
    assert payload.tensors["a.bias"].norm > 0


def test_what_was_not_committed_is_refused_before_it_is_decoded(form: PayloadFormat) -> None:
    data, member = frame_of(form, HEADER)
    for other in (b"", data[:-1], data + b"\0", data[:-1] + bytes([data[-1] ^ 1])):
        with pytest.raises(PayloadError) as caught:
            open_payload(other, member, 9, form, max_staleness=2)
        assert caught.value.reason == "digest"


def test_committed_garbage_is_refused(form: PayloadFormat) -> None:
    data = bytes(form.num_bytes)
    member = Member(uid=3, hotkey="h", public_key=KEY, coldkey=KEY, digest=payload_digest(data))
    with pytest.raises(PayloadError) as caught:
        open_payload(data, member, 9, form, max_staleness=2)
    assert caught.value.reason == "magic"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"window": 10}, "window"),
        ({"window": 8, "base_window": 8}, "window"),
        ({"public_key": b"j" * 32}, "hotkey"),
        ({"base_window": 6}, "stale"),
        ({"base_window": 0}, "stale"),
    ],
)
def test_headers_that_are_refused(
    form: PayloadFormat, changes: dict[str, Any], reason: str
) -> None:
    data, member = frame_of(form, replace(HEADER, **changes))
    with pytest.raises(PayloadError) as caught:
        open_payload(data, member, 9, form, max_staleness=2)
    assert caught.value.reason == reason
