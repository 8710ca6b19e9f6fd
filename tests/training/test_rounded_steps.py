"""A theta with a checkpoint is rounded to 24 bits, wherever a node makes it."""

import dataclasses

import pytest
import torch

from template.protocol.root import tensors_digest
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.sync.recovery import replay_steps, step_from, take_back
from template.training.outer import (
    OuterState,
    apply_updates,
    expected_params,
    first_state,
    has_checkpoint,
    outer_step,
    params_digest,
    previewed_params,
    updated_when_read,
)
from template.training.published import build_checkpoint, parse_published, restore_published
from tests.support.outer_steps import decision_on, members_of, random_payload
from tests.support.states import equal_states, short

EVERY = 3


@pytest.fixture
def spaced(spec) -> RunSpec:
    checkpoint = dataclasses.replace(spec.checkpoint, every_windows=EVERY)
    return dataclasses.replace(spec, checkpoint=checkpoint)


@pytest.fixture
def start(theta0, spaced) -> OuterState:
    return first_state(theta0, spaced.run_id)


def _payloads(form, window: int) -> dict:
    return {uid: random_payload(form, 10 * window + uid, window=window) for uid in range(2)}


def _is_short(params) -> bool:
    return tensors_digest(params) == tensors_digest(short(params))


def test_theta_is_rounded_where_a_checkpoint_is_due_and_nowhere_else(start, spaced, form) -> None:
    state, seen = start, {}
    for window in range(2 * EVERY):
        payloads = _payloads(form, window)
        plain = outer_step(
            state, decision_on(window, payloads), payloads, _of_distance(spaced, 10**4)
        )
        members = members_of(payloads)
        expected = expected_params(state, members, payloads, spaced)
        preview = previewed_params(state, members, payloads, spaced)
        state = outer_step(state, decision_on(window, payloads), payloads, spaced)
        assert tensors_digest(expected) == tensors_digest(preview) == params_digest(state)
        wanted = short(plain.params) if has_checkpoint(state.window, spaced) else plain.params
        assert tensors_digest(wanted) == params_digest(state)
        seen[state.window] = _is_short(state.params)
    assert {w for w, is_short in seen.items() if is_short} == {EVERY, 2 * EVERY}


def _of_distance(spec: RunSpec, every: int) -> RunSpec:
    checkpoint = dataclasses.replace(spec.checkpoint, every_windows=every)
    return dataclasses.replace(spec, checkpoint=checkpoint)


def test_a_window_without_payloads_rounds_too(start, spaced, form) -> None:
    state = outer_step(start, decision_on(0, p := _payloads(form, 0)), p, spaced)
    assert not _is_short(state.params)
    after = outer_step(state, decision_on(1, ()), {}, spaced)
    assert tensors_digest(after.params) == tensors_digest(short(state.params))
    again = outer_step(after, decision_on(2, ()), {}, _of_distance(spaced, 1))
    assert params_digest(again) == params_digest(after)


@pytest.mark.parametrize("count", [0, 3])
def test_the_source_stays_as_it_is(count: int, theta0, form) -> None:
    params = {name: tensor + 2.0**-20 for name, tensor in theta0.items()}
    before = tensors_digest(params)
    updates = [(random_payload(form, uid), dict.fromkeys(params, 0.1)) for uid in range(count)]
    made = apply_updates(params, updates, is_short=True)
    lazy = updated_when_read(params, updates, is_short=True)
    assert tensors_digest(made) == tensors_digest(lazy)
    assert _is_short(made)
    assert tensors_digest(params) == before
    assert not _is_short(params)


def test_steps_taken_again_and_a_window_taken_back_round_alike(start, spaced, form) -> None:
    payloads = {window: _payloads(form, window) for window in range(4)}
    state, steps = start, []
    for window in range(4):
        decision = decision_on(window, payloads[window])
        steps.append(step_from(state, decision, b""))
        state = outer_step(state, decision, payloads[window], spaced)

    def obtain(step):
        return payloads[step.window] if step.members else {}

    again = replay_steps(start, steps, obtain, Run(spaced))
    assert equal_states(again.state, state)
    void = take_back([start], steps, 1, obtain, Run(spaced))
    other = start
    for window in range(4):
        own = {} if window == 1 else payloads[window]
        other = outer_step(other, decision_on(window, own), own, spaced)
    assert void is not None
    assert params_digest(void.state) == params_digest(other) != params_digest(state)


def test_a_newcomer_takes_the_next_step_to_the_same_root(start, spaced, form) -> None:
    """From three bytes a parameter."""
    state = start
    for window in range(EVERY - 1):
        payloads = _payloads(form, window)
        state = outer_step(state, decision_on(window, payloads), payloads, spaced)
    published = build_checkpoint(state, spaced)
    manifest = parse_published(published.manifest, spaced)
    parts = [published.blobs[part.digest] for part in manifest.parts]
    values = sum(tensor.numel() for tensor in state.params.values())
    assert 3 * values < sum(map(len, parts)) < 3.2 * values
    joined = restore_published(manifest, parts, spaced)
    assert equal_states(joined, state)
    for window in range(EVERY - 1, 2 * EVERY):
        payloads = _payloads(form, window)
        decision = decision_on(window, payloads)
        state = outer_step(state, decision, payloads, spaced)
        joined = outer_step(joined, decision, payloads, spaced)
    assert equal_states(joined, state)


def test_a_value_beyond_the_range_stays_finite(start, spaced, theta0) -> None:
    """Of float32: the largest would round to infinity, and no newcomer could join."""
    largest = torch.finfo(torch.float32).max
    params = {name: torch.full_like(tensor, largest) for name, tensor in theta0.items()}
    state = dataclasses.replace(start, window=EVERY - 1, params=params)
    after = outer_step(state, decision_on(EVERY - 2, ()), {}, spaced)
    assert all(torch.isfinite(tensor).all() for tensor in after.params.values())
    assert _is_short(after.params)
