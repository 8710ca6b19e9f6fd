"""Where a miner starts whose own payload is under way: ahead by as much as that will count."""

import dataclasses

import numpy as np
import pytest
import torch

from template.training.outer import (
    clip,
    clip_references,
    first_state,
    outer_step,
    staleness_weight,
    start_of_miner,
)
from tests.support.outer_steps import decision_on, random_payload


def _with_share(spec, share: float):
    return dataclasses.replace(
        spec, training=dataclasses.replace(spec.training, own_update_share=share)
    )


def test_a_miner_starts_ahead_by_its_own_payload(spec, theta0, form) -> None:
    """theta less share * alpha * lambda^s * c * delta: as two float32 operations."""
    state, payload = (
        first_state(theta0, spec.run_id),
        random_payload(form, 3, staleness=1, window=1),
    )
    for share in (0.5, 1.0):
        ahead = start_of_miner(state, [payload], _with_share(spec, share))
        references = clip_references(state, spec.outer)
        for name, sparse in payload.tensors.items():
            weight = staleness_weight(1, spec.outer.staleness_decay) / (1 / share)
            c = clip(sparse.norm, references[name], spec.outer.clip_factor)
            expected = theta0[name].numpy().copy().reshape(-1)
            factor = np.float32(-(spec.outer.outer_lr * weight * c))
            expected[sparse.indices.numpy()] += sparse.values.numpy() * factor
            assert np.array_equal(ahead[name].numpy().reshape(-1), expected)
            assert not torch.equal(ahead[name], theta0[name])


def test_the_mean_of_all_starts_is_theta_after_the_update_under_way(spec, theta0, form) -> None:
    """What makes a share of 1 the right one: in the mean nobody is late. Lengths are not capped:
    small random tensors differ by more than honest ones.
    """
    spec = _with_share(spec, 1.0)
    outer = dataclasses.replace(spec.outer, min_divisor=5, max_length_ratio=0.0)
    spec = dataclasses.replace(spec, outer=outer)
    state = first_state(theta0, spec.run_id)
    payloads = {uid: random_payload(form, uid + 1) for uid in range(5)}
    starts = [start_of_miner(state, [payload], spec) for payload in payloads.values()]
    after = outer_step(state, decision_on(0, payloads), payloads, spec)
    for name, expected in after.params.items():
        mean = torch.stack([start[name] for start in starts]).double().mean(dim=0)
        assert torch.allclose(mean, expected.double(), atol=1e-7)
        assert not torch.allclose(mean, theta0[name].double(), atol=1e-7)


@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (1.0, 0)])
def test_without_a_share_or_a_payload_a_miner_starts_from_theta(
    spec, theta0, form, share: float, count: int
) -> None:
    state, payloads = first_state(theta0, spec.run_id), [random_payload(form, 3)][:count]
    assert start_of_miner(state, payloads, _with_share(spec, share)) is state.params


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_miners_start_ahead_by_no_more_than_is_applied(spec, theta0, form, count: int) -> None:
    """With n_min 2: a lone one's payload will count half, so it takes half of it."""
    spec = _with_share(spec, 1.0)
    outer = dataclasses.replace(spec.outer, min_divisor=2, max_length_ratio=0.0)
    spec = dataclasses.replace(spec, outer=outer)
    payloads = {uid: random_payload(form, uid + 1) for uid in range(count)}
    state = outer_step(first_state(theta0, spec.run_id), decision_on(0, payloads), payloads, spec)
    again = {uid: random_payload(form, uid + 50, window=1) for uid in range(count)}
    starts = [start_of_miner(state, [payload], spec) for payload in again.values()]
    after = outer_step(state, decision_on(1, again), again, spec)
    for name, expected in after.params.items():
        mean = torch.stack([start[name] for start in starts]).double().mean(dim=0)
        assert torch.allclose(mean, expected.double(), atol=1e-7)
