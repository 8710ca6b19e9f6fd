"""Kept memory: used again, never while somebody reads; and the steps that live in it."""

import dataclasses
import platform
import subprocess
import sys
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from template.protocol.root import tensors_digest
from template.training import memory
from template.training.inner import InnerTrainer
from template.training.memory import KEPT, KeptMemory
from template.training.outer import (
    UpdatedParams,
    apply_updates,
    clip_references,
    coefficients,
    expected_params,
    first_state,
    outer_step,
    previewed_params,
)
from tests.support.outer_steps import decision_on, members_of, random_payload


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every tensor counts as large; sizes of the blocks asked of the system."""
    found: list[int] = []
    new_block = memory.new_block

    def counted(size: int) -> np.ndarray:
        found.append(size)
        return new_block(size)

    KEPT.release()
    monkeypatch.setattr(memory, "MIN_BYTES", 0)
    monkeypatch.setattr(memory, "new_block", counted)
    yield found
    KEPT.release()


def test_memory_comes_back_when_the_last_reader_lets_go(made: list[int]) -> None:
    kept = KeptMemory()
    first = kept.copy_of(torch.arange(12.0).reshape(3, 4))
    row = first[1].view(-1)
    del first
    second = kept.copy_of(torch.zeros(3, 4))
    assert made == [12, 12]  # a view reads on
    assert row.tolist() == [4.0, 5.0, 6.0, 7.0]
    del row, second
    assert kept.num_free_bytes == 2 * 48
    third = kept.empty((2, 6))
    assert made == [12, 12]
    assert third.shape == (2, 6)
    assert third.is_contiguous()
    kept.release()
    assert kept.num_free_bytes == 0
    del third
    assert kept.num_free_bytes == 48


def test_small_tensors_are_left_to_the_c_library() -> None:
    kept = KeptMemory()
    kept.empty((10,))
    assert kept.num_free_bytes == 0
    assert kept.empty(()).shape == ()
    assert kept.copy_of(torch.empty(0)).numel() == 0


def test_outer_steps_take_turns_in_two_thetas(spec, theta0, form, made: list[int]) -> None:
    """The state of a window may be read for as long as anyone holds it."""
    state = first_state(theta0, spec.run_id)
    digests, held = [], []
    for window in range(6):
        payloads = {uid: random_payload(form, 7 * window + uid, window=window) for uid in range(2)}
        state = outer_step(state, decision_on(window, payloads), payloads, spec)
        digests.append(tensors_digest(state.params))
        if window == 2:
            held.append(state)
    # theta_2 and theta_3, and one more for the state held.
    assert len(made) == 3 * len(theta0)
    assert tensors_digest(held[0].params) == digests[2]
    assert len(set(digests)) == 6


def test_a_known_digest_does_not_hold_a_theta_that_is_over(spec, theta0, form) -> None:
    """The digest of a checkpoint's theta is of no use in the windows after."""
    checkpoint = dataclasses.replace(spec.checkpoint, every_windows=2)
    every = dataclasses.replace(spec, checkpoint=checkpoint)
    state = outer_step(first_state(theta0, spec.run_id), decision_on(0, ()), {}, every)
    assert state.known_digest is not None
    old = weakref.ref(state.params[min(state.params)])
    payloads = {0: random_payload(form, 7, window=1)}
    state = outer_step(state, decision_on(1, payloads), payloads, every)
    assert old() is None
    assert state.known_digest is None


def test_parameters_made_tensor_by_tensor_have_the_same_bits(spec, theta0, form) -> None:
    """More bodies than the codec holds at a time, so that both orders of addition are compared."""
    state = first_state(theta0, spec.run_id)
    payloads = {uid: random_payload(form, 30 + uid, window=0) for uid in range(13)}
    members = members_of(payloads)
    whole = expected_params(state, members, payloads, spec)
    lazy = previewed_params(state, members, payloads, spec)
    assert list(lazy) == list(whole)
    assert len(lazy) == len(whole)
    assert tensors_digest(lazy) == tensors_digest(whole) != tensors_digest(theta0)
    assert tensors_digest(lazy) == tensors_digest(whole)  # again
    references = clip_references(state, spec.outer, [payloads[0].norms])
    factors = coefficients(0.7, 0, payloads[0].norms, references, spec.outer, 3.0)
    updates = [(payloads[0], factors)]
    naive = {name: tensor.clone() for name, tensor in theta0.items()}
    for name, sparse in payloads[0].tensors.items():
        sparse.add_to(naive[name], coefficient=-factors[name])
    assert tensors_digest(apply_updates(theta0, updates)) == tensors_digest(naive)
    assert tensors_digest(UpdatedParams(theta0, updates)) == tensors_digest(naive)
    assert UpdatedParams(theta0, [])["model.norm.weight"] is theta0["model.norm.weight"]


def test_a_preview_of_another_model_is_refused(spec, theta0, form) -> None:
    state = first_state(theta0, spec.run_id)
    payloads = {1: random_payload(form, 3, window=0)}
    wrong = {name: tensor.double() for name, tensor in theta0.items()}
    lazy = previewed_params(
        dataclasses.replace(state, params=wrong), members_of(payloads), payloads, spec
    )
    assert lazy["model.norm.weight"].dtype == torch.float32
    wrong = {name: tensor.reshape(-1) for name, tensor in theta0.items()}
    lazy = previewed_params(
        dataclasses.replace(state, params=wrong), members_of(payloads), payloads, spec
    )
    with pytest.raises(ValueError, match="is not the plan's"):
        lazy["model.embed_tokens.weight"]


def test_a_pseudo_gradient_is_made_in_kept_memory(spec, theta0, made: list[int]) -> None:
    """And the moments for a checkpoint are the optimizer's own memory."""
    trainer = InnerTrainer(spec, "cpu")
    page = np.zeros((1, spec.data.page_tokens), dtype=np.int64)
    before = None
    for window in range(3):
        result = trainer.train(theta0, window, [page, page], lambda: False)
        if before is not None:
            assert len(made) == before
        before = len(made)
        del result
    assert before == len(theta0)
    model = dict(trainer._accelerator.unwrap_model(trainer._model).named_parameters())
    moments, again = trainer.moments(), trainer.moments()
    for name, parameter in model.items():
        assert parameter.grad is None
        key = f"exp_avg.{name}"
        assert moments[key].data_ptr() == again[key].data_ptr()
    copied = {key: value.clone() for key, value in moments.items()}
    trainer.train(theta0, 3, [page], lambda: False)
    assert not any(torch.equal(moments[key], copied[key]) for key in copied), "no copies"


HEAP = """
import sys
import torch
from template.training.memory import give_back_freed

def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096

living, freed = [], []
for _ in range(400):
    freed.append(torch.ones(2**14))  # 64 KiB, on the heap, between blocks that live
    living.append(torch.ones(2**8))
before = resident()
del freed
kept = resident()
give_back_freed()
print(before, kept, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide themselves")
def test_what_was_freed_between_living_blocks_goes_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAP], check=True, capture_output=True, text=True, timeout=60
    )
    before, kept, after = map(int, done.stdout.split())
    freed_bytes = 400 * 2**16
    assert before - kept < freed_bytes / 4, "the C library gave all back by itself"
    assert before - after > freed_bytes / 2


def test_activations_go_back_during_the_backward_pass_and_no_bit_changes(
    spec, theta0, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def trained(trim_bytes: int) -> str:
        monkeypatch.setattr(memory, "TRIM_BYTES", trim_bytes)
        trainer = InnerTrainer(spec, "cpu")
        pages = np.arange(2 * spec.data.page_tokens, dtype=np.int64).reshape(2, -1) % 7
        monkeypatch.setattr(memory, "give_back_freed", lambda: calls.append(1))
        result = trainer.train(theta0, 0, [pages, pages, pages], lambda: False)
        return (
            tensors_digest(result.pseudo_gradient).hex()
            + tensors_digest(
                {name: m for name, m in trainer.moments().items() if not name.startswith("step")}
            ).hex()
        )

    whole = trained(2**40)
    assert calls == []
    assert trained(1) == whole
    # A sixteenth of the gradients at least: never once for every small tensor of a large model.
    assert 3 <= len(calls) <= 3 * 16
