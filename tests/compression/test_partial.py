"""Bodies of some tensors: the bits of the tensors' own plan, added beside bodies of the model."""

from collections.abc import Collection, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression import (
    CodecError,
    HeldUpdates,
    SparseTensor,
    aggregate,
    check,
    chunk_places,
    decode,
    encode,
    held_plan,
    make_plan,
    short_bytes,
    widen,
)
from compression import decoder as decoder_module
from tests.support.codec_models import SHAPES

MODEL = {f"t{number:02}": shape for number, shape in enumerate(SHAPES)}
PLAN = make_plan(MODEL)
SOME = [name for number, name in enumerate(MODEL) if number % 3 != 1]
PARTS: list[list[str]] = [[], SOME, [n for n in MODEL if n not in SOME], list(MODEL)]


def draw(names: Collection[str], seed: int) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(seed)
    return {
        name: torch.from_numpy(generator.laplace(size=MODEL[name]).astype(np.float32))
        for name in sorted(names)
    }


def short_body(names: Collection[str], seed: int = 0) -> bytes:
    """The body of these tensors as a model of their own."""
    return encode(draw(names, seed), make_plan({name: MODEL[name] for name in names}))


@pytest.mark.parametrize("names", PARTS, ids=["none", "some", "the others", "all"])
def test_a_widened_body_holds_what_the_short_one_holds(names: list[str]) -> None:
    short = short_body(names)
    assert len(short) == short_bytes(PLAN, names)
    wide, plan = widen(short, PLAN, names), held_plan(PLAN, names)
    assert len(wide) == PLAN.num_bytes
    own = make_plan({name: MODEL[name] for name in names})
    expected, found = decode(short, own).tensors, decode(wide, plan).tensors
    for name in MODEL:
        if name in names:
            assert torch.equal(found[name].indices, expected[name].indices)
            assert torch.equal(found[name].values, expected[name].values)
            assert found[name].norm == expected[name].norm
        else:
            assert found[name].values.numel() == 0
    norms = check(wide, plan)
    assert {name: norms[name] for name in names} == check(short, own)
    assert all(norms[name] == 0 for name in MODEL if name not in names)


def add_in_turn(
    target: dict[str, torch.Tensor], tensors: Mapping[str, SparseTensor], factors: dict[str, float]
) -> None:
    for name, factor in factors.items():
        flat, sparse = target[name].view(-1), tensors[name]
        product = sparse.values * torch.tensor(factor, dtype=torch.float32)
        flat[sparse.indices] = flat[sparse.indices] + product


@pytest.mark.parametrize("by_torch", [False, True])
@pytest.mark.parametrize("held_bodies", [1, 2, 10])
def test_whole_and_partial_bodies_are_added_in_turn(
    by_torch: bool, held_bodies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_module, "HELD_BODIES", held_bodies)
    generator = np.random.default_rng(3)
    held = [PARTS[3], PARTS[1], PARTS[2], PARTS[1], PARTS[3], PARTS[0]]
    updates, start = [], {name: tensor.mul_(0) for name, tensor in draw(MODEL, 1).items()}
    # Of zeros the signs too: where no body has values, nothing may be added.
    start = {name: tensor.copysign(draw(MODEL, 5)[name]) for name, tensor in start.items()}
    expected = {name: tensor.clone() for name, tensor in start.items()}
    for seed, names in enumerate(held):
        wide = widen(short_body(names, seed), PLAN, names)
        factors = {name: float(generator.normal()) for name in names}
        updates.append((wide, factors))
        add_in_turn(expected, decode(wide, held_plan(PLAN, names)).tensors, factors)
    found = {name: tensor.clone() for name, tensor in start.items()}
    aggregate(found, updates, PLAN, 2, by_torch)
    later = HeldUpdates(updates, PLAN)
    for name, tensor in start.items():
        later.add_to(tensor, name, 1, by_torch)
        assert found[name].numpy().tobytes() == expected[name].numpy().tobytes(), name
        assert tensor.numpy().tobytes() == expected[name].numpy().tobytes(), name


def test_the_sections_of_other_tensors_are_never_read() -> None:
    wide = np.array(widen(short_body(SOME), PLAN, SOME))
    for name, start, end in zip(PLAN.names, PLAN.starts, PLAN.starts[1:], strict=False):
        if name not in SOME:
            wide[start + 2 : end] = 255
    factors = dict.fromkeys(SOME, 0.5)
    spoilt, clean = draw(MODEL, 8), draw(MODEL, 8)
    for target, body in ((spoilt, wide.tobytes()), (clean, widen(short_body(SOME), PLAN, SOME))):
        for by_torch in (False, True):
            aggregate(target, [(body, factors)], PLAN, 1, by_torch)
        check(body, held_plan(PLAN, SOME))
    assert all(torch.equal(spoilt[name], clean[name]) for name in MODEL)
    with pytest.raises(CodecError):
        check(wide.tobytes(), PLAN)


@pytest.mark.parametrize("change", [-1, 1, -1000])
def test_a_body_of_another_length_is_refused(change: int) -> None:
    short = short_body(SOME)
    wrong = short[:change] if change < 0 else short + bytes(change)
    with pytest.raises(CodecError, match="bytes, not"):
        widen(wrong, PLAN, SOME)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_spoilt_byte_is_found_as_in_the_short_body(data: st.DataObject) -> None:
    short = bytearray(short_body(SOME))
    for _ in range(3):
        place = data.draw(st.integers(0, len(short) - 1))
        short[place] = data.draw(st.integers(0, 255))

    def outcome(body: bytes | memoryview, plan) -> object:
        try:
            norms = check(body, plan)
        except CodecError as error:
            return error.reason
        return {name: norms[name] for name in SOME}

    own = make_plan({name: MODEL[name] for name in SOME})
    wide = widen(bytes(short), PLAN, SOME)
    assert outcome(wide, held_plan(PLAN, SOME)) == outcome(bytes(short), own)


def test_places_of_a_part_are_those_of_the_model() -> None:
    every = np.arange(PLAN.num_chunks)
    whole = encode(draw(MODEL, 2), PLAN)
    sections = zip(PLAN.names, PLAN.starts, PLAN.starts[1:], strict=False)
    short = b"".join(whole[start:end] for name, start, end in sections if name in SOME)
    found = chunk_places(widen(short, PLAN, SOME), PLAN, every, SOME)
    assert 0 < found.size < chunk_places(whole, PLAN, every).size
    assert np.array_equal(found, chunk_places(whole, PLAN, every, SOME))
    assert set(found.tolist()) < set(chunk_places(whole, PLAN, every).tolist())
    assert chunk_places(whole, PLAN, every, ()).size == 0
