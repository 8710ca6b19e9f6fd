"""The codec by operations of PyTorch, on the CPU's tensors: the bytes of the compiled loops."""

import random
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from compression import (
    CodecError,
    HeldUpdates,
    Plan,
    aggregate,
    encode,
    encode_with_feedback,
    make_plan,
)
from compression import torch_decoder as decoder
from compression import torch_encoder as encoder
from compression.encoder import select
from tests.support.codec_models import EDGES, SHAPES, spoilt

Tensors = dict[str, Tensor]
MODEL = {str(number): shape for number, shape in enumerate(SHAPES)}
KINDS: dict[str, Callable[[tuple[int, ...]], Tensor]] = {
    "usual": lambda shape: torch.randn(shape) * 1e-3,
    "of few values": lambda shape: torch.randint(-2, 3, shape).float() * 1e-3,
    "subnormal": lambda shape: torch.randn(shape) * 1e-40,
    "of all sizes": lambda shape: (
        torch.randn(shape) * torch.exp(torch.randn(shape) * 9 - 30)
    ).clamp(-99, 99),
    "zeros": lambda shape: torch.zeros(shape) * torch.randn(shape).sign(),
    "almost none": lambda shape: torch.randn(shape) * (torch.rand(shape) < 0.01),
}


def encoded(deltas: Tensors, residual: Tensors, plan: Plan, by_torch: bool) -> bytes:
    return encode_with_feedback(deltas, residual, plan, 0.9, 1, by_torch)


def draw(shapes: Mapping[str, tuple[int, ...]], kind: str, seed: int) -> Tensors:
    torch.manual_seed(seed)
    return {name: KINDS[kind](shape) for name, shape in shapes.items()}


def copy_of(tensors: Tensors) -> Tensors:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_same_bits(found: Tensors, expected: Tensors) -> None:
    """Of zeros the signs too."""
    for name, tensor in expected.items():
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def assert_two_windows_agree(shapes: Mapping[str, tuple[int, ...]], top_k: int, kind: str) -> None:
    plan = make_plan(shapes, top_k)
    first = draw(shapes, kind, 0)
    residuals, params = [first, copy_of(first)], [copy_of(first), copy_of(first)]
    bodies = []
    for window in (1, 2):
        delta = draw(shapes, kind, window)
        loops, torches = (
            encoded(delta, residual, plan, by_torch)
            for residual, by_torch in zip(residuals, (False, True), strict=True)
        )
        assert loops == torches
        assert_same_bits(residuals[1], residuals[0])
        bodies.append((loops, dict.fromkeys(shapes, 0.1 * window - 0.15)))
    for own, by_torch in zip(params, (False, True), strict=True):
        aggregate(own, bodies, plan, 1, by_torch)
    assert_same_bits(params[1], params[0])
    held = HeldUpdates(bodies, plan)
    for name, tensor in first.items():
        held.add_to(tensor.copy_(copy_of(draw(shapes, kind, 0))[name]), name, 1, by_torch=True)
    assert_same_bits(first, params[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [1, 64, 700])
def test_the_bytes_are_those_of_the_loops(kind: str, top_k: int) -> None:
    assert_two_windows_agree(MODEL, top_k, kind)


SIDES = st.lists(st.sampled_from(EDGES), max_size=3).map(tuple)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(SIDES.filter(lambda shape: np.prod(shape) < 20_000), min_size=1, max_size=3),
    st.sampled_from([1, 2, 63, 64, 511, 512, 4096]),
    st.sampled_from(sorted(KINDS)),
)
def test_the_bytes_of_any_model_are_those_of_the_loops(shapes, top_k: int, kind: str) -> None:
    assert_two_windows_agree({str(n): shape for n, shape in enumerate(shapes)}, top_k, kind)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that end within rows of blocks, within tensors and between tensors."""
    shapes = {"a": (256, 448), "b": (64, 64), "c": (130, 200), "d": (9000,)}
    for name in ("SELECTED_CHUNKS", "SCORED_CHUNKS", "WRITTEN_CHUNKS"):
        monkeypatch.setattr(encoder, name, 5)
    monkeypatch.setattr(decoder, "READ_CHUNKS", 3)
    assert_two_windows_agree(shapes, 64, "of few values")


@pytest.mark.parametrize("bits", [0x7FC00000, -0x400000, 0x7F800001, 0x7F800000, 0x43800000])
def test_what_no_payload_can_say_is_refused(bits: int) -> None:
    """NaNs of both signs, infinity, and 2^8, alone in a tensor of large values."""
    plan = make_plan({"a": (128, 128)})
    for place in (0, 5000, 128 * 128 - 1):
        delta = torch.full((128, 128), 255.0)
        delta.view(-1).view(torch.int32)[place] = bits
        with pytest.raises(ValueError, match="values must be finite and below 2"):
            select({"a": delta}, {"a": torch.zeros(128, 128)}, plan, 0.9, 1, by_torch=True)


@pytest.mark.parametrize("offset", [0, 7])
def test_neighbours_in_memory_are_left_alone(offset: int) -> None:
    """Tensors that begin anywhere in their storage, as bands do."""
    shapes = {"a": (130, 70)}
    plan, delta = make_plan(shapes), draw(shapes, "usual", 1)
    both = [torch.full((offset + 9100 + 3,), 9.0) for _ in range(2)]
    own = [{"a": flat[offset : offset + 9100].view(130, 70)} for flat in both]
    for each in own:
        each["a"].copy_(draw(shapes, "usual", 2)["a"])
    loops, torches = (
        encoded(delta, each, plan, t) for each, t in zip(own, (False, True), strict=True)
    )
    assert loops == torches
    for each, by_torch in zip(own, (False, True), strict=True):
        aggregate(each, [(loops, {"a": 0.5})], plan, 1, by_torch)
    assert both[0].numpy().tobytes() == both[1].numpy().tobytes()
    assert (both[1][:offset] == 9).all()
    assert (both[1][offset + 9100 :] == 9).all()


def test_a_strangers_body_has_the_fault_that_the_loops_find() -> None:
    plan = make_plan(MODEL)
    params, generator = draw(MODEL, "usual", 1), random.Random(4)
    good, refused = encode(params, plan, 1), set()
    padded = bytearray(good)
    padded[plan.runs[0].places.codes] |= 3  # of a chunk with one value
    for body in (bytes(padded), *(spoilt(good, generator) for _ in range(60))):
        said: list[list[object]] = []
        for by_torch in (False, True):
            own = copy_of(params)
            try:
                aggregate(own, [(body, dict.fromkeys(MODEL, 0.1))], plan, 1, by_torch)
                said.append([tensor.numpy().tobytes() for tensor in own.values()])
            except CodecError as error:
                said.append([str(error), error.place])
                refused.add(error.reason)
        assert said[0] == said[1]
    assert refused == {"indices", "codes", "scale"}, refused


def test_tensors_of_several_devices_are_refused() -> None:
    shapes = {"a": (3,), "b": (3,)}
    plan, here = make_plan(shapes), torch.zeros(3)
    there = torch.zeros(3, device="meta")
    with pytest.raises(ValueError, match="tensors lie on cpu, meta: move all to one device"):
        encode({"a": here, "b": there}, plan)
    body = encode({"a": here, "b": here}, plan)
    with pytest.raises(ValueError, match="parameters lie on cpu, meta"):
        aggregate({"a": here, "b": there}, [(body, dict.fromkeys(shapes, 1.0))], plan)


class Operations(TorchFunctionMode):
    """Counts operations of torch, and the bytes of the largest tensor made beside those `given`."""

    def __init__(self, given: Tensors) -> None:
        super().__init__()
        self.count, self.largest_bytes = 0, 0
        self._given = {tensor.untyped_storage().data_ptr() for tensor in given.values()}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.count += 1
        for each in made if isinstance(made, tuple) else [made]:
            if isinstance(each, Tensor):
                self._note(each.untyped_storage())
        return made

    def _note(self, memory: torch.UntypedStorage) -> None:
        if memory.data_ptr() not in self._given:
            self.largest_bytes = max(self.largest_bytes, memory.nbytes())


def operations_of(rows: int) -> Operations:
    shapes = {"a": (rows, 256), "b": (rows, 128)}
    plan, residual, delta = make_plan(shapes), draw(shapes, "zeros", 0), draw(shapes, "usual", 1)
    with Operations({f"delta {n}": t for n, t in delta.items()} | residual) as seen:
        body = encoded(delta, residual, plan, by_torch=True)
        aggregate(residual, [(body, dict.fromkeys(shapes, 1.0))], plan, by_torch=True)
    return seen


def test_the_number_of_operations_does_not_grow_with_the_chunks() -> None:
    """A device that is told chunk by chunk what to do stands idle."""
    assert operations_of(64).count == operations_of(512).count


def test_no_tensor_of_the_models_size_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept values, and room for a block of chunks."""
    for name in ("SELECTED_CHUNKS", "SCORED_CHUNKS", "WRITTEN_CHUNKS"):
        monkeypatch.setattr(encoder, name, 8)
    monkeypatch.setattr(decoder, "READ_CHUNKS", 8)
    model_bytes = 4 * 2048 * 384
    assert operations_of(2048).largest_bytes <= model_bytes / 16
