"""The inner loop: against plain PyTorch, stopped early, and across a restart."""

import math
import weakref
from functools import partial

import numpy as np
import pytest
import torch

from template.errors import ConfigError
from template.protocol.root import tensors_digest
from template.training.checkpoint import LocalCheckpoint, load_local, save_local
from template.training.inner import InnerTrainer
from template.training.model import build_model, copy_params, load_params
from template.training.outer import first_state
from template.training.rates import inner_lr, warm_start_lr


def _batches(spec, seed: int, count: int = 3) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    shape = (spec.training.batch_pages, spec.data.page_tokens)
    return [generator.integers(0, spec.model.vocab_size, size=shape) for _ in range(count)]


def _never() -> bool:
    return False


def _plain_adamw(spec, start, rate, batches, moves=None) -> dict[str, torch.Tensor]:
    """The end of the same inner loop, without accelerate; `rate` is a function of the step.

    `moves`: step -> what is added to every parameter before it.
    """
    model = build_model(spec).train()
    load_params(model, start)
    training = spec.training
    optimizer = torch.optim.AdamW(
        model.parameters(),
        betas=(training.adam_beta1, training.adam_beta2),
        weight_decay=training.weight_decay,
    )
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.zero_grad()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += (moves or {}).get(step, 0.0)
        tokens = torch.from_numpy(batch)
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_gradient_norm)
        optimizer.step()
    return copy_params(model)


def test_the_pseudo_gradient_is_start_less_end(spec, theta0) -> None:
    before = tensors_digest(theta0)
    result = InnerTrainer(spec, "cpu").train(theta0, 2, _batches(spec, 1), _never)
    end = _plain_adamw(spec, theta0, partial(inner_lr, spec, 2), _batches(spec, 1))
    expected = {name: theta0[name] - end[name] for name in theta0}
    assert tensors_digest(result.pseudo_gradient) == tensors_digest(expected)
    assert all(delta.abs().max() > 0 for delta in expected.values())
    assert (result.steps, result.pages_consumed) == (3, 3 * spec.training.batch_pages)
    assert tensors_digest(theta0) == before


def test_the_rate_is_that_of_the_window(spec, theta0) -> None:
    trained = [
        InnerTrainer(spec, "cpu").train(theta0, window, _batches(spec, 1), _never)
        for window in (0, spec.schedule.num_windows)
    ]
    early, late = (r.pseudo_gradient["model.norm.weight"].norm() for r in trained)
    assert early != late


@pytest.mark.parametrize("at", [0, 1, 2])
def test_moved_in_the_middle_it_keeps_what_it_learned(spec, theta0, at: int) -> None:
    """Against plain PyTorch: start and place are moved alike, the moments stay."""
    goal = {name: tensor + 0.01 * torch.ones_like(tensor) for name, tensor in theta0.items()}
    asked = iter(range(3))
    batches = _batches(spec, 1)
    result = InnerTrainer(spec, "cpu").train(
        theta0, 2, batches, _never, lambda: goal if next(asked) == at else None
    )
    end = _plain_adamw(spec, theta0, partial(inner_lr, spec, 2), batches, moves={at: 0.01})
    assert result.moved_at == at
    assert result.steps == 3
    for name, delta in result.pseudo_gradient.items():
        assert torch.allclose(delta, goal[name] - end[name], atol=1e-6), name
        assert delta.abs().max() < 0.009, "the move itself is no part of what was learned"


def test_what_training_has_moved_on_from_leaves_memory(spec, theta0) -> None:
    """Theta of the window before is as large as the model, and is needed no longer."""
    start = [{name: tensor.clone() for name, tensor in theta0.items()}]
    first = weakref.ref(start[0]["model.norm.weight"])
    goals = iter([None, theta0, None])
    alive: list[bool] = []

    def stop() -> bool:
        alive.append(first() is not None)
        return False

    trainer = InnerTrainer(spec, "cpu")
    trainer.train(start.pop(), 2, _batches(spec, 1), stop, lambda: next(goals))
    assert alive == [True, True, False]


def test_a_move_before_the_first_step_is_another_start(spec, theta0) -> None:
    goal = {name: tensor + 0.01 for name, tensor in theta0.items()}
    once = iter([goal])
    moved = InnerTrainer(spec, "cpu").train(
        theta0, 2, _batches(spec, 1), _never, lambda: next(once, None)
    )
    started = InnerTrainer(spec, "cpu").train(goal, 2, _batches(spec, 1), _never)
    assert (moved.moved_at, started.moved_at) == (0, None)
    for name, delta in started.pseudo_gradient.items():
        assert torch.allclose(moved.pseudo_gradient[name], delta, atol=1e-6)


def test_stopped_before_the_first_step_it_did_nothing(spec, theta0) -> None:
    trainer = InnerTrainer(spec, "cpu")
    result = trainer.train(theta0, 0, _batches(spec, 1), lambda: True)
    assert (result.steps, result.pages_consumed) == (0, 0)
    assert math.isnan(result.mean_loss)
    assert all(not delta.any() for delta in result.pseudo_gradient.values())
    assert trainer.moments() == {}


def test_stopped_in_the_middle_it_counts_what_it_consumed(spec, theta0) -> None:
    answers = iter([False, False, True])
    stopped = InnerTrainer(spec, "cpu").train(theta0, 0, _batches(spec, 1), lambda: next(answers))
    short = InnerTrainer(spec, "cpu").train(theta0, 0, _batches(spec, 1)[:2], _never)
    assert (stopped.steps, stopped.pages_consumed) == (2, 2 * spec.training.batch_pages)
    assert tensors_digest(stopped.pseudo_gradient) == tensors_digest(short.pseudo_gradient)


def test_losses_fall_on_a_batch_seen_again(spec, theta0) -> None:
    batch = _batches(spec, 1, count=1)
    once = InnerTrainer(spec, "cpu").train(theta0, 2, batch, _never)
    often = InnerTrainer(spec, "cpu").train(theta0, 2, batch * 10, _never)
    assert once.mean_loss == pytest.approx(math.log(spec.model.vocab_size), rel=0.02)
    assert often.mean_loss < once.mean_loss


def test_a_restart_from_disk_continues_with_the_same_bits(spec, theta0, tmp_path) -> None:
    trainer = InnerTrainer(spec, "cpu")
    trainer.train(theta0, 0, _batches(spec, 1), _never)
    saved = LocalCheckpoint(
        state=first_state(theta0, spec.run_id), groups={"moments": trainer.moments()}
    )
    save_local(tmp_path / "node.safetensors", saved, spec.run_id)
    unbroken = trainer.train(theta0, 1, _batches(spec, 2), _never)

    restarted, amnesic = InnerTrainer(spec, "cpu"), InnerTrainer(spec, "cpu")
    loaded = load_local(tmp_path / "node.safetensors", spec)
    assert loaded is not None
    restarted.load_moments(loaded.groups["moments"])
    resumed = restarted.train(theta0, 1, _batches(spec, 2), _never)
    forgot = amnesic.train(theta0, 1, _batches(spec, 2), _never)
    assert tensors_digest(resumed.pseudo_gradient) == tensors_digest(unbroken.pseudo_gradient)
    assert tensors_digest(forgot.pseudo_gradient) != tensors_digest(unbroken.pseudo_gradient)


def test_moments_that_lack_a_tensor_are_refused(spec, theta0) -> None:
    trainer = InnerTrainer(spec, "cpu")
    trainer.train(theta0, 0, _batches(spec, 1, count=1), _never)
    moments = trainer.moments()
    moments.pop("exp_avg.model.norm.weight")
    with pytest.raises(KeyError, match="exp_avg"):
        InnerTrainer(spec, "cpu").load_moments(moments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_a_wrong_flag(spec) -> None:
    with pytest.raises(ConfigError, match=r"--neuron.device cuda: torch sees 0 CUDA .* or cpu"):
        InnerTrainer(spec, "cuda")


def test_training_alone_is_plain_adamw_at_the_rates_of_a_warm_start(spec, theta0) -> None:
    before, batches = tensors_digest(theta0), _batches(spec, 1)
    end = InnerTrainer(spec, "cpu").train_alone(theta0, batches)
    plain = _plain_adamw(spec, theta0, partial(warm_start_lr, spec), batches)
    assert tensors_digest(end) == tensors_digest(plain)
    assert tensors_digest(theta0) == before != tensors_digest(end)
