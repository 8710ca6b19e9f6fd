"""A model in bands: the bytes, residuals, parameters, norms and refusals of a single process."""

import math
import random
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compression import (
    CodecError,
    HeldUpdates,
    Plan,
    aggregate,
    check,
    decode,
    encode,
    encode_with_feedback,
    make_plan,
    tensor_layout,
)
from compression.bands import (
    band_cuts,
    band_of,
    band_plan,
    band_shape,
    chunk_slices,
    cut,
    earliest,
    rows_plan,
    splice,
    whole_chunks,
)
from compression.decoder import check_units, norms_of
from compression.encoder import choose, no_tally, select, tally, write
from compression.sparse import apply
from tests.support.band_encoding import Tensors, bands_of, encode_in_bands, plans_of
from tests.support.codec_models import SHAPES, random_shapes, spoilt

Shapes = Mapping[str, tuple[int, ...]]

RANKS = (1, 2, 3, 5)
ROWS = st.sampled_from([0, 1, 63, 64, 65, 128, 129, 193, 400])
COLS = st.sampled_from([0, 1, 3, 64, 65, 130])
SHAPE = st.one_of(
    st.just(()),
    st.tuples(st.sampled_from([0, 1, 63, 4096, 4097, 9000])),
    st.tuples(ROWS, COLS),
    st.tuples(ROWS, st.integers(0, 5), st.integers(1, 7)),
)
MODELS = st.dictionaries(st.sampled_from("abcd"), SHAPE, min_size=1)
EXAMPLES = settings(max_examples=25, deadline=None)
MODEL: Shapes = {f"t{number:02}": shape for number, shape in enumerate(SHAPES)} | {
    "wide": (400, 130),
    "tall": (1000, 3),
}


def draw(shapes: Shapes, seed: int) -> Tensors:
    """Scales that differ from row to row, so that the ranks differ, and many equal magnitudes."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = np.asarray(generator.laplace(size=shape) * 1e-3)
        if shape:
            rows = np.exp(generator.normal(size=shape[0]))
            values = values * rows.reshape(-1, *[1] * (len(shape) - 1))
        rounded = np.round(values, 4) if generator.random() < 0.3 else values
        tensors[name] = torch.from_numpy(np.asarray(rounded, dtype=np.float32))
    return tensors


def joined(bands: list[Tensors], shapes: Shapes) -> Tensors:
    """Whole tensors of every rank's bands."""
    whole = {}
    for name, shape in shapes.items():
        parts = [band[name].reshape(-1) for band in bands]
        whole[name] = torch.cat(parts).reshape(shape)
    return whole


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor.view(torch.int32), other[name].view(torch.int32)), name


@pytest.mark.parametrize("ranks", RANKS)
def test_a_band_has_whole_blocks_and_the_bands_are_the_tensor(shape, ranks: int) -> None:
    cuts = band_cuts(shape, ranks)
    tensor = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    bands = [band_of(tensor, rank, ranks) for rank in range(ranks)]
    assert [tuple(band.shape) for band in bands] == [
        band_shape(shape, rank, ranks) for rank in range(ranks)
    ]
    assert torch.equal(torch.cat([band.reshape(-1) for band in bands]), tensor.reshape(-1))
    assert (cuts[0], cuts[-1]) == (0, shape[0] if shape else 1)
    if len(shape) < 2:
        assert set(cuts[1:]) == {cuts[-1]}, "a vector has one owner"
        return
    assert all(row % 64 == 0 or row == shape[0] for row in cuts)
    blocks = [-(-(end - start) // 64) for start, end in pairwise(cuts)]
    assert max(blocks) - min(blocks) <= 1


def test_a_model_needs_a_rank() -> None:
    with pytest.raises(ValueError, match="ranks is 0"):
        band_cuts((3, 4), 0)


@pytest.mark.parametrize("ranks", RANKS)
def test_the_layout_of_a_band_is_that_of_its_rows(ranks: int) -> None:
    plan = make_plan(MODEL)
    for rank, band in enumerate(plans_of(plan, ranks)):
        for name, layout in zip(band.names, band.layouts, strict=True):
            alone = tensor_layout(band_shape(MODEL[name], rank, ranks), 64)
            assert layout.groups == alone.groups
            assert layout.shape == alone.shape
    if ranks == 1:
        assert band_plan(plan, 0, 1) == plan


@pytest.mark.parametrize("ranks", RANKS)
def test_every_byte_of_a_body_belongs_to_one_rank_or_is_shared(ranks: int) -> None:
    plan = make_plan(MODEL)
    owners = np.zeros(plan.num_bytes, dtype=np.int64)
    for band in plans_of(plan, ranks):
        for place in chunk_slices(band):
            owners[place] += 1
    for start, end in pairwise(plan.starts):
        if start < end:
            owners[start : start + 2] += 1
    assert (owners == 1).all()


@EXAMPLES
@given(MODELS, st.sampled_from(RANKS), st.integers(0, 1000), st.sampled_from([1, 64, 700]))
def test_bands_give_the_bytes_residuals_and_sums_of_one_process(
    shapes: Shapes, ranks: int, seed: int, top_k: int
) -> None:
    """Three windows of error feedback; then all three bodies added to the parameters."""
    plan = make_plan(shapes, top_k)
    residual = {name: torch.zeros(shape) for name, shape in shapes.items()}
    residuals = [bands_of(residual, rank, ranks) for rank in range(ranks)]
    bodies = []
    for window in range(3):
        delta = draw(shapes, seed + window)
        deltas = [bands_of(delta, rank, ranks) for rank in range(ranks)]
        bodies.append(encode_with_feedback(delta, residual, plan, 0.9, 1))
        assert encode_in_bands(deltas, residuals, plan, 0.9) == bodies[-1]
        assert_equal(joined(residuals, shapes), residual)
    factors = np.random.default_rng(seed).normal(size=(3, len(shapes)))
    updates = [
        (body, dict(zip(shapes, row, strict=True)))
        for body, row in zip(bodies, factors, strict=True)
    ]
    theta = draw(shapes, seed + 9)
    parts = [bands_of(theta, rank, ranks) for rank in range(ranks)]
    aggregate(theta, updates, plan, 1)
    for part, band in zip(parts, plans_of(plan, ranks), strict=True):
        aggregate(part, updates, band, 1)
    assert_equal(joined(parts, shapes), theta)


@EXAMPLES
@given(MODELS, st.sampled_from(RANKS), st.integers(0, 1000))
def test_norms_and_values_of_bands_are_those_of_the_body(
    shapes: Shapes, ranks: int, seed: int
) -> None:
    plan = make_plan(shapes)
    body = encode(draw(shapes, seed), plan, 1)
    bands = plans_of(plan, ranks)
    units = sum(check_units(body, band, 1) for band in bands)
    assert isinstance(units, np.ndarray)
    assert norms_of(body, bands[-1], units) == check(body, plan, 1)
    theta = {name: torch.zeros(shape) for name, shape in shapes.items()}
    parts = [bands_of(theta, rank, ranks) for rank in range(ranks)]
    apply(theta, decode(body, plan, 1), dict.fromkeys(shapes, 0.3), 1)
    for part, band in zip(parts, bands, strict=True):
        # The way of a GPU: decoded to sparse tensors of the band, then added.
        apply(part, decode(body, band, 1), dict.fromkeys(shapes, 0.3), 1)
    assert_equal(joined(parts, shapes), theta)


def said_of(body: bytes, plan: Plan) -> CodecError | None:
    try:
        check_units(body, plan, 1)
    except CodecError as error:
        return error
    return None


@pytest.mark.parametrize("ranks", RANKS[1:])
def test_bands_refuse_what_one_process_refuses_in_its_words(ranks: int) -> None:
    """Spoilt bodies of random models: the same good ones, and the same fault of the others."""
    generator, good, refused = random.Random(ranks), 0, dict[str, int]()
    for number in range(120):
        shapes = random_shapes(generator)
        plan = make_plan(shapes, generator.choice((1, 64, 700)))
        body = spoilt(encode(draw(shapes, number), plan, 1), generator)
        if number % 10 == 0:
            body = body[:-1] or b"x"
        single = said_of(body, plan)
        faults = [said_of(body, band) for band in plans_of(plan, ranks)]
        assert str(earliest(faults)) == str(single)
        if single is None:
            good += 1
            continue
        refused[single.reason] = refused.get(single.reason, 0) + 1
        if single.reason in ("length", "scale"):
            assert {str(fault) for fault in faults} == {str(single)}, "every rank sees it"
    assert good > 5
    assert refused.keys() == {"length", "scale", "indices", "codes"}


def test_the_earliest_fault_is_the_one_in_front_of_the_body() -> None:
    """Faults of two ranks in two groups: the second rank's lies in the group in front."""
    plan = make_plan({"m": (128, 70)})
    body = bytearray(encode(draw({"m": (128, 70)}, 3), plan, 1))
    whole, edge = plan.runs
    body[whole.places.uppers + whole.places.upper_bytes] ^= 0xFF  # Second block: rank 1.
    body[edge.places.codes + edge.places.code_bytes - 1] |= 1  # First edge block: rank 0.
    first, second = (said_of(bytes(body), band) for band in plans_of(plan, 2))
    assert first is not None
    assert second is not None
    assert (first.reason, second.reason) == ("codes", "indices")
    single = said_of(bytes(body), plan)
    assert str(earliest([first, None, second])) == str(single) == str(second)
    assert earliest([None, None]) is None


@pytest.mark.parametrize("ranks", RANKS)
def test_held_updates_add_to_a_band(ranks: int) -> None:
    plan = make_plan(MODEL)
    updates = [(encode(draw(MODEL, seed), plan, 1), dict.fromkeys(MODEL, 0.2)) for seed in (1, 2)]
    theta = draw(MODEL, 3)
    parts = [bands_of(theta, rank, ranks) for rank in range(ranks)]
    aggregate(theta, updates, plan, 1)
    for part, band in zip(parts, plans_of(plan, ranks), strict=True):
        held = HeldUpdates(updates, band)
        for name, tensor in part.items():
            held.add_to(tensor, name, 1)
    assert_equal(joined(parts, MODEL), theta)


@pytest.mark.parametrize("ranks", RANKS)
def test_bands_by_torch_have_the_bytes_of_the_loops(ranks: int) -> None:
    """The operations for a GPU's tensors give the same bytes, here with tensors of the CPU."""
    plan, old, delta, theta = make_plan(MODEL), draw(MODEL, 1), draw(MODEL, 2), draw(MODEL, 3)
    residuals = [bands_of(old, rank, ranks) for rank in range(ranks)]
    deltas = [bands_of(delta, rank, ranks) for rank in range(ranks)]
    parts = [bands_of(theta, rank, ranks) for rank in range(ranks)]
    body = encode_with_feedback(delta, old, plan, 0.9, 1)
    assert encode_in_bands(deltas, residuals, plan, 0.9, by_torch=True) == body
    assert_equal(joined(residuals, MODEL), old)
    updates = [(body, dict.fromkeys(MODEL, 0.3))]
    aggregate(theta, updates, plan, 1)
    for part, band in zip(parts, plans_of(plan, ranks), strict=True):
        held = HeldUpdates(updates, band)
        for name, tensor in part.items():
            held.add_to(tensor, name, by_torch=True)
    assert_equal(joined(parts, MODEL), theta)


@pytest.mark.parametrize("ranks", RANKS)
def test_ranks_exchange_the_tally_and_their_chunks(ranks: int) -> None:
    """132 bytes a group and tensor at most, whatever the chunks; and 81 bytes a whole chunk."""
    shapes = {"a": (640, 640), "b": (640, 1280)}
    plan, delta = make_plan(shapes), draw(shapes, 1)
    bands, total, parts = plans_of(plan, ranks), no_tally(plan), []
    selected = []
    for rank, band in enumerate(bands):
        own = bands_of(delta, rank, ranks)
        residual = {name: torch.zeros_like(tensor) for name, tensor in own.items()}
        selected.append(select(own, residual, band, 0.9, 1))
        total = tally(selected[-1], total)
        assert total.gain_GR.nbytes + total.largest_TR.nbytes == 2 * 132
    scales = choose(total, plan)
    parts = [cut(write(own, scales, 1), own.plan) for own in selected]
    assert [part.size for part in parts] == [81 * band.num_chunks for band in bands]
    assert sum(part.size for part in parts) == plan.num_bytes - 2 * len(shapes)
    with pytest.raises(ValueError, match="rank 0: .* bytes of chunks"):
        splice([parts[0][:-1], *parts[1:]], scales, bands)
    with pytest.raises(ValueError, match="zip"):
        splice(parts[:-1], scales, bands)


def test_a_rank_refuses_what_is_not_finite_in_its_rows() -> None:
    shapes = {"m": (128, 64)}
    bands, delta = plans_of(make_plan(shapes), 2), draw(shapes, 0)
    delta["m"][100] = math.nan
    zeros = {"m": torch.zeros(64, 64)}
    select(bands_of(delta, 0, 2), zeros, bands[0], 0.9)
    with pytest.raises(ValueError, match="finite"):
        select(bands_of(delta, 1, 2), zeros, bands[1], 0.9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("ranks", RANKS)
def test_bands_on_a_gpu_give_the_same_bits(ranks: int) -> None:
    plan, delta = make_plan(MODEL), draw(MODEL, 1)
    residual, theta = draw(MODEL, 2), draw(MODEL, 3)
    residuals = [_on_gpu(bands_of(residual, rank, ranks)) for rank in range(ranks)]
    deltas = [_on_gpu(bands_of(delta, rank, ranks)) for rank in range(ranks)]
    parts = [_on_gpu(bands_of(theta, rank, ranks)) for rank in range(ranks)]
    body = encode_with_feedback(delta, residual, plan, 0.9)
    assert encode_in_bands(deltas, residuals, plan, 0.9) == body
    assert_equal(joined([_on_cpu(band) for band in residuals], MODEL), residual)
    updates = [(body, dict.fromkeys(MODEL, 0.3))]
    aggregate(theta, updates, plan)
    for part, band in zip(parts, plans_of(plan, ranks), strict=True):
        aggregate(part, updates, band)
    assert_equal(joined([_on_cpu(band) for band in parts], MODEL), theta)


def _on_gpu(tensors: Tensors) -> Tensors:
    return {name: tensor.cuda() for name, tensor in tensors.items()}


def _on_cpu(tensors: Tensors) -> Tensors:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


@pytest.mark.parametrize("ranks", RANKS)
def test_any_rows_are_read_of_the_chunks_around_them(ranks: int) -> None:
    """Cuts as FSDP2 makes them, through chunks: together the ranks read every value once."""
    generator = torch.Generator().manual_seed(4)
    dense = {n: torch.randn(shape, generator=generator) for n, shape in MODEL.items()}
    plan = make_plan(MODEL, 16)
    body = np.frombuffer(encode(dense, plan), dtype=np.uint8)
    whole = decode(body.data, plan).tensors
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in MODEL}
    for rank in range(ranks):
        rows = {name: _even_rows(shape, rank, ranks) for name, shape in MODEL.items()}
        spans = {name: whole_chunks(MODEL[name], *rows[name]) for name in MODEL}
        own = rows_plan(plan, [spans[name] for name in plan.names])
        part = np.zeros_like(body)
        for start, end in pairwise(plan.starts):
            part[start : min(start + 2, end)] = body[start : min(start + 2, end)]
        for place in chunk_slices(own):
            part[place] = body[place]
        for name, sparse in decode(part.data, own).tensors.items():
            width = math.prod(MODEL[name][1:])
            (first, end), (above, below) = rows[name], spans[name]
            assert above <= first <= end <= below or first == end
            places = (sparse.indices + above * width).tolist()
            kept = zip(places, sparse.values.tolist(), strict=True)
            found[name] += [each for each in kept if first * width <= each[0] < end * width]
    for name, sparse in whole.items():
        expected = zip(sparse.indices.tolist(), sparse.values.tolist(), strict=True)
        assert sorted(found[name]) == sorted(expected), name


def _even_rows(shape: tuple[int, ...], rank: int, ranks: int) -> tuple[int, int]:
    rows = shape[0] if shape else 1
    step = -(-rows // ranks)
    return min(rank * step, rows), min((rank + 1) * step, rows)
