"""Payloads of a part of the model: exact lengths, hostile headers, and feedback of other parts."""

import math
import random
import struct
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from template.errors import PayloadError
from template.protocol import payload as payload_module
from template.protocol.payload import (
    MAX_PARTS_KEPT,
    Payload,
    PayloadFormat,
    PayloadHeader,
    decode_payload,
    encode_payload,
    encode_payload_with_feedback,
)
from template.protocol.ranges import BlockRange, cut_model
from tests.support.hostile import HEADER_BYTES, damaged

MAX_WIDTH, MAX_PARTS = 4, 5
SHAPES: dict[str, tuple[int, ...]] = {
    "embed.weight": (70, 66),
    "layers.0.bias": (66,),
    "layers.0.kernel": (3, 5, 7),
    "layers.0.scalar": (),
    "layers.1.weight": (64, 64),
    "layers.2.none": (0, 4),
    "layers.2.weight": (70, 66),
    "norm": (9,),
}
FORM = PayloadFormat(
    run_id=b"a run of 16 byte", shapes=SHAPES, top_k=64, max_width=MAX_WIDTH, max_parts=MAX_PARTS
)
HEADER = PayloadHeader(window=9, base_window=8, pages_consumed=240, public_key=bytes(range(32)))
PARTS = [BlockRange(part=part, parts=parts) for parts in (1, 2, 3) for part in range(parts)]
EMPTY_PARTS = 5
"""A cut that leaves a part empty."""
REASONS = {
    "length", "magic", "version", "run", "base", "width", "range", "scale", "indices", "codes",
}  # fmt: skip


def draw(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def frame_of(blocks: BlockRange, seed: int = 0, width: int = 1) -> bytes:
    header = replace(HEADER, blocks=blocks, width=width)
    return encode_payload(header, draw(seed), FORM)[0]


def with_header(frame: bytes, *, width: int = 1, part: int = 0, parts: int = 1) -> bytes:
    return frame[:36] + struct.pack("<HHH", width, part, parts) + frame[42:]


def assert_valid(payload: Payload) -> None:
    """All that the outer step relies on."""
    names = set(cut_model(SHAPES, payload.header.blocks.parts)[payload.header.blocks.part])
    assert 1 <= payload.header.width <= MAX_WIDTH
    assert payload.norms.keys() == payload.tensors.keys() == names
    assert list(payload.norms) == sorted(names)
    assert len(payload.body) == FORM.plan.num_bytes
    for name, sparse in payload.tensors.items():
        assert sparse.shape == SHAPES[name]
        assert sparse.indices.unique().numel() == sparse.values.numel()
        if sparse.indices.numel():
            assert 0 <= int(sparse.indices.min()) <= int(sparse.indices.max())
            assert int(sparse.indices.max()) < math.prod(sparse.shape)
        assert math.isfinite(sparse.norm)
        assert payload.norms[name] == sparse.norm


def outcome(data: bytes, form: PayloadFormat = FORM) -> str:
    try:
        payload = decode_payload(data, form)
    except PayloadError as error:
        return error.reason
    assert_valid(payload)
    return "valid"


@pytest.mark.parametrize("blocks", PARTS, ids=str)
@pytest.mark.parametrize("width", [1, MAX_WIDTH])
def test_round_trip_of_every_part(blocks: BlockRange, width: int) -> None:
    header = replace(HEADER, blocks=blocks, width=width)
    data, sent = encode_payload(header, draw(1), FORM)
    payload = decode_payload(data, FORM)
    assert payload.header == header
    assert_valid(payload)
    for name, sparse in payload.tensors.items():
        assert torch.equal(sparse.indices, sent[name].indices)
        assert torch.equal(sparse.values, sent[name].values)
    assert sent.keys() == payload.tensors.keys()
    part = FORM.part(blocks)
    assert part.num_bytes == len(data)
    assert part.names == sent.keys()
    elements = {name: math.prod(shape) for name, shape in SHAPES.items()}
    share = sum(elements[name] for name in sent) / sum(elements.values())
    assert payload.share == part.share == share


def test_the_parts_of_a_cut_are_the_sections_of_the_whole() -> None:
    whole = frame_of(PARTS[0])[HEADER_BYTES:]
    for parts in (2, 3):
        cut = cut_model(SHAPES, parts)
        bodies = [frame_of(BlockRange(part=p, parts=parts))[HEADER_BYTES:] for p in range(parts)]
        assert sum(map(len, bodies)) == len(whole)
        sections = {}
        for body, shapes in zip(bodies, cut, strict=True):
            at = 0
            for name in sorted(shapes):
                alone = replace(FORM, shapes={name: SHAPES[name]})
                end = at + alone.num_bytes - HEADER_BYTES
                sections[name] = body[at:end]
                at = end
        assert b"".join(sections[name] for name in sorted(SHAPES)) == whole


@pytest.mark.parametrize("blocks", PARTS, ids=str)
def test_one_byte_more_or_less_is_refused(blocks: BlockRange) -> None:
    frame = frame_of(blocks)
    assert outcome(frame) == "valid"
    for wrong in (frame[:-1], frame + b"\0", frame * 2, frame[:HEADER_BYTES]):
        assert outcome(wrong) == "length"


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1])
def test_less_than_a_header_is_refused(size: int) -> None:
    assert outcome(frame_of(PARTS[1])[:size]) == "length"


@pytest.mark.parametrize(
    ("part", "parts", "reason"),
    [
        (0, 0, "range"),
        (0, 1, "valid"),
        (1, 1, "range"),
        (1, 2, "length"),
        (2, 2, "range"),
        (0, MAX_PARTS, "range"),
        (0, MAX_PARTS + 1, "range"),
        (MAX_PARTS, MAX_PARTS, "range"),
        (0, 2**16 - 1, "range"),
        (2**16 - 1, 2**16 - 1, "range"),
    ],
)
def test_the_fields_of_a_part_have_bounds(part: int, parts: int, reason: str) -> None:
    frame = frame_of(PARTS[0])
    assert outcome(with_header(frame, part=part, parts=parts)) == reason
    unbound = replace(FORM, max_parts=2**16)
    with pytest.raises(ValueError, match="empty"):
        cut_model(SHAPES, EMPTY_PARTS)
    assert outcome(with_header(frame, parts=EMPTY_PARTS), unbound) == "range"


@pytest.mark.parametrize("width", [0, 1, MAX_WIDTH, MAX_WIDTH + 1, 2**16 - 1])
@pytest.mark.parametrize("blocks", [PARTS[0], PARTS[2]], ids=str)
def test_a_width_has_bounds(width: int, blocks: BlockRange) -> None:
    data = with_header(frame_of(blocks), width=width, part=blocks.part, parts=blocks.parts)
    assert outcome(data) == ("valid" if 1 <= width <= MAX_WIDTH else "width")


def test_bytes_under_another_part_are_refused() -> None:
    """Of another length, or, where parts are equally long, with sections in other places."""
    for blocks in PARTS:
        frame = frame_of(blocks)
        for other in PARTS:
            claimed = outcome(with_header(frame, part=other.part, parts=other.parts))
            same_bytes = FORM.part(other).num_bytes == len(frame)
            assert claimed == "valid" if other == blocks else claimed != "valid" or same_bytes
            assert same_bytes or claimed == "length"


def test_a_run_without_parts_refuses_them() -> None:
    plain = replace(FORM, max_width=1, max_parts=1)
    assert outcome(frame_of(PARTS[0]), plain) == "valid"
    assert outcome(frame_of(PARTS[1]), plain) == "range"
    assert outcome(frame_of(PARTS[0], width=2), plain) == "width"
    with pytest.raises(PayloadError, match="this run allows 1"):
        encode_payload(replace(HEADER, blocks=PARTS[1]), draw(0), plain)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), blocks=st.sampled_from(PARTS))
def test_damaged_frames_of_parts_are_refused_or_valid(seed: int, blocks: BlockRange) -> None:
    frame, other = FRAMES[blocks]
    generator = random.Random(seed)
    for _ in range(5):
        assert outcome(damaged(frame, other, generator)) in REASONS | {"valid"}


@settings(max_examples=60, deadline=None)
@given(
    words=st.tuples(*[st.integers(0, 6) | st.integers(0, 2**16 - 1)] * 3),
    length=st.integers(-2, 2),
    blocks=st.sampled_from(PARTS),
)
def test_any_header_of_a_part_is_refused_or_valid(
    words: tuple[int, int, int], length: int, blocks: BlockRange
) -> None:
    width, part, parts = words
    frame, _ = FRAMES[blocks]
    frame = frame[:length] if length < 0 else frame + bytes(length)
    claimed = outcome(with_header(frame, width=width, part=part, parts=parts))
    assert claimed in REASONS | {"valid"}
    if claimed == "valid":
        assert length == 0
        assert len(frame) == FORM.part(BlockRange(part=part, parts=parts)).num_bytes


FRAMES = {blocks: (frame_of(blocks, 1), frame_of(blocks, 2)) for blocks in PARTS}


def test_hostile_headers_cost_one_cut_each_and_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the run's bound not even a cut; within it one for each part asked for, few kept."""
    layers = 80
    shapes = {f"layers.{n:02}.weight": (4, 4) for n in range(layers)}
    form = PayloadFormat(run_id=FORM.run_id, shapes=shapes, top_k=64, max_parts=layers)
    cuts: list[int] = []

    def counted(shapes, parts):
        cuts.append(parts)
        return cut_model(shapes, parts)

    monkeypatch.setattr(payload_module, "cut_model", counted)
    frame = encode_payload(HEADER, {n: torch.zeros(s) for n, s in shapes.items()}, form)[0]
    assert cuts == [], "the whole model is not cut"
    for parts in (0, layers + 1, 1000, 2**16 - 1):
        for part in (0, 1, parts - 1 if parts else 5):
            assert _refused(with_header(frame, part=part, parts=parts), form)
    assert cuts == []
    asked = [(part, parts) for parts in range(2, layers + 1) for part in (0, parts - 1)]
    for part, parts in asked:
        assert _refused(with_header(frame, part=part, parts=parts), form)
    assert cuts == [parts for _, parts in asked]
    assert len(form._parts) <= MAX_PARTS_KEPT
    cuts.clear()
    for _ in range(20):
        _refused(with_header(frame, part=1, parts=2), form)
    assert cuts == [2], "a part in use is not cut again"


def _refused(data: bytes, form: PayloadFormat) -> bool:
    with pytest.raises(PayloadError) as caught:
        decode_payload(data, form)
    return caught.value.reason in ("range", "length")


@pytest.mark.parametrize("blocks", PARTS, ids=str)
def test_feedback_of_other_tensors_stays_to_the_last_bit(blocks: BlockRange) -> None:
    header, names = replace(HEADER, blocks=blocks), FORM.part(blocks).names
    residual = {name: tensor.neg_() for name, tensor in draw(3).items()}
    residual["norm"].zero_().neg_()  # a zero's sign is a bit too
    before = {name: tensor.clone() for name, tensor in residual.items()}
    deltas = {name: tensor for name, tensor in draw(4).items() if name in names}
    frame = encode_payload_with_feedback(header, deltas, residual, FORM, 0.5)
    sent = decode_payload(frame, FORM).tensors
    for name, tensor in residual.items():
        if name not in names:
            assert tensor.numpy().tobytes() == before[name].numpy().tobytes(), name
            continue
        expected = (0.5 * before[name] + deltas[name]).reshape(-1)
        expected[sent[name].indices] -= sent[name].values
        assert torch.equal(tensor.reshape(-1), expected), name
