"""Outer steps with payloads of a part of the model: tensor by tensor, against a naive reference."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from template.protocol.payload import (
    Payload,
    PayloadFormat,
    PayloadHeader,
    decode_payload,
    encode_payload,
)
from template.protocol.ranges import WHOLE, BlockRange
from template.protocol.spec import OuterSpec, RunSpec
from template.training.model import Params
from template.training.outer import (
    OuterState,
    clip,
    clip_references,
    coefficients,
    first_state,
    has_usual_norms,
    outer_step,
    scored_references,
    staleness_weight,
    start_of_miner,
    step_divisor,
    step_divisors,
)
from template.training.scorer import Scorer
from tests.support.outer_steps import decision_on, naive_lengths

LOW, HIGH = BlockRange(part=0, parts=2), BlockRange(part=1, parts=2)


@pytest.fixture(scope="module")
def halves(form: PayloadFormat) -> PayloadFormat:
    return dataclasses.replace(form, max_parts=2)


@pytest.fixture
def start(theta0: Params, spec: RunSpec) -> OuterState:
    return first_state(theta0, spec.run_id)


def payload_of(
    form: PayloadFormat,
    blocks: BlockRange,
    seed: int,
    *,
    scale: float = 1e-2,
    window: int = 0,
    staleness: int = 0,
) -> Payload:
    generator = torch.Generator().manual_seed(seed)
    dense = {n: torch.randn(s, generator=generator) * scale for n, s in form.shapes.items()}
    header = PayloadHeader(
        window=window,
        base_window=window - staleness,
        pages_consumed=1,
        public_key=bytes([seed]) * 32,
        blocks=blocks,
    )
    return decode_payload(encode_payload(header, dense, form)[0], form)


def naive_params(
    state: OuterState, payloads: Mapping[int, Payload], outer: OuterSpec
) -> dict[str, np.ndarray]:
    """Coefficients as doubles, tensor by tensor; then float32 products added one after another.

    Of payloads whose coldkeys are their own.
    """
    history = [members for _, members in state.accepted_norms]
    factors: dict[int, dict[str, float]] = {uid: {} for uid in payloads}
    for name, tensor in state.params.items():
        holders = [uid for uid in sorted(payloads) if name in payloads[uid].norms]
        counts = sorted(len([norms for norms in members if name in norms]) for members in history)
        usual = counts[(len(counts) - 1) // 2] if counts else 0
        divisor = max(len(holders), outer.min_divisor, usual)
        before = sorted(norms[name] for members in history for norms in members if name in norms)
        own = sorted(payloads[uid].norms[name] for uid in holders)
        floor = outer.initial_norm_floor * math.sqrt(tensor.numel())
        most = max(outer.initial_norm_share * state.initial_norms[name], floor)
        if before:
            reference = before[(len(before) - 1) // 2]
        else:
            reference = min(most, own[(len(own) - 1) // 2]) if own else most
        for uid in holders:
            header, norm = payloads[uid].header, payloads[uid].norms[name]
            weight = 1.0
            for _ in range(header.window - header.base_window):
                weight *= outer.staleness_decay
            limit = outer.clip_factor * reference
            cut = 1.0 if norm <= limit else limit / norm
            factors[uid][name] = outer.outer_lr * (weight / divisor) * cut
    norms = {uid: payload.norms for uid, payload in payloads.items()}
    naive_lengths(factors, norms, {uid: uid for uid in payloads}, outer.max_length_ratio)
    naive_cap(factors, payloads, outer.max_energy_share)
    after = {name: tensor.numpy().copy().reshape(-1) for name, tensor in state.params.items()}
    for uid in sorted(payloads):
        for name, sparse in payloads[uid].tensors.items():
            factor = np.float32(-factors[uid][name])
            for index, value in zip(sparse.indices.tolist(), sparse.values.numpy(), strict=True):
                after[name][index] += factor * value
    return after


def naive_cap(
    factors: dict[int, dict[str, float]], payloads: Mapping[int, Payload], share: float
) -> None:
    """In place: energies over shares of the model, ever more of the largest cut to one level."""
    dense = {
        uid: math.fsum((f * payloads[uid].norms[n]) ** 2 for n, f in by_name.items())
        / payloads[uid].share
        for uid, by_name in factors.items()
    }
    share = max(share, 2.0 / len(dense))
    kept = sorted(dense, key=lambda uid: dense[uid])
    for num_cut in range(len(dense)):
        level = share * math.fsum(dense[uid] for uid in kept) / (1.0 - share * num_cut)
        if share * (num_cut + 1) >= 1 or dense[kept[-1]] <= level:
            break
        kept.pop()
    for uid, by_name in factors.items():
        if dense[uid] > level:
            scale = math.sqrt(level / dense[uid])
            factors[uid] = {name: f * scale for name, f in by_name.items()}


def assert_naive(state: OuterState, payloads: Mapping[int, Payload], spec: RunSpec) -> OuterState:
    after = outer_step(state, decision_on(state.window - 1, payloads), payloads, spec)
    expected = naive_params(state, payloads, spec.outer)
    held = {name for payload in payloads.values() for name in payload.norms}
    for name, tensor in after.params.items():
        assert tensor.numpy().tobytes() == expected[name].tobytes(), name
        before = state.params[name].numpy().tobytes()
        assert (tensor.numpy().tobytes() != before) == (name in held), name
    return after


MIXES: Sequence[Sequence[BlockRange]] = [
    (LOW,),
    (WHOLE, LOW),
    (HIGH, WHOLE, LOW, HIGH),
    (HIGH,) * 6,
    (LOW, HIGH, *(LOW,) * 5, WHOLE),
]


def window_of(
    form: PayloadFormat, mix: Sequence[BlockRange], window: int, scale: float = 1e-2
) -> dict[int, Payload]:
    return {
        3 * i + 1: payload_of(
            form,
            blocks,
            10 * window + i + 1,
            scale=scale * (1 + i),
            window=window,
            staleness=min(window, i % 2),
        )
        for i, blocks in enumerate(mix)
    }


@pytest.mark.parametrize("mix", MIXES, ids=range(len(MIXES)))
def test_mixed_steps_have_the_bits_of_the_naive_one(mix, start, spec, halves) -> None:
    """The first window, without history; then with a history of these payloads alone."""
    assert not start.accepted_norms
    state = assert_naive(start, window_of(halves, mix, 0), spec)
    for window, next_mix in ((1, mix), (2, (LOW, WHOLE)), (3, mix[::-1])):
        state = assert_naive(state, window_of(halves, next_mix, window), spec)
    assert len(state.accepted_norms) == 4


def test_a_tensor_that_nobody_holds_keeps_its_bits_and_its_first_bounds(start, spec, halves):
    low = halves.part(LOW).names
    payloads = window_of(halves, (LOW, LOW, LOW), 0)
    after = outer_step(start, decision_on(0, payloads), payloads, spec)
    assert not has_usual_norms(after)
    assert has_usual_norms(dataclasses.replace(after, initial_norms=dict.fromkeys(low, 1.0)))
    whole = payload_of(halves, WHOLE, 99, scale=20.0)
    references, first = (clip_references(s, spec.outer, [whole.norms]) for s in (after, start))
    for name, tensor in start.params.items():
        if name in low:
            assert references[name] == statistics.median_low(
                p.norms[name] for p in payloads.values()
            )
        else:
            assert torch.equal(after.params[name], tensor)
            assert references[name] == first[name] < whole.norms[name]
    # Nobody's norm before the vote is a floor for tensors that have no history.
    empty = [dict.fromkeys(halves.shapes, 0.0)]
    scored = scored_references(after, empty, spec.outer)
    assert all(scored[name] > 0 for name in halves.shapes)


def test_divisors_count_the_holders_of_a_tensor(start, spec, halves) -> None:
    outer = dataclasses.replace(spec.outer, min_divisor=2)
    norms = [payload_of(halves, b, i + 1).norms for i, b in enumerate((LOW, LOW, LOW, WHOLE))]
    divisors = step_divisors(start, norms, outer)
    low = halves.part(LOW).names
    assert divisors == {name: 4 if name in low else 2 for name in halves.shapes}
    later = dataclasses.replace(
        start, accepted_norms=((0, tuple(norms)), (1, tuple(norms)), (2, (norms[3],)))
    )
    few = step_divisors(later, norms[3:], outer)
    assert few == {name: 4 if name in low else 2 for name in halves.shapes}


def test_steps_of_whole_payloads_are_those_of_the_version_before(start, spec, halves) -> None:
    """Its formula: one divisor, of all payloads, for all tensors."""
    outer, state = spec.outer, start
    for window, count in enumerate((1, 5, 3)):
        payloads = window_of(halves, (WHOLE,) * count, window)
        norms = [payload.norms for payload in payloads.values()]
        counts = [len(members) for _, members in state.accepted_norms]
        usual = statistics.median_low(counts) if counts else 0
        divisor = max(count, outer.min_divisor, usual)
        assert step_divisor(state, count, outer) == divisor
        assert step_divisors(state, norms, outer) == dict.fromkeys(halves.shapes, divisor)
        references = clip_references(state, outer, norms)
        for payload in payloads.values():
            share = staleness_weight(payload.header.staleness, outer.staleness_decay) / divisor
            assert coefficients(
                0.7, payload.header.staleness, payload.norms, references, outer, divisor
            ) == {
                name: 0.7 * share * clip(norm, references[name], outer.clip_factor)
                for name, norm in payload.norms.items()
            }
        state = assert_naive(state, payloads, spec)


@pytest.mark.parametrize("blocks", [LOW, HIGH, WHOLE], ids=str)
@pytest.mark.parametrize("last", [None, (WHOLE,), (LOW, LOW, LOW), (LOW, WHOLE, WHOLE)])
def test_a_miner_of_a_part_starts_ahead_in_its_tensors(blocks, last, start, spec, halves) -> None:
    """By share * count / divisor: of the holders in the last window, one where there is none."""
    state = start
    if last is not None:
        norms = tuple(payload_of(halves, b, i + 1).norms for i, b in enumerate(last))
        before = tuple(payload_of(halves, WHOLE, 7).norms for _ in range(5))
        state = dataclasses.replace(start, accepted_norms=((0, before), (1, before), (2, norms)))
    training = dataclasses.replace(spec.training, own_update_share=0.75)
    spec = dataclasses.replace(spec, training=training)
    payload = payload_of(halves, blocks, 8)
    ahead = start_of_miner(state, [payload], spec)
    references = clip_references(state, spec.outer, [payload.norms])
    for name, tensor in start.params.items():
        if name not in payload.norms:
            assert ahead[name].numpy().tobytes() == tensor.numpy().tobytes(), name
            continue
        share, sparse = 0.75, payload.tensors[name]
        if last is not None:
            count = max(1, sum(name in norms for norms in state.accepted_norms[-1][1]))
            share *= count / max(count, spec.outer.min_divisor, 5)
        cut = clip(sparse.norm, references[name], spec.outer.clip_factor)
        factor = np.float32(-(spec.outer.outer_lr * (1.0 / (1.0 / share)) * cut))
        expected = tensor.numpy().copy().reshape(-1)
        expected[sparse.indices.numpy()] += sparse.values.numpy() * factor
        assert ahead[name].numpy().tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("blocks", [LOW, HIGH], ids=str)
def test_a_scored_step_of_a_part_moves_no_other_tensor_and_is_taken_back(
    blocks, theta0, spec, halves
) -> None:
    scorer, payload = Scorer(spec, "cpu"), payload_of(halves, blocks, 4)
    scorer.load(theta0)
    pages = np.random.default_rng(1).integers(0, 256, size=(3, spec.data.page_tokens))
    before = scorer.losses(pages)
    factors = dict.fromkeys(payload.norms, 0.3)
    with scorer.stepped_by(payload, factors):
        inside, losses = scorer.params(), scorer.losses(pages)
    assert (losses != before).any()
    for name, tensor in theta0.items():
        is_same = inside[name].numpy().tobytes() == tensor.numpy().tobytes()
        assert is_same == (name not in payload.norms), name
    restored = scorer.params()
    for name, tensor in theta0.items():
        assert restored[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    assert scorer.losses(pages).tobytes() == before.tobytes()
