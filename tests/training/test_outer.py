"""The outer step against a naive one: dense, one element at a time, exact norms.

Both must give the same bits, since nodes compare digests and not values.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from compression import SparseTensor, exact_norm
from template.protocol.payload import Payload
from template.protocol.root import next_root, tensors_digest
from template.scoring.measure import scored_step
from template.training.alpha import alpha_at
from template.training.outer import (
    OuterState,
    apply_updates,
    clip,
    clip_references,
    coefficients,
    expected_params,
    first_state,
    outer_step,
    scored_coefficients,
    scored_references,
    staleness_weight,
    start_of_miner,
    state_digest,
    step_divisor,
)
from tests.support.outer_steps import decision_on, members_of, naive_lengths, random_payload


def _naive_norm(values: np.ndarray) -> float:
    """Exact until the last two roundings: of the sum, and of its square root."""
    return math.sqrt(float(sum((Fraction(float(v)) ** 2 for v in values), Fraction(0))))


def _dense(sparse: SparseTensor) -> np.ndarray:
    dense = np.zeros(sparse.shape, dtype=np.float32).reshape(-1)
    dense[sparse.indices.numpy()] = sparse.values.numpy()
    return dense


def _naive_references(state: OuterState, present, outer) -> dict[str, float]:
    """`present`: uid -> name -> norm."""
    accepted = [norms for _, members in state.accepted_norms for norms in members]
    found = {}
    for name, tensor in state.params.items():
        ordered = sorted(norms[name] for norms in accepted or present.values())
        found[name] = ordered[(len(ordered) - 1) // 2]
        if not accepted:
            floor = outer.initial_norm_floor * math.sqrt(tensor.numel())
            most = max(outer.initial_norm_share * state.initial_norms[name], floor)
            found[name] = min(found[name], most)
    return found


def _naive_cap(factors, norms, owners, share) -> None:
    """In place: ever more of the largest coldkeys get a common energy, until nobody has more."""
    energies: dict[int, float] = {}
    for owner in set(owners.values()):
        parts = [
            math.fsum((f * norms[uid][name]) ** 2 for name, f in factors[uid].items())
            for uid in factors
            if owners[uid] == owner
        ]
        energies[owner] = math.fsum(parts)
    share = max(share, 2.0 / len(energies))
    ordered = sorted(energies, key=lambda owner: energies[owner])
    for num_cut in range(len(energies)):
        level = share * math.fsum(energies[o] for o in ordered) / (1.0 - share * num_cut)
        if share * (num_cut + 1) >= 1 or energies[ordered[-1]] <= level:
            break
        ordered.pop()
    for uid in factors:
        if energies[owners[uid]] > level:
            scale = math.sqrt(level / energies[owners[uid]])
            factors[uid] = {name: f * scale for name, f in factors[uid].items()}


def _usual(state: OuterState) -> int:
    counts = sorted(len(members) for _, members in state.accepted_norms)
    return counts[(len(counts) - 1) // 2] if counts else 0


def _naive_params(state: OuterState, payloads: Mapping[int, Payload], outer, owners=None) -> dict:
    """theta - alpha * sum of w c g delta with numpy scalars, payload after payload."""
    dense = {u: {n: _dense(t) for n, t in p.tensors.items()} for u, p in payloads.items()}
    norms = {u: {n: _naive_norm(d[d != 0]) for n, d in ds.items()} for u, ds in dense.items()}
    references = _naive_references(state, norms, outer)
    factors: dict[int, Any] = {}
    for uid in sorted(payloads):
        header = payloads[uid].header
        share = 1.0
        for _ in range(header.window - header.base_window):
            share *= outer.staleness_decay
        share /= max(len(payloads), outer.min_divisor, _usual(state))
        factors[uid] = {}
        for name, norm in norms[uid].items():
            limit = outer.clip_factor * references[name]
            factors[uid][name] = outer.outer_lr * share * (1.0 if norm <= limit else limit / norm)
    owners = owners or {uid: uid for uid in payloads}
    naive_lengths(factors, norms, owners, outer.max_length_ratio)
    _naive_cap(factors, norms, owners, outer.max_energy_share)
    after = {name: tensor.numpy().copy().reshape(-1) for name, tensor in state.params.items()}
    for uid in sorted(payloads):
        for name, values in dense[uid].items():
            for i in np.flatnonzero(values):
                after[name][i] += np.float32(-factors[uid][name]) * values[i]
    return {
        name: torch.from_numpy(flat).view(state.params[name].shape) for name, flat in after.items()
    }


@pytest.fixture
def state(theta0, spec) -> OuterState:
    return first_state(theta0, spec.run_id)


@pytest.mark.parametrize(
    "scales", [(1e-4,), (1e-2, 1e-2), (1e-5, 5e-2, 2.0), (1e-2, 4e-3, 5e-3, 3e-3, 6e-3)]
)
def test_a_step_has_the_bits_of_the_naive_one(scales, state, spec, form) -> None:
    payloads = {5 * i + 2: random_payload(form, i, scale=s) for i, s in enumerate(scales)}
    after = outer_step(state, decision_on(0, payloads), payloads, spec)
    assert tensors_digest(after.params) == tensors_digest(
        _naive_params(state, payloads, spec.outer)
    )
    assert tensors_digest(after.params) != tensors_digest(state.params)


def test_later_steps_clip_by_the_median_and_weigh_by_staleness(state, spec, form) -> None:
    for window in range(3):
        payloads = {
            uid: random_payload(
                form,
                10 * window + uid,
                scale=10.0 ** (uid - 3),
                window=window,
                staleness=min(uid, window),
            )
            for uid in range(3)
        }
        expected = _naive_params(state, payloads, spec.outer)
        state = outer_step(state, decision_on(window, payloads), payloads, spec)
        assert tensors_digest(state.params) == tensors_digest(expected), window
    assert [window for window, _ in state.accepted_norms] == [0, 1, 2]


@pytest.mark.parametrize("ratio", [1.0, 1.25, 1.5])
def test_a_step_cuts_what_is_longer_than_usual_in_its_window(ratio, state, spec, form) -> None:
    """Also where the norms of windows before allow far more, as after a fall of the rate."""
    outer = dataclasses.replace(spec.outer, max_length_ratio=ratio)
    spec = dataclasses.replace(spec, outer=outer)
    for window, scales in enumerate(([1.0] * 5, [0.2, 0.21, 0.22, 0.3, 0.9])):
        payloads = {
            uid: random_payload(form, 10 * window + uid, scale=0.01 * scale, window=window)
            for uid, scale in enumerate(scales)
        }
        before, expected = state, _naive_params(state, payloads, outer)
        state = outer_step(state, decision_on(window, payloads), payloads, spec)
        assert tensors_digest(state.params) == tensors_digest(expected), window
    free = dataclasses.replace(outer, max_length_ratio=0.0)
    uncut = outer_step(
        before, decision_on(1, payloads), payloads, dataclasses.replace(spec, outer=free)
    )
    assert tensors_digest(uncut.params) != tensors_digest(state.params)


def test_the_order_in_which_payloads_arrive_does_not_matter(state, spec, form) -> None:
    payloads = {uid: random_payload(form, uid, scale=0.03 * (uid + 1)) for uid in range(4)}
    backwards = dict(reversed(payloads.items()))
    one = outer_step(state, decision_on(0, payloads), payloads, spec)
    other = outer_step(state, decision_on(0, payloads), backwards, spec)
    assert tensors_digest(one.params) == tensors_digest(other.params)
    assert one.root == other.root
    assert one.accepted_norms == other.accepted_norms


def test_an_empty_set_moves_the_root_and_the_window_only(state, spec) -> None:
    after = outer_step(state, decision_on(0, ()), {}, spec)
    assert tensors_digest(after.params) == tensors_digest(state.params)
    assert after.window == state.window + 1
    assert after.root == next_root(state.root, 0, (), b"", 5, 0) != state.root
    assert after.accepted_norms == ()
    assert after.reference_rao == 5


def test_a_member_whose_payload_is_none_is_in_the_root_and_not_in_the_step(
    state, spec, form
) -> None:
    good = {1: random_payload(form, 1)}
    alone = outer_step(state, decision_on(0, {1}), good, spec)
    beside = outer_step(state, decision_on(0, {1, 2}), good, spec)
    assert tensors_digest(alone.params) == tensors_digest(beside.params)
    assert alone.root != beside.root


def test_a_lone_payload_moves_no_more_than_its_share(state, spec, form) -> None:
    payloads = {0: random_payload(form, 1, scale=30.0)}
    after = outer_step(state, decision_on(0, payloads), payloads, spec)
    references = clip_references(state, spec.outer)
    for name, tensor in state.params.items():
        moved = float((after.params[name] - tensor).double().norm())
        limit = spec.outer.outer_lr * spec.outer.clip_factor * references[name]
        assert moved == pytest.approx(limit / spec.outer.min_divisor, rel=1e-4), name


@pytest.mark.parametrize(
    ("before", "count", "expected"),
    [
        ((), 1, 2),
        ((), 2, 2),
        ((), 3, 3),
        ((5,), 1, 5),
        ((5,), 5, 5),
        ((5,), 6, 6),
        ((4, 5), 1, 4),
        ((1, 1, 5), 1, 2),
        ((5, 3, 1), 2, 3),
        ((0, 0, 4), 1, 4),
    ],
)
def test_a_step_is_divided_by_no_less_than_is_usual(
    before, count: int, expected: int, state, spec, form
) -> None:
    """With n_min 2; windows that accepted nothing do not count."""
    outer = dataclasses.replace(spec.outer, min_divisor=2)
    for window, accepted in enumerate(before):
        payloads = {uid: random_payload(form, uid + 1, window=window) for uid in range(accepted)}
        state = outer_step(state, decision_on(window, payloads), payloads, spec)
    assert step_divisor(state, count, outer) == expected


def test_where_most_are_refused_those_left_do_not_weigh_more(state, spec, form) -> None:
    spec = dataclasses.replace(spec, outer=dataclasses.replace(spec.outer, min_divisor=2))
    for window, count in enumerate((5, 5, 1)):
        payloads = {uid: random_payload(form, uid + 1, window=window) for uid in range(count)}
        before, expected = state, _naive_params(state, payloads, spec.outer)
        state = outer_step(state, decision_on(window, payloads), payloads, spec)
        assert tensors_digest(state.params) == tensors_digest(expected)
    norms = payloads[0].norms
    for name, tensor in state.params.items():
        references = clip_references(before, spec.outer)
        alpha = spec.outer.outer_lr
        factor = coefficients(alpha, 0, norms, references, spec.outer, 5)[name]
        moved = float((tensor - before.params[name]).double().norm())
        assert moved == pytest.approx(factor * norms[name], rel=1e-4), name


def test_apply_updates_leaves_its_input_alone(theta0, form) -> None:
    before = tensors_digest(theta0)
    payload = random_payload(form, 1)
    after = apply_updates(theta0, [(payload, dict.fromkeys(theta0, 0.5))])
    assert tensors_digest(theta0) == before
    assert tensors_digest(after) != before
    assert all(after[n].data_ptr() != theta0[n].data_ptr() for n in theta0)


def test_a_window_out_of_turn_is_refused(state, spec) -> None:
    for window in (1, -1):
        with pytest.raises(ValueError, match="cannot follow theta_1"):
            outer_step(state, decision_on(window, ()), {}, spec)


def test_a_checkpoint_digest_enters_exactly_one_root(state, spec) -> None:
    spec = dataclasses.replace(
        spec, checkpoint=dataclasses.replace(spec.checkpoint, every_windows=3)
    )
    states = [state]
    for window in range(5):
        states.append(outer_step(states[-1], decision_on(window, ()), {}, spec))
    carrying = [s.window for s in states if s.checkpoint_digest]
    assert carrying == [3, 6]
    for before, after in itertools.pairwise(states):
        digest = state_digest(before) if before.window in carrying else b""
        assert before.checkpoint_digest == digest
        assert after.root == next_root(before.root, before.window - 1, (), digest, 5, 0)


@pytest.mark.parametrize("field", ["params", "accepted_norms", "reference_rao", "window"])
def test_the_checkpoint_digest_covers_all_that_is_carried(field, state, spec) -> None:
    changed = {
        "params": {**state.params, "lm_head.weight": torch.zeros(1)},
        "accepted_norms": ((0, (dict.fromkeys(state.params, 1.0),)),),
        "reference_rao": 1,
        "window": 2,
    }
    other = dataclasses.replace(state, **{field: changed[field]})
    assert state_digest(other) != state_digest(state)


def test_norms_and_stakes_are_forgotten_after_their_windows(state, spec, form) -> None:
    outer = dataclasses.replace(spec.outer, clip_windows=2, reference_windows=2)
    spec = dataclasses.replace(spec, outer=outer)
    for window, stake_rao in enumerate((40, 9, 2, 3, 1)):
        payloads = {0: random_payload(form, 1, window=window)} if window != 3 else {}
        state = outer_step(state, decision_on(window, payloads, stake_rao), payloads, spec)
    assert [window for window, _ in state.accepted_norms] == [4]
    # 40, halved from window to window, with the loss rounded up.
    assert state.reference_rao == 2


@pytest.mark.parametrize(
    ("norm", "expected"),
    [(0.0, 1.0), (1.0, 1.0), (3.0, 1.0), (math.nextafter(3.0, 4.0), 3.0 / 3.0000000000000004)],
)
def test_clip_at_its_boundary(norm: float, expected: float) -> None:
    assert clip(norm, reference=1.5, factor=2.0) == expected


def test_clip_brings_a_norm_to_the_limit_and_survives_a_reference_of_zero() -> None:
    assert clip(12.0, reference=1.5, factor=2.0) * 12.0 == 3.0
    assert clip(12.0, reference=0.0, factor=2.0) == 0.0
    assert clip(0.0, reference=0.0, factor=2.0) == 1.0


@pytest.mark.parametrize(
    ("norms", "median"), [((3.0,), 3.0), ((4.0, 1.0), 1.0), ((9.0, 2.0, 4.0, 3.0), 3.0)]
)
def test_the_reference_is_the_lower_median_over_payloads(norms, median, state, spec) -> None:
    windows = tuple((w, (dict.fromkeys(state.params, n),)) for w, n in enumerate(norms))
    accepted = dataclasses.replace(state, accepted_norms=windows)
    assert set(clip_references(accepted, spec.outer).values()) == {median}


def test_before_any_acceptance_the_reference_is_the_windows_median_bounded_by_theta_0(
    state, spec
) -> None:
    zeroed = dataclasses.replace(state, initial_norms=dict.fromkeys(state.params, 0.0))
    shares, floors = (clip_references(s, spec.outer) for s in (state, zeroed))
    outer = spec.outer
    for name, tensor in state.params.items():
        assert floors[name] == outer.initial_norm_floor * math.sqrt(tensor.numel())
        assert shares[name] == max(outer.initial_norm_share * exact_norm(tensor), floors[name])
    assert any(shares[name] > floors[name] for name in shares)

    def beside(*multiples: float) -> dict[str, float]:
        norms = [{name: m * limit for name, limit in shares.items()} for m in multiples]
        return clip_references(state, outer, norms)

    assert beside(900.0, 0.25, 0.5, 1e-9) == {n: 0.25 * limit for n, limit in shares.items()}
    assert beside(3.0, 900.0) == beside() == shares
    later = dataclasses.replace(state, accepted_norms=((0, (dict.fromkeys(shares, 7.0),)),))
    assert set(clip_references(later, outer, [dict.fromkeys(shares, 1.0)]).values()) == {7.0}


@pytest.mark.parametrize("scale", [10.0, 1e4])
def test_a_magnified_payload_cannot_move_the_first_step_far(scale, state, spec, form) -> None:
    """Beside three honest ones: at most as far as kappa of their median."""
    honest = {uid: random_payload(form, uid + 1, scale=1e-4) for uid in range(3)}
    payloads = {**honest, 3: random_payload(form, 9, scale=1e-4 * scale)}
    lengths = [
        math.sqrt(
            sum(float((after[n] - state.params[n]).double().norm()) ** 2 for n in state.params)
        )
        for after in (
            expected_params(state, members_of(uids), {u: payloads[u] for u in uids}, spec)
            for uids in (honest, payloads)
        )
    ]
    assert lengths[0] < lengths[1] < (1 + spec.outer.clip_factor) * lengths[0]


def test_the_payloads_of_one_coldkey_together_have_no_more_than_their_share(
    state, spec, form
) -> None:
    """Five of ten hotkeys are one owner's: 5/10 of the energy without, 2/6 with the cap."""
    payloads = {uid: random_payload(form, uid + 1, scale=1e-4) for uid in range(10)}
    owners = {uid: min(uid, 5) for uid in payloads}
    outer = dataclasses.replace(spec.outer, outer_lr=1.0, max_length_ratio=0.0)
    spec = dataclasses.replace(spec, outer=outer)
    after = outer_step(state, decision_on(0, payloads, owners=owners), payloads, spec)
    expected = _naive_params(state, payloads, spec.outer, owners)
    assert tensors_digest(after.params) == tensors_digest(expected)
    apart = outer_step(state, decision_on(0, payloads), payloads, spec)
    assert tensors_digest(apart.params) != tensors_digest(after.params)
    assert apart.root != after.root
    one = outer_step(
        state, decision_on(0, payloads, owners=dict.fromkeys(payloads, 1)), payloads, spec
    )
    assert tensors_digest(one.params) == tensors_digest(apart.params), "nobody to compare with"


def test_staleness_weights() -> None:
    assert [staleness_weight(s, 0.5) for s in range(4)] == [1.0, 0.5, 0.25, 0.125]
    assert staleness_weight(3, 0.9) == 0.9 * 0.9 * 0.9


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_exact_norm_is_the_rounded_root_of_the_exact_sum(scale: float) -> None:
    values = torch.randn(257, generator=torch.Generator().manual_seed(1)) * scale
    values[::5] *= 1e-6
    assert exact_norm(values) == _naive_norm(values.numpy())
    assert exact_norm(values.flip(0)) == exact_norm(values)
    assert exact_norm(torch.zeros(3)) == 0.0


def test_the_norm_that_a_payload_carries_is_that_of_its_values(form) -> None:
    for sparse in random_payload(form, 4, scale=0.3).tensors.values():
        assert isinstance(sparse, SparseTensor)
        assert sparse.norm == exact_norm(sparse.values) > 0


def test_a_payload_is_scored_as_it_is_applied(spec, theta0) -> None:
    """A share of its step, clipped alike; before anything was accepted, by the window's median."""
    outer = dataclasses.replace(spec.outer, clip_factor=2.0, outer_lr=3.0)
    references = {"a": 1.0, "b": 1.0}
    for norm, length in ((0.5, 0.5), (1.5, 1.5), (2.0, 2.0), (40.0, 2.0)):
        norms = {"a": norm, "b": 0.1}
        scored = scored_coefficients(3.0, 0, norms, references, outer, 0.25)
        applied = coefficients(3.0, 0, norms, references, outer, 4.0)
        assert scored == applied
        assert scored["a"] * norm == pytest.approx(0.25 * 3.0 * length)

    state = first_state(theta0, spec.run_id)
    limits = clip_references(state, outer)
    present = [{n: scale * v for n, v in limits.items()} for scale in (0.6, 0.75, 0.9, 900.0)]
    assert scored_references(state, present, outer) == {n: 0.75 * v for n, v in limits.items()}
    assert scored_references(state, [], outer) == limits
    huge, empty = [dict.fromkeys(theta0, 1e9)] * 3, [dict.fromkeys(theta0, 0.0)] * 3
    assert scored_references(state, huge, outer) == limits
    floors = {n: outer.initial_norm_floor * math.sqrt(t.numel()) for n, t in theta0.items()}
    assert scored_references(state, empty, outer) == floors
    assert min(floors.values()) > 0
    later = dataclasses.replace(state, accepted_norms=((0, (present[0],)),))
    for others in (present, huge, empty, []):
        assert scored_references(later, others, outer) == present[0], "known before the window"


def test_expected_parameters_are_those_of_the_outer_step_bit_for_bit(spec, theta0, form) -> None:
    state, payloads = (
        first_state(theta0, spec.run_id),
        {u: random_payload(form, u + 1) for u in range(4)},
    )
    after = outer_step(state, decision_on(0, payloads), payloads, spec)
    expected = expected_params(state, members_of(payloads), payloads, spec)
    assert tensors_digest(expected) == tensors_digest(after.params) != tensors_digest(theta0)
    fewer = expected_params(state, members_of(range(3)), payloads, spec)
    assert tensors_digest(fewer) != tensors_digest(expected)
    lacking = expected_params(state, members_of(range(9)), payloads, spec)
    assert tensors_digest(lacking) == tensors_digest(expected)
    assert tensors_digest(expected_params(state, (), payloads, spec)) == tensors_digest(theta0)


@pytest.mark.parametrize("pace", [-1, 1])
def test_a_pace_moves_alpha_after_the_step_of_its_window(state, spec, form, pace) -> None:
    """theta moves by the alpha of the state before, and the next theta by the alpha after."""
    payloads = {uid: random_payload(form, uid + 1) for uid in range(3)}
    moved, still = (
        outer_step(state, dataclasses.replace(decision_on(0, payloads), pace=p), payloads, spec)
        for p in (pace, 0)
    )
    assert tensors_digest(moved.params) == tensors_digest(still.params)
    assert (moved.exponent, still.exponent) == (pace, 0)
    assert moved.root != still.root
    payloads = {uid: random_payload(form, uid + 9, window=1) for uid in range(3)}
    alpha = alpha_at(pace, spec.outer.outer_lr)
    expected = _naive_params(moved, payloads, dataclasses.replace(spec.outer, outer_lr=alpha))
    after = outer_step(moved, decision_on(1, payloads), payloads, spec)
    assert tensors_digest(after.params) == tensors_digest(expected)
    assert after.exponent == pace


def test_an_exponent_is_part_of_the_checkpoint_digest(state, spec) -> None:
    other = dataclasses.replace(state, exponent=1)
    assert state_digest(state) != state_digest(other)


@pytest.mark.parametrize("exponent", [-64, 0, 5, 64])
def test_a_miner_starts_and_a_payload_is_scored_at_the_alpha_of_the_state(
    state, spec, form, exponent
) -> None:
    spec = dataclasses.replace(spec, outer=dataclasses.replace(spec.outer, outer_lr=0.5))
    alpha, payload = alpha_at(exponent, 0.5), random_payload(form, 1)
    at = dataclasses.replace(state, exponent=exponent)
    as_first = dataclasses.replace(spec, outer=dataclasses.replace(spec.outer, outer_lr=alpha))
    started = start_of_miner(at, [payload], spec)
    assert tensors_digest(started) == tensors_digest(start_of_miner(state, [payload], as_first))
    references = scored_references(at, [payload.norms], spec.outer)
    scored = scored_step(payload, references, at, spec)
    assert scored.coefficients == scored_step(payload, references, state, as_first).coefficients
