"""The payload frame: exact length, round trip, and a hundred thousand damaged frames."""

import hashlib
import math
import random
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compression.quantize import MAX_ABS_VALUE
from template.errors import PayloadError
from template.protocol import payload
from template.protocol.payload import (
    Payload,
    PayloadFormat,
    PayloadHeader,
    decode_payload,
    encode_payload,
    payload_digest,
)
from template.protocol.spec import RunSpec
from template.training.model import payload_bytes, tensor_shapes

HEADER_BYTES = 74
HEADER = PayloadHeader(
    window=9,
    base_window=7,
    pages_consumed=240,
    public_key=bytes(range(32)),
)
REASONS = {
    "length",
    "magic",
    "version",
    "run",
    "base",
    "width",
    "range",
    "scale",
    "indices",
    "codes",
}


def draw_tensors(form: PayloadFormat, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) * 0.01 for n, s in form.shapes.items()}


@pytest.fixture(scope="module")
def frame(form: PayloadFormat) -> bytes:
    return encode_payload(HEADER, draw_tensors(form), form)[0]


def assert_valid(payload: Payload, form: PayloadFormat) -> None:
    """All that the outer step relies on."""
    assert payload.header.base_window <= payload.header.window
    assert list(payload.tensors) == sorted(form.shapes)
    for name, sparse in payload.tensors.items():
        assert sparse.shape == form.shapes[name]
        assert sparse.indices.unique().numel() == sparse.values.numel()
        if sparse.indices.numel():
            assert 0 <= int(sparse.indices.min()) <= int(sparse.indices.max())
            assert int(sparse.indices.max()) < math.prod(sparse.shape)
            assert float(sparse.values.abs().max()) < MAX_ABS_VALUE
        assert math.isfinite(sparse.norm)


def outcome(data: bytes, form: PayloadFormat) -> str:
    """The reason of a refusal, or "valid": any other exception is a failure of the test."""
    try:
        payload = decode_payload(data, form)
    except PayloadError as error:
        return error.reason
    assert_valid(payload, form)
    return "valid"


def test_round_trip(form: PayloadFormat) -> None:
    data, sent = encode_payload(HEADER, draw_tensors(form), form)
    payload = decode_payload(data, form)
    assert payload.header == HEADER
    assert_valid(payload, form)
    assert sent.keys() == payload.tensors.keys() == form.shapes.keys()
    for name, sparse in payload.tensors.items():
        assert torch.equal(sparse.indices, sent[name].indices)
        assert torch.equal(sparse.values, sent[name].values)
        assert sparse.norm == sent[name].norm
        assert sparse.norm > 0 or name == "e.none"


def test_length_follows_from_the_shapes_alone(form: PayloadFormat, frame: bytes) -> None:
    """70 x 66 with 64 of 4096: chunks of 4096, 128, 384 and 12 elements keep 64, 2, 6 and 1."""
    sections = {
        "a.bias": 2 + 1 + (1 + 1) + 1,  # 66 elements, 1 kept: 6 low bits, 3 upper
        "b.weight": 2 + 81 + (1 + 2 + 1 + 1) + (1 + 5 + 2 + 2) + (1 + 1 + 1 + 1),
        "c": 2 + 1 + (0 + 1) + 1,
        "d.kernel": 2 + 1 + (2 + 1) + 1,  # 105 elements, 2 kept: 2 x 5 low bits, 6 upper
        "e.none": 0,
    }
    assert form.num_bytes == len(frame) == HEADER_BYTES + sum(sections.values())


def test_golden_header(form: PayloadFormat, frame: bytes) -> None:
    expected = (
        b"TESSERA\x02" + form.run_id + struct.pack("<IIIHHH", 9, 7, 240, 1, 0, 1) + bytes(range(32))
    )
    assert frame[:HEADER_BYTES] == expected


def test_sections_stand_in_the_order_of_names(form: PayloadFormat, frame: bytes) -> None:
    tensors = draw_tensors(form)
    position = HEADER_BYTES
    for name in sorted(form.shapes):
        alone = replace(form, shapes={name: form.shapes[name]})
        section = encode_payload(HEADER, {name: tensors[name]}, alone)[0][HEADER_BYTES:]
        assert frame[position : position + len(section)] == section
        position += len(section)
    assert position == len(frame)


def test_order_of_the_dictionaries_does_not_matter(form: PayloadFormat, frame: bytes) -> None:
    backward = replace(form, shapes={n: form.shapes[n] for n in reversed(form.names)})
    tensors = dict(reversed(draw_tensors(form).items()))
    assert encode_payload(HEADER, tensors, backward)[0] == frame
    assert outcome(frame, backward) == "valid"


def test_the_digest_covers_header_and_body(form: PayloadFormat, frame: bytes) -> None:
    for header in (replace(HEADER, public_key=b"x" * 32), replace(HEADER, pages_consumed=16)):
        copy = encode_payload(header, draw_tensors(form), form)[0]
        assert payload_digest(copy) != payload_digest(frame)
    other = encode_payload(HEADER, draw_tensors(form, seed=1), form)[0]
    assert payload_digest(other) != payload_digest(frame)
    assert payload_digest(bytes(frame)) == payload_digest(frame)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_encoded(form: PayloadFormat, poison: float) -> None:
    tensors = draw_tensors(form)
    tensors["a.bias"][3] = poison
    with pytest.raises(ValueError, match="finite"):
        encode_payload(HEADER, tensors, form)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: b"", "length"),
        (lambda f: f[:HEADER_BYTES], "length"),
        (lambda f: f[:-1], "length"),
        (lambda f: f + b"\0", "length"),
        (lambda f: f * 2, "length"),
        (lambda f: bytes(len(f)), "magic"),
        (lambda f: b"\xff" * len(f), "magic"),
        (lambda f: b"tessera" + f[7:], "magic"),
        (lambda f: f[:7] + b"\x01" + f[8:], "version"),
        (lambda f: f[:8] + b"another run id ." + f[24:], "run"),
        (lambda f: f[:28] + struct.pack("<I", 10) + f[32:], "base"),
        (lambda f: f[:24] + bytes(4) + f[28:], "base"),
        (lambda f: f[:HEADER_BYTES] + b"\xff" * (len(f) - HEADER_BYTES), "scale"),
        (lambda f: f[: HEADER_BYTES + 2] + bytes(len(f) - HEADER_BYTES - 2), "scale"),
        (lambda f: f[: HEADER_BYTES + 3] + bytes(2) + f[HEADER_BYTES + 5 :], "indices"),
        (lambda f: f[:-1] + b"\xff", "codes"),
    ],
)
def test_reasons_of_refusal(
    form: PayloadFormat, frame: bytes, damage: Callable[[bytes], bytes], reason: str
) -> None:
    assert outcome(damage(frame), form) == reason


def test_the_reason_of_a_bad_section_names_its_tensor(form: PayloadFormat, frame: bytes) -> None:
    with pytest.raises(PayloadError, match=r"d\.kernel: "):
        decode_payload(frame[:-1] + b"\xff", form)


@pytest.mark.parametrize("base_window", [9, 0])
def test_a_base_up_to_the_window_is_valid(form: PayloadFormat, base_window: int) -> None:
    header = replace(HEADER, base_window=base_window)
    data, _ = encode_payload(header, draw_tensors(form), form)
    assert decode_payload(data, form).header.base_window == base_window


def test_swapped_sections_are_refused_or_valid(form: PayloadFormat, frame: bytes) -> None:
    """Sections carry no names: swapping ones of equal length is another payload, not a fault."""
    twins = replace(form, shapes={"a": (70, 66), "b": (70, 66)})
    body = frame[HEADER_BYTES:]
    assert outcome(frame[:HEADER_BYTES] + body[50:] + body[:50], form) in REASONS
    tensors = draw_tensors(twins)
    data, _ = encode_payload(HEADER, tensors, twins)
    size = (len(data) - HEADER_BYTES) // 2
    first, second = data[HEADER_BYTES : HEADER_BYTES + size], data[HEADER_BYTES + size :]
    swapped = data[:HEADER_BYTES] + second + first
    payload, original = decode_payload(swapped, twins), decode_payload(data, twins)
    assert torch.equal(payload.tensors["a"].values, original.tensors["b"].values)
    assert payload_digest(swapped) != payload_digest(data)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_bytes_are_refused_or_valid(form: PayloadFormat, data: st.DataObject) -> None:
    size = form.num_bytes
    raw = data.draw(st.one_of(st.binary(max_size=80), st.binary(min_size=size, max_size=size)))
    assert outcome(raw, form) in REASONS


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_sections_under_a_good_header_are_refused_or_valid(
    form: PayloadFormat, frame: bytes, data: st.DataObject
) -> None:
    size = len(frame) - HEADER_BYTES
    body = data.draw(st.binary(min_size=size, max_size=size))
    assert outcome(frame[:HEADER_BYTES] + body, form) in REASONS | {"valid"}


def damaged(frame: bytes, generator: random.Random) -> bytes:
    """One to four faults of the kinds that links, disks and liars make."""
    data = bytearray(frame)
    for _ in range(generator.randint(1, 4)):
        start, stop = sorted(generator.choices(range(len(data) + 1), k=2))
        match generator.randrange(8):
            case 0:
                del data[start:stop]
            case 1:
                data[start:start] = generator.randbytes(generator.randint(1, 64))
            case 2:
                stop = min(stop, start + 8)
                data[start:stop] = generator.randbytes(stop - start)
            case 3:
                data[start:stop] = data[start:stop][::-1]
            case _:
                if start < len(data):
                    data[start] ^= 1 << generator.randrange(8)
    return bytes(data)


def fuzz(frame: bytes, form: PayloadFormat, num_frames: int) -> set[str]:
    generator = random.Random(20)
    return {outcome(damaged(frame, generator), form) for _ in range(num_frames)}


def test_3000_damaged_frames(frame: bytes, form: PayloadFormat) -> None:
    assert fuzz(frame, form, 3_000) == REASONS | {"valid"}


@pytest.mark.slow
def test_100000_damaged_frames(frame: bytes, form: PayloadFormat) -> None:
    assert fuzz(frame, form, 100_000) == REASONS | {"valid"}


def test_covenant_72b_payload_bytes(spec: RunSpec) -> None:
    """The peer's model: shapes from transformers on the meta device, bytes from the shapes.

    Covenant-72B (arXiv 2603.08163, table 4) states layers, width, heads, a tied vocabulary of
    262,208 and 72,747,327,488 parameters; only this feed-forward width gives that number.
    """
    model = replace(
        spec.model,
        vocab_size=262_208,
        hidden_size=8192,
        intermediate_size=29_764,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    large = replace(spec, model=model, compression=replace(spec.compression, top_k=64))
    num_params = sum(map(math.prod, tensor_shapes(large).values()))
    assert num_params == 72_747_327_488
    num_bytes = payload_bytes(large)
    assert 1.43e9 < num_bytes <= 1.44e9
    assert num_bytes / num_params <= 0.0198


def test_a_frame_is_hashed_once_however_often_its_digest_is_asked(monkeypatch) -> None:
    """Opened, named, uploaded, kept and opened again: one hash for a validator."""
    hashed: list[int] = []
    sha256 = hashlib.sha256

    def counted(data: bytes = b""):
        hashed.append(len(data))
        return sha256(data)

    monkeypatch.setattr(hashlib, "sha256", counted)
    frame = payload.Frame.of(b"frame")
    assert payload.Frame.of(frame) is frame
    digests = {payload.payload_digest(frame) for _ in range(5)}
    assert digests == {sha256(b"frame").digest()}
    assert hashed == [5]
    assert frame == b"frame"
    assert payload.payload_digest(b"frame") == frame.digest
