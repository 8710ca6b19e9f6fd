"""A tensor's section: round trip, exact length and norm, and any bytes a stranger may send."""

import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compression import (
    CodecError,
    SparseTensor,
    TensorLayout,
    decode_tensor,
    encode_tensor,
    tensor_layout,
)
from compression.chunking import chunk_groups
from compression.plan import section_length
from compression.quantize import MAX_ABS_VALUE

SMALL = (8, 17)
"""One chunk of 136 elements, of which 2 are kept: 2 + 1 + 2 + 1 + 1 bytes."""


def draw(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.01


def dense_of(sparse: SparseTensor) -> Tensor:
    dense = torch.zeros(sparse.shape)
    sparse.add_to(dense, coefficient=1.0)
    return dense


def assert_same(one: SparseTensor, other: SparseTensor) -> None:
    assert one.shape == other.shape
    assert torch.equal(one.indices, other.indices)
    assert torch.equal(one.values, other.values)
    assert one.norm == other.norm


def assert_valid(sparse: SparseTensor, shape: tuple[int, ...], top_k: int = 64) -> None:
    """All that the outer step relies on."""
    layout = tensor_layout(shape, top_k)
    assert sparse.shape == shape
    assert sparse.values.dtype == torch.float32
    assert sparse.indices.shape == sparse.values.shape == (layout.num_kept,)
    assert sparse.indices.unique().numel() == layout.num_kept
    assert ((sparse.indices >= 0) & (sparse.indices < math.prod(shape))).all()
    assert torch.isfinite(sparse.values).all()
    assert (sparse.values.abs() < MAX_ABS_VALUE).all()
    assert math.isfinite(sparse.norm)


def decoded_or_reason(data: bytes, layout: TensorLayout) -> SparseTensor | str:
    try:
        return decode_tensor(data, layout)
    except CodecError as error:
        return error.reason


def test_decoding_gives_what_encoding_said(shape: tuple[int, ...]) -> None:
    layout = tensor_layout(shape, 64)
    data, sent = encode_tensor(draw(shape), layout)
    assert len(data) == section_length(chunk_groups(shape, 64))
    assert_same(decode_tensor(data, layout), sent)
    assert_valid(sent, shape)


@pytest.mark.parametrize("top_k", [1, 3, 64, 1000, 4096])
def test_any_top_k_round_trips(top_k: int) -> None:
    layout = tensor_layout((70, 130), top_k)
    data, sent = encode_tensor(draw((70, 130)), layout)
    assert_same(decode_tensor(data, layout), sent)
    assert_valid(sent, (70, 130), top_k)


def test_what_is_sent_is_the_largest_of_each_chunk_with_its_sign() -> None:
    dense, layout = draw((128, 64)), tensor_layout((128, 64), 64)
    _, sent = encode_tensor(dense, layout)
    for half in range(2):
        block = dense[64 * half : 64 * half + 64].reshape(-1)
        largest = set((block.abs().topk(64).indices + 4096 * half).tolist())
        assert set(sent.indices[64 * half : 64 * half + 64].tolist()) == largest
    kept = dense.view(-1)[sent.indices]
    assert torch.equal(sent.values.sign(), kept.sign())
    assert float((sent.values - kept).norm() / kept.norm()) < 0.1


@pytest.mark.parametrize("seed", range(20))
def test_encoding_what_was_decoded_changes_nothing(seed: int) -> None:
    """Where chunks keep more than a few values; one of a single value may have two codes."""
    shape = (64, 64 * (1 + seed % 3))
    layout = tensor_layout(shape, 64)
    data, sent = encode_tensor(draw(shape, seed), layout)
    again, resent = encode_tensor(dense_of(sent), layout)
    assert again == data
    assert_same(resent, sent)


def test_zeros_decode_to_zeros(shape: tuple[int, ...]) -> None:
    layout = tensor_layout(shape, 64)
    data, sent = encode_tensor(torch.zeros(shape), layout)
    assert (sent.values == 0).all()
    assert sent.norm == 0.0
    assert_same(decode_tensor(data, layout), sent)


def test_encoding_neither_changes_nor_needs_contiguous_input() -> None:
    dense = draw((70, 130))
    before = dense.clone()
    layout = tensor_layout((130, 70), 64)
    assert encode_tensor(dense.T, layout)[0] == encode_tensor(dense.T.contiguous(), layout)[0]
    assert torch.equal(dense, before)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 300.0])
def test_what_cannot_be_sent_is_refused(poison: float) -> None:
    dense = draw((64, 64))
    dense[5, 5] = poison
    with pytest.raises(ValueError, match="finite"):
        encode_tensor(dense, tensor_layout((64, 64), 64))


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        encode_tensor(draw((64, 65)), tensor_layout((65, 64), 64))


def correctly_rounded_root(total: Fraction) -> float:
    """sqrt of the double nearest to a sum of squares, from integers: two roundings, no more."""
    return math.sqrt(total.numerator / total.denominator)


def test_norm_is_exact(shape: tuple[int, ...]) -> None:
    _, sent = encode_tensor(draw(shape, 7) * 3, tensor_layout(shape, 64))
    total = sum((Fraction(v) ** 2 for v in sent.values.tolist()), start=Fraction(0))
    assert sent.norm == correctly_rounded_root(total)


def test_norm_is_exact_over_all_octaves() -> None:
    scales = torch.exp2(-torch.arange(18.0)).repeat_interleave(4096)
    dense = draw((18 * 4096,), 8) * scales
    _, sent = encode_tensor(dense, tensor_layout((18 * 4096,), 64))
    total = sum((Fraction(v) ** 2 for v in sent.values.tolist()), start=Fraction(0))
    assert sent.norm == correctly_rounded_root(total)
    assert sent.values[:64].abs().min() > 1000 * sent.values[-64 * 5 :].abs().max()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 200), max_size=3), st.integers(1, 4096))
def test_length_follows_from_the_shape(sides: list[int], top_k: int) -> None:
    expected = 2 if math.prod(sides) else 0
    for group in chunk_groups(tuple(sides), top_k):
        n, k = group.num_elements, group.k
        low = (n // k).bit_length() - 1
        upper = k + ((n - 1) >> low)
        per_chunk = 1 + math.ceil(k * low / 8) + math.ceil(upper / 8) + math.ceil(k / 4)
        expected += group.num_chunks * per_chunk
    assert section_length(chunk_groups(tuple(sides), top_k)) == expected


def test_a_whole_chunk_takes_81_bytes() -> None:
    assert section_length(chunk_groups((64, 64), 64)) == 2 + 81
    assert section_length(chunk_groups((4096, 8192), 64)) / (4096 * 8192) <= 0.0198


@pytest.mark.parametrize("change", [-100, -1, 1, 100])
def test_a_wrong_length_is_refused(change: int) -> None:
    layout = tensor_layout((64, 130), 64)
    data, _ = encode_tensor(draw((64, 130)), layout)
    wrong = data[:change] if change < 0 else data + bytes(change)
    with pytest.raises(CodecError) as caught:
        decode_tensor(wrong, layout)
    assert caught.value.reason == "length"


def test_bytes_for_no_elements_are_refused() -> None:
    with pytest.raises(CodecError):
        decode_tensor(b"\x00", tensor_layout((0, 3), 64))


@pytest.mark.parametrize("shape", [SMALL, (64, 64), (3,)], ids=str)
def test_every_single_bit_flip_is_refused_or_valid(shape: tuple[int, ...]) -> None:
    layout = tensor_layout(shape, 64)
    data, sent = encode_tensor(draw(shape), layout)
    original = dense_of(sent)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        decoded = decoded_or_reason(bytes(flipped), layout)
        if isinstance(decoded, str):
            assert decoded in {"scale", "indices", "codes"}
        else:
            assert_valid(decoded, shape)
            unused = bit // 8 == 1 and sent.values.abs().unique().numel() == 1
            assert unused or not torch.equal(dense_of(decoded), original)


@pytest.mark.parametrize("shape", [SMALL, (2,), (64, 66)], ids=str)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_are_refused_or_valid(shape: tuple[int, ...], data: st.DataObject) -> None:
    layout = tensor_layout(shape, 64)
    size = section_length(layout.groups)
    raw = data.draw(st.one_of(st.binary(max_size=64), st.binary(min_size=size, max_size=size)))
    decoded = decoded_or_reason(raw, layout)
    if isinstance(decoded, str):
        assert decoded in {"length", "scale", "indices", "codes"}
    else:
        assert_valid(decoded, shape)


def test_random_scales_and_codes_around_good_indices_stay_bounded() -> None:
    """Bytes that get past the index checks: every scale byte and code is some value."""
    layout = tensor_layout((64, 128), 64)
    data, _ = encode_tensor(draw((64, 128)), layout)
    generator = random.Random(3)
    for _ in range(200):
        scales = bytes([generator.randrange(64), generator.randrange(1, 32)])
        scales += generator.randbytes(2)
        forged = scales + data[4 : 4 + 128] + generator.randbytes(32)
        assert_valid(decode_tensor(forged, layout), (64, 128))


@pytest.mark.parametrize(
    ("position", "value", "reason"),
    [(0, 64, "scale"), (0, 255, "scale"), (1, 0, "scale"), (1, 32, "scale")],
)
def test_scale_bytes_out_of_range_are_refused(position: int, value: int, reason: str) -> None:
    layout = tensor_layout((64, 64), 64)
    data = bytearray(encode_tensor(draw((64, 64)), layout)[0])
    data[position] = value
    with pytest.raises(CodecError) as caught:
        decode_tensor(bytes(data), layout)
    assert caught.value.reason == reason


def test_set_padding_bits_of_codes_are_refused() -> None:
    """Two kept values fill half of the last byte; its lower half must stay empty."""
    layout = tensor_layout(SMALL, 64)
    assert layout.groups[0].k == 2
    data = encode_tensor(draw(SMALL), layout)[0]
    for bit in range(4):
        with pytest.raises(CodecError, match="padding"):
            decode_tensor(data[:-1] + bytes([data[-1] | 1 << bit]), layout)


def test_adding_is_product_then_sum() -> None:
    dense, layout = draw((64, 64)), tensor_layout((64, 64), 64)
    _, sent = encode_tensor(dense, layout)
    target = draw((64, 64), 1)
    expected = target.clone().view(-1)
    factor = torch.tensor(0.1, dtype=torch.float32)
    for index, value in zip(sent.indices.tolist(), sent.values, strict=True):
        expected[index] = expected[index] + value * factor
    sent.add_to(target, coefficient=0.1)
    assert torch.equal(target.view(-1), expected)


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    dense, layout = draw((512, 1024), 5), tensor_layout((512, 1024), 64)
    before, results = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            data, sent = encode_tensor(dense, layout)
            target = dense.clone()
            sent.add_to(target, coefficient=-0.3)
            results.append((data, sent.norm, target))
    finally:
        torch.set_num_threads(before)
    assert results[0][:2] == results[1][:2]
    assert torch.equal(results[0][2], results[1][2])
