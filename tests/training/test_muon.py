"""Muon: against torch's and a naive reference, its moments across restarts, ranges and specs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from template.errors import ConfigError
from template.protocol.root import tensors_digest
from template.protocol.spec import parse_spec, spec_to_toml
from template.training import muon
from template.training.checkpoint import LocalCheckpoint, load_local, save_local
from template.training.inner import InnerTrainer
from template.training.muon import Muon, is_hidden, orthogonal
from template.training.optimizer import state_shapes
from template.training.outer import first_state

SHAPES = {"wide": (6, 20), "tall": (20, 6), "square": (12, 12), "like wide": (6, 20)}


@pytest.fixture
def turned(spec):
    """The run with Muon inside."""
    return replace(spec, training=replace(spec.training, inner_optimizer="muon"))


def _batches(spec, seed: int, count: int = 3) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    shape = (spec.training.batch_pages, spec.data.page_tokens)
    return [generator.integers(0, spec.model.vocab_size, size=shape) for _ in range(count)]


def _never() -> bool:
    return False


def _parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {n: nn.Parameter(torch.randn(s, generator=generator)) for n, s in SHAPES.items()}


def _give_gradients(parameters: dict[str, nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def _naive(params: dict[str, Tensor], gradients: list[dict[str, Tensor]], lr: float, spec) -> None:
    """Each matrix by itself, in float64, as the sources write it down."""
    for name, param in params.items():
        average = torch.zeros_like(param, dtype=torch.float64)
        for step in gradients:
            gradient = step[name].double()
            average = spec.muon_momentum * average + (1 - spec.muon_momentum) * gradient
            ahead = spec.muon_momentum * average + (1 - spec.muon_momentum) * gradient
            x = ahead if ahead.shape[0] <= ahead.shape[1] else ahead.T
            x = x / x.norm()
            for _ in range(5):
                gram = x @ x.T
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            x = x if ahead.shape[0] <= ahead.shape[1] else x.T
            param *= 1 - lr * spec.weight_decay
            param -= lr * 0.2 * math.sqrt(max(x.shape)) * x.to(param.dtype)


@pytest.mark.parametrize("together", [1, 2**22], ids=["one by one", "in one go"])
def test_steps_are_those_of_a_naive_reference(turned, together, monkeypatch) -> None:
    monkeypatch.setattr(muon, "TOGETHER", together)
    ours, naive = _parameters(), _parameters()
    optimizer, gradients = Muon(ours, turned.training), []
    for seed in range(4):
        _give_gradients(ours, seed)
        gradients.append({n: p.grad.clone() for n, p in ours.items() if p.grad is not None})
        optimizer.step(0.02)
    start = {name: p.detach().clone() for name, p in naive.items()}
    expected = {name: p.clone() for name, p in start.items()}
    _naive(expected, gradients, 0.02, turned.training)
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-4, atol=1e-5)
        assert (parameter - start[name]).abs().max() > 0.01


def test_steps_are_those_of_torch_within_its_bfloat16(turned) -> None:
    ours, theirs = _parameters(), _parameters()
    training = turned.training
    optimizer = Muon(ours, training)
    reference = torch.optim.Muon(
        theirs.values(),
        lr=0.02,
        weight_decay=training.weight_decay,
        momentum=training.muon_momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    start = {name: p.detach().clone() for name, p in ours.items()}
    for seed in range(3):
        _give_gradients(ours, seed)
        _give_gradients(theirs, seed)
        optimizer.step(0.02)
        reference.step()
    for name, parameter in ours.items():
        apart = (parameter - theirs[name]).norm() / (theirs[name] - start[name]).norm()
        assert apart < 0.02, name


def test_singular_values_are_moved_near_one() -> None:
    generator = torch.Generator().manual_seed(1)
    matrices = (
        torch.randn((3, 8, 30), generator=generator) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    )
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.5
    assert not orthogonal(torch.zeros(1, 4, 6)).any()


def test_each_expert_is_a_matrix_of_its_own(turned) -> None:
    """[experts, rows, columns], as one tensor and as so many."""
    generator = torch.Generator().manual_seed(3)
    start = torch.randn((4, 10, 6), generator=generator)
    gradient = torch.randn((4, 10, 6), generator=generator)
    whole = nn.Parameter(start.clone())
    single = [nn.Parameter(part.clone()) for part in start]
    whole.grad = gradient
    for parameter, part in zip(single, gradient, strict=True):
        parameter.grad = part
    Muon({"whole": whole}, turned.training).step(0.1)
    Muon({str(i): p for i, p in enumerate(single)}, turned.training).step(0.1)
    assert torch.allclose(whole, torch.stack(list(single)), atol=1e-6)
    assert not torch.allclose(whole, start, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "shape", "is_turned"),
    [
        ("model.embed_tokens.weight", (256, 8), False),
        ("lm_head.weight", (256, 8), False),
        ("model.norm.weight", (8,), False),
        ("model.layers.0.mlp.up_proj.weight", (16, 8), True),
        ("model.layers.0.mlp.experts.gate_up_proj", (4, 16, 8), True),
    ],
)
def test_hidden_matrices_are_turned_and_nothing_else(name, shape, is_turned) -> None:
    assert is_hidden(name, shape) == is_turned


def test_a_miner_steps_hidden_matrices_by_muon_and_the_rest_by_adamw(spec, turned, theta0) -> None:
    trainer, plain = InnerTrainer(turned, "cpu"), InnerTrainer(spec, "cpu")
    ours = trainer.train(theta0, 2, _batches(spec, 1, 1), _never).pseudo_gradient
    theirs = plain.train(theta0, 2, _batches(spec, 1, 1), _never).pseudo_gradient
    for name, delta in ours.items():
        # The first step hangs on nothing before: the rest is moved as ever, to the bit.
        assert torch.equal(delta, theirs[name]) != is_hidden(name, delta.shape), name
        assert delta.abs().max() > 0
    assert (
        trainer.moments().keys()
        == state_shapes(turned.training, {n: tuple(t.shape) for n, t in theta0.items()}).keys()
    )


def test_a_restart_goes_on_with_the_momentum(turned, theta0, tmp_path) -> None:
    unbroken, first = InnerTrainer(turned, "cpu"), InnerTrainer(turned, "cpu")
    for trainer in (unbroken, first):
        trainer.train(theta0, 0, _batches(turned, 1), _never)
    state = first_state(theta0, turned.run_id)
    path = tmp_path / "node.safetensors"
    save_local(
        path, LocalCheckpoint(state=state, groups={"moments": first.moments()}), turned.run_id
    )
    again = InnerTrainer(turned, "cpu")
    saved = load_local(path, turned)
    assert saved is not None
    again.load_moments(saved.groups["moments"])
    ends = [t.train(theta0, 1, _batches(turned, 2), _never) for t in (unbroken, again)]
    anew = InnerTrainer(turned, "cpu").train(theta0, 1, _batches(turned, 2), _never)
    digests = [tensors_digest(end.pseudo_gradient) for end in (*ends, anew)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("by", ["follow", "load"])
def test_a_succession_to_muon_keeps_the_first_moment(by: str, spec, turned, theta0) -> None:
    trainer = InnerTrainer(spec, "cpu")
    trainer.train(theta0, 0, _batches(spec, 1), _never)
    before = {key: value.clone() for key, value in trainer.moments().items()}
    if by == "follow":
        trainer.follow(turned)
    else:
        trainer = InnerTrainer(turned, "cpu")
        trainer.load_moments(before)
    after = trainer.moments()
    assert after.keys() < before.keys()
    assert all(torch.equal(after[key], before[key]) for key in after)
    trainer.train(theta0, 1, _batches(spec, 2), _never)


@pytest.mark.parametrize("by", ["follow", "load"])
def test_a_succession_back_to_adamw_begins_anew_in_hidden_matrices(
    by: str, spec, turned, theta0
) -> None:
    trainer = InnerTrainer(turned, "cpu")
    trainer.train(theta0, 0, _batches(spec, 1), _never)
    before = {key: value.clone() for key, value in trainer.moments().items()}
    if by == "follow":
        trainer.follow(spec)
    else:
        trainer = InnerTrainer(spec, "cpu")
        trainer.load_moments(before)
    kept = {key.split(".", 1)[1] for key in trainer.moments()}
    assert kept == {name for name, tensor in theta0.items() if not is_hidden(name, tensor.shape)}
    trainer.train(theta0, 1, _batches(spec, 2), _never)
    steps = {n: float(trainer.moments()[f"step.{n}"]) for n in theta0}
    assert set(steps.values()) == {3.0, 6.0}


def test_the_spec_names_the_optimizer_only_where_it_differs(spec, turned) -> None:
    assert "inner_optimizer" not in spec_to_toml(spec)
    assert 'inner_optimizer = "muon"' in spec_to_toml(turned)
    assert parse_spec(spec_to_toml(turned)) == turned
    assert turned.spec_id != spec.spec_id
    bad = spec_to_toml(turned).replace('"muon"', '"shampoo"')
    with pytest.raises(ConfigError, match="training.inner_optimizer"):
        parse_spec(bad)
