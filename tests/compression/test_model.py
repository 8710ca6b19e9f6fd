"""Whole models: error feedback in place, the same bits however the work is cut, golden bytes."""

import hashlib
import math
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compression import (
    CodecError,
    Plan,
    SparseModel,
    accumulate,
    aggregate,
    apply,
    body_bytes,
    check,
    decode,
    decode_tensor,
    decoder,
    encode,
    encode_tensor,
    encode_with_feedback,
    make_plan,
    residual_after,
    tensor_layout,
)
from tests.support.codec_models import SHAPES

Shapes = Mapping[str, tuple[int, ...]]
Tensors = dict[str, Tensor]

MODEL: Shapes = {f"t{number:02}": shape for number, shape in enumerate(SHAPES)}
"""Every branch of the layout in one body."""

SMALL_SHAPES = st.dictionaries(
    st.sampled_from("abcd"),
    st.lists(st.integers(0, 90), max_size=2).map(tuple)
    | st.lists(st.integers(0, 12), min_size=3, max_size=4).map(tuple),
    min_size=1,
)
EXAMPLES = settings(max_examples=100, deadline=None)


def draw(shapes: Shapes, seed: int, spread: float = 0.5) -> Tensors:
    """Laplace values, whose scale differs from tensor to tensor, with many equal magnitudes."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = generator.laplace(size=shape) * 1e-3 * math.exp(generator.normal() * spread)
        rounded = np.round(values, 4) if generator.random() < 0.3 else values
        tensors[name] = torch.from_numpy(np.asarray(rounded, dtype=np.float32))
    return tensors


def zeros(shapes: Shapes) -> Tensors:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def clone(tensors: Tensors) -> Tensors:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor.cpu(), other[name].cpu()), name


def dense_of(sparse: SparseModel, shapes: Shapes) -> Tensors:
    dense = zeros(shapes)
    apply(dense, sparse, dict.fromkeys(shapes, 1.0))
    return dense


def two_windows(shapes: Shapes, plan: Plan, num_threads: int = 1) -> tuple[list[bytes], Tensors]:
    residual, bodies = zeros(shapes), []
    for seed in (1, 2):
        bodies.append(
            encode_with_feedback(draw(shapes, seed), residual, plan, 0.9, num_threads=num_threads)
        )
    return bodies, residual


def test_a_body_is_the_sections_in_order_of_names() -> None:
    tensors = draw(MODEL, 0)
    sections = [encode_tensor(tensors[n], tensor_layout(MODEL[n], 64))[0] for n in sorted(MODEL)]
    body = encode(tensors, make_plan(MODEL))
    assert body == b"".join(sections)
    assert len(body) == body_bytes(MODEL) == make_plan(MODEL).num_bytes


def test_a_body_says_what_its_sections_say() -> None:
    tensors, plan = draw(MODEL, 0), make_plan(MODEL)
    sparse = decode(encode(tensors, plan), plan)
    assert list(sparse.tensors) == sorted(MODEL)
    for name, shape in MODEL.items():
        layout = tensor_layout(shape, 64)
        alone = decode_tensor(encode_tensor(tensors[name], layout)[0], layout)
        assert torch.equal(sparse.tensors[name].indices, alone.indices)
        assert torch.equal(sparse.tensors[name].values, alone.values)
        assert sparse.tensors[name].norm == alone.norm
    assert sum(len(s.values) for s in sparse.tensors.values()) == plan.num_kept


@EXAMPLES
@given(SMALL_SHAPES, st.integers(0, 1000), st.sampled_from([1, 7, 64, 700]))
def test_sent_and_residual_are_the_input(shapes: Shapes, seed: int, top_k: int) -> None:
    """Exactly, by the one rounding of a difference; and the residual has the stated size."""
    plan = make_plan(shapes, top_k)
    old, delta = draw(shapes, seed), draw(shapes, seed + 1)
    residual = clone(old)
    body = encode_with_feedback(delta, residual, plan, 0.75)
    sparse = decode(body, plan)
    for name, sent in sparse.tensors.items():
        accumulated = accumulate(old[name], delta[name], 0.75)
        assert torch.equal(residual_after(accumulated, sent), residual[name])
        kept, left = accumulated.view(-1)[sent.indices], residual[name].view(-1)[sent.indices]
        assert (left.double().square().sum() <= 0.1 * kept.double().square().sum()).all()
    assert_equal(delta, draw(shapes, seed + 1))


@EXAMPLES
@given(SMALL_SHAPES, st.integers(0, 1000), st.sampled_from([1, 7, 64, 700]))
def test_what_was_decoded_is_sent_again_unchanged(shapes: Shapes, seed: int, top_k: int) -> None:
    plan = make_plan(shapes, top_k)
    once = dense_of(decode(encode(draw(shapes, seed), plan), plan), shapes)
    assert_equal(dense_of(decode(encode(once, plan), plan), shapes), once)


@EXAMPLES
@given(SMALL_SHAPES, st.integers(0, 1000), st.integers(1, 4))
def test_ties_go_to_the_lowest_index(shapes: Shapes, seed: int, num_levels: int) -> None:
    """Against a stable sort, on tensors of few different magnitudes."""
    generator = np.random.default_rng(seed)
    tensors = {
        name: torch.from_numpy(
            generator.integers(-num_levels, num_levels + 1, size=shape).astype(np.float32)
        )
        for name, shape in shapes.items()
    }
    plan = make_plan(shapes)
    sparse = decode(encode(tensors, plan), plan)
    for name, layout in zip(plan.names, plan.layouts, strict=True):
        expected: list[int] = []
        for group in layout.groups:
            row_C, col_C = np.divmod(np.arange(group.num_elements), group.width)
            flat_NC = group.bases()[:, None] + row_C * group.stride + col_C
            magnitude_NC = np.abs(tensors[name].numpy().reshape(-1)[flat_NC])
            order_NK = np.argsort(-magnitude_NC, axis=1, kind="stable")[:, : group.k]
            expected += np.take_along_axis(flat_NC, np.sort(order_NK), axis=1).reshape(-1).tolist()
        assert sparse.tensors[name].indices.tolist() == expected


@EXAMPLES
@given(st.integers(1, 3), st.sampled_from([1, 3, 7, 256]), st.integers(1, 3))
@pytest.mark.slow
def test_bits_do_not_depend_on_threads_or_sizes_of_pieces(
    num_threads: int, piece_chunks: int, held_bodies: int
) -> None:
    shapes = {"a": (200, 330), "b": (9000,), "c": (3, 5, 7)}
    plan = make_plan(shapes)
    assert plan.num_chunks > 7
    bodies, residual = two_windows(shapes, plan)
    target = draw(shapes, 9)
    factors = [dict.fromkeys(shapes, 0.3), dict.fromkeys(shapes, -0.7)]
    for body, factor in zip(bodies, factors, strict=True):
        apply(target, decode(body, plan, 1), factor, 1)
    with pytest.MonkeyPatch.context() as sizes:
        sizes.setattr("compression.plan.PIECE_CHUNKS", piece_chunks)
        sizes.setattr(decoder, "HELD_BODIES", held_bodies)
        again, left = two_windows(shapes, plan, num_threads)
        assert again == bodies
        assert_equal(left, residual)
        added = draw(shapes, 9)
        aggregate(added, zip(bodies, factors, strict=True), plan, num_threads)
        assert_equal(added, target)


@pytest.mark.parametrize("num_updates", [0, 1, 3, 9])
def test_aggregating_is_decoding_and_applying_in_turn(num_updates: int) -> None:
    plan, generator = make_plan(MODEL), np.random.default_rng(num_updates)
    updates = [
        (encode(draw(MODEL, seed), plan), {name: generator.normal() for name in MODEL})
        for seed in range(num_updates)
    ]
    expected, target = draw(MODEL, 77), draw(MODEL, 77)
    for body, factors in updates:
        for name, tensor in decode(body, plan).tensors.items():
            product = tensor.values * torch.tensor(factors[name], dtype=torch.float32)
            flat = expected[name].view(-1)
            flat[tensor.indices] = flat[tensor.indices] + product
    aggregate(target, iter(updates), plan, 2)
    assert_equal(target, expected)


def test_an_update_is_taken_only_when_it_is_due() -> None:
    """Streaming: of many updates at most ten have been asked for but not added."""
    plan, target = make_plan({"a": (64, 64)}), zeros({"a": (64, 64)})
    body = encode({"a": torch.ones(64, 64)}, plan)
    asked = []

    def updates() -> Iterator[tuple[bytes, dict[str, float]]]:
        for number in range(45):
            asked.append((number, round(float(target["a"].view(-1)[0]))))
            yield body, {"a": 1.0}

    aggregate(target, updates(), plan)
    assert float(target["a"].view(-1)[0]) == 45
    assert max(number + 1 - added for number, added in asked) == 10


@pytest.mark.parametrize("num_updates", [1, 10, 40])
def test_memory_of_aggregating_does_not_grow_with_the_updates(num_updates: int) -> None:
    """Ten bodies, and the one that comes next: a twentieth of the parameters."""
    shapes = {"a": (2048, 2048)}
    plan, target = make_plan(shapes), zeros(shapes)
    body = encode(draw(shapes, 0), plan)
    aggregate(target, [(body, {"a": 1.0})], plan, 2)

    def updates() -> Iterator[tuple[bytes, dict[str, float]]]:
        for _ in range(num_updates):
            yield bytes(bytearray(body)), {"a": 1.0}

    tracemalloc.start()
    try:
        aggregate(target, updates(), plan, 2)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 10 * len(body) < peak <= 13 * len(body) + 64 * 1024
    assert peak <= 0.07 * 4 * plan.num_elements


@pytest.mark.parametrize(
    ("param", "said"),
    [
        (torch.zeros(8, 8), "shape"),
        (torch.zeros(70, 80, dtype=torch.float64), "float32"),
        (torch.zeros(80, 70).T, "contiguous"),
    ],
    ids=["another shape", "float64", "not contiguous"],
)
def test_parameters_that_do_not_fit_are_refused_before_anything_is_added(
    param: Tensor, said: str
) -> None:
    shapes = {"a": (64, 64), "b": (70, 80)}
    plan, good = make_plan(shapes), torch.zeros(64, 64)
    body = encode(draw(shapes, 0), plan)
    with pytest.raises(ValueError, match=f"b: .*{said}"):
        aggregate({"a": good, "b": param}, [(body, dict.fromkeys(shapes, 1.0))], plan)
    assert not good.any()
    assert not param.any()


@EXAMPLES
@given(SMALL_SHAPES, st.integers(0, 1000), st.binary(max_size=9), st.integers(0, 10**6))
def test_checking_says_what_decoding_says(
    shapes: Shapes, seed: int, patch: bytes, where: int
) -> None:
    """The same norms, or the same error, for good bodies and for spoilt ones."""
    plan = make_plan(shapes)
    body = bytearray(encode(draw(shapes, seed), plan))
    first = where % (len(body) + 1)
    body[first : first + len(patch)] = patch[: len(body) - first]
    said: list[object] = []
    for read in (check, decode):
        try:
            result = read(bytes(body), plan)
            said.append(
                {n: t.norm for n, t in result.tensors.items()}
                if isinstance(result, SparseModel)
                else result
            )
        except CodecError as error:
            said.append(str(error))
    assert said[0] == said[1]


def test_a_faulty_section_is_named() -> None:
    shapes = {"first": (64, 64), "second": (64, 128), "third": (64, 64)}
    plan = make_plan(shapes)
    body = bytearray(encode(draw(shapes, 0), plan))
    first_upper = 2 * 2 + 81 + 2 + 2 * 48 - 2
    body[first_upper + 16 : first_upper + 32] = bytes(16)
    with pytest.raises(CodecError, match="second: .*ones"):
        decode(bytes(body), plan)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("junk", [False, True])
def test_memory_of_decoding_is_bounded(num_threads: int, junk: bool) -> None:
    shapes = {"a": (3000, 1000), "b": (500_000,)}
    plan = make_plan(shapes)
    honest = encode(draw(shapes, 0), plan)
    decode(honest, plan, num_threads)
    body = honest[:-5000] + np.random.default_rng(0).bytes(5000) if junk else honest
    bound = 12 * plan.num_kept + 2 * plan.num_chunks + 64 * 1024
    tracemalloc.start()
    try:
        decode(body, plan, num_threads)
    except CodecError:
        assert junk
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= bound


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decay_out_of_range_is_refused(decay: float) -> None:
    shapes = {"a": (3,)}
    with pytest.raises(ValueError, match="decay"):
        encode_with_feedback(zeros(shapes), zeros(shapes), make_plan(shapes), decay)


@pytest.mark.parametrize("poison", [float("nan"), float("-inf"), 300.0])
@pytest.mark.parametrize("count", [1, 64, 70])
def test_what_is_not_finite_is_refused(poison: float, count: int) -> None:
    shapes = {"a": (128, 64)}
    delta = draw(shapes, 0)
    delta["a"].view(-1)[-count:] = poison
    with pytest.raises(ValueError, match="finite"):
        encode_with_feedback(delta, zeros(shapes), make_plan(shapes), 0.9)


def test_a_residual_that_cannot_be_changed_in_place_is_refused() -> None:
    shapes = {"a": (70, 80)}
    with pytest.raises(ValueError, match="contiguous"):
        encode_with_feedback(zeros(shapes), {"a": torch.zeros(80, 70).T}, make_plan(shapes), 0.9)


def test_length_of_any_size_without_its_memory() -> None:
    shapes = {"a": (1 << 20, 1 << 20), "b": (1 << 40,)}
    assert body_bytes(shapes) == 2 * (2 + 81 * (1 << 28))


def integer_tensors() -> Tensors:
    """Inputs that depend on no library's generator: a multiplicative sequence modulo a prime."""
    shapes = {"a": (130, 70), "b": (5000,), "c": (3, 5, 7), "d": (0, 2), "e": ()}
    value, tensors = 1, {}
    for name, shape in shapes.items():
        values = []
        for _ in range(math.prod(shape)):
            value = value * 48271 % 2147483647
            values.append((value % 20011 - 10005) ** 3 / 1e15)
        tensors[name] = torch.tensor(values, dtype=torch.float32).reshape(shape)
    return tensors


def golden_digests() -> list[str]:
    """Of the encoder's bytes in two windows, the residuals, and the sum of both updates."""
    tensors = integer_tensors()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    plan, residual = make_plan(shapes), zeros(shapes)
    bodies = [encode_with_feedback(tensors, residual, plan, 0.95) for _ in range(2)]
    added = zeros(shapes)
    aggregate(added, [(body, dict.fromkeys(shapes, 0.3)) for body in bodies], plan)
    assert len(bodies[0]) == 308
    left, sums = (
        b"".join(t[name].numpy().tobytes() for name in sorted(shapes)) for t in (residual, added)
    )
    return [hashlib.sha256(data).hexdigest()[:16] for data in (*bodies, left, sums)]


GOLDEN = ["2bf59f28a5c289f9", "803ddb44379332df", "e4288cc7979a05df", "4a7ab328de541b63"]


def test_golden_bodies() -> None:
    """Change them only with the format, and start a new run."""
    assert golden_digests() == GOLDEN


@pytest.mark.slow
def test_compiled_loops_do_what_their_python_says() -> None:
    code = "from tests.compression.test_model import golden_digests; print(*golden_digests())"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    assert done.stdout.split() == GOLDEN


def test_the_smallest_of_a_chunk_stays_small() -> None:
    """Without that rule this chunk would decode to something that is coded as another."""
    shapes = {"a": (64, 64)}
    plan = make_plan(shapes)
    for factor in (1.06, 1.07, 1.08, 1.09):
        for value in (1.0915, 1.0925, 1.0934):
            dense = torch.zeros(4096)
            dense[:64] = value * 1.1875
            dense[63] = value * factor
            once = dense_of(decode(encode({"a": dense.view(64, 64)}, plan), plan), shapes)
            again = dense_of(decode(encode(once, plan), plan), shapes)
            assert_equal(again, once)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_bits() -> None:
    plan = make_plan(MODEL)
    bodies, residual = two_windows(MODEL, plan)
    on_gpu = {name: tensor.cuda() for name, tensor in zeros(MODEL).items()}
    for seed, body in zip((1, 2), bodies, strict=True):
        delta = {name: tensor.cuda() for name, tensor in draw(MODEL, seed).items()}
        assert encode_with_feedback(delta, on_gpu, plan, 0.9) == body
    assert_equal(on_gpu, residual)
    updates = [(body, dict.fromkeys(MODEL, 0.3)) for body in bodies]
    expected, target = draw(MODEL, 9), {n: t.cuda() for n, t in draw(MODEL, 9).items()}
    aggregate(expected, updates, plan)
    aggregate(target, updates, plan)
    assert_equal(target, expected)
