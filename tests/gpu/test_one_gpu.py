"""What only a GPU can show: equal payloads from equal pseudo-gradients, memory, and speed.

    pytest -m gpu tests/gpu

Skipped on a machine without CUDA.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from simulation.swarm import small_plan
from template.protocol.payload import (
    PayloadFormat,
    PayloadHeader,
    decode_payload,
    encode_payload,
    encode_payload_with_feedback,
)
from template.protocol.spec import RunSpec
from template.protocol.spec.model import count_parameters
from template.protocol.spec.plan import RunChoices, draft_spec
from template.training.inner import InnerResult, InnerTrainer
from template.training.losses import next_token_loss
from template.training.model import initial_params, tensor_shapes
from template.training.options import InnerOptions
from template.training.scorer import Scorer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

OWNER = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
HEADER = PayloadHeader(window=2, base_window=2, pages_consumed=8, public_key=bytes(32))
BEST_SHARE = 0.1
"""A utilization below this on a model of 100 M parameters is a fault, not a slow machine."""


def _spec(**model: Any) -> RunSpec:
    """A Llama of 100 M parameters in bf16, on pages of 1,024 tokens."""
    sizes: dict[str, Any] = {
        "vocab_size": 32_768,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        **model,
    }
    plan = small_plan(data__page_tokens=1024, training__precision="bf16", training__batch_pages=8)
    plan["model"] |= sizes
    return draft_spec(plan, RunChoices(owner_hotkey=OWNER, start_block=1000))


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return _spec()


@pytest.fixture(scope="module")
def theta(spec: RunSpec) -> dict[str, torch.Tensor]:
    return initial_params(spec, 0)


def _batches(spec: RunSpec, count: int) -> list[np.ndarray]:
    shape = (count, spec.training.batch_pages, spec.data.page_tokens)
    return list(np.random.default_rng(1).integers(0, spec.model.vocab_size, size=shape))


def _train(spec: RunSpec, theta: Any, count: int, **options: Any) -> InnerResult:
    trainer = InnerTrainer(spec, "cuda", InnerOptions(**options))
    return trainer.train(theta, 2, _batches(spec, count), lambda: False)


def test_equal_pseudo_gradients_have_equal_payloads(spec, theta) -> None:
    """The bytes do not depend on the device that holds the tensors."""
    form = PayloadFormat(run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=64)
    deltas = _train(spec, theta, 2).pseudo_gradient
    frame, _ = encode_payload(HEADER, deltas, form)
    residuals = {name: torch.zeros(shape) for name, shape in form.shapes.items()}
    on_device = {name: tensor.cuda() for name, tensor in residuals.items()}
    here = encode_payload_with_feedback(HEADER, deltas, residuals, form, 0.9)
    there = encode_payload_with_feedback(
        HEADER, {name: delta.cuda() for name, delta in deltas.items()}, on_device, form, 0.9
    )
    assert here == there == frame
    assert all(torch.equal(on_device[name].cpu(), residuals[name]) for name in residuals)
    for name, sparse in decode_payload(frame, form).tensors.items():
        stepped, plain = theta[name].cuda(), theta[name].clone()
        sparse.add_to(stepped, coefficient=-0.1)
        sparse.add_to(plain, coefficient=-0.1)
        assert torch.equal(stepped.cpu(), plain), name


def test_the_masters_are_float32_and_adamw_is_one_kernel(spec, theta) -> None:
    trainer = InnerTrainer(spec, "cuda")
    result = trainer.train(theta, 2, _batches(spec, 1), lambda: False)
    assert {delta.dtype for delta in result.pseudo_gradient.values()} == {torch.float32}
    moments = trainer.moments()
    restarted = InnerTrainer(spec, "cuda")
    restarted.load_moments(moments)
    again = restarted.train(theta, 3, _batches(spec, 1), lambda: False)
    assert all(torch.isfinite(delta).all() for delta in again.pseudo_gradient.values())
    assert {float(v) for k, v in restarted.moments().items() if k.startswith("step.")} == {2.0}


def test_smaller_passes_and_checkpoints_take_less_memory(spec, theta) -> None:
    """Peaks of one process, against each other and against the parameters' own bytes."""
    peaks = []
    for options in ({}, {"micro_batch": 1}, {"micro_batch": 1, "checkpoints_activations": True}):
        torch.cuda.empty_cache()
        result = _train(spec, theta, 2, **options)
        assert result.speed is not None
        assert result.speed.peak_bytes is not None
        peaks.append(result.speed.peak_bytes)
    whole, cut, spared = peaks
    assert whole > cut > spared > 16 * count_parameters(spec.model)


def test_auto_finds_a_pass_that_fits_a_full_device(spec, theta) -> None:
    """A part of the device's memory is given out, so that the whole batch does not fit."""
    whole = _train(spec, theta, 1, micro_batch=8).speed
    single = _train(spec, theta, 1, micro_batch=1).speed
    assert whole is not None
    assert single is not None
    assert whole.peak_bytes is not None
    assert single.peak_bytes is not None
    torch.cuda.empty_cache()
    limit = single.peak_bytes + (whole.peak_bytes - single.peak_bytes) // 2
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    try:
        found = _train(spec, theta, 4).speed
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found is not None
    assert 1 <= found.micro_batch < 8


def test_a_model_of_100_m_uses_the_device(spec, theta, record_property) -> None:
    trainer = InnerTrainer(spec, "cuda")
    trainer.train(theta, 2, _batches(spec, 2), lambda: False)
    speed = trainer.train(theta, 3, _batches(spec, 20), lambda: False).speed
    assert speed is not None
    record_property(torch.cuda.get_device_name(), str(speed))
    if speed.utilization is None:
        pytest.skip("the peak of this device is not known")
    assert BEST_SHARE < speed.utilization < 1


def test_losses_are_within_the_audits_tolerance_of_the_cpus() -> None:
    spec = _spec(num_hidden_layers=4)
    theta, pages = initial_params(spec, 0), _batches(spec, 1)[0][:2]
    losses = []
    for device in ("cpu", "cuda"):
        scorer = Scorer(spec, device)
        scorer.load(theta)
        losses.append(scorer.losses(pages))
        assert scorer.losses(pages).tobytes() == losses[-1].tobytes()
    assert np.abs(losses[0] - losses[1]).max() < spec.evaluation.loss_tolerance


def test_the_chunked_loss_is_that_of_the_cpu() -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(shape, generator=draw) for shape in ((2, 65, 64), (5000, 64)))
    tokens = torch.randint(5000, (2, 65), generator=draw)
    found = []
    for device in ("cpu", "cuda"):
        inputs = hidden.to(device).requires_grad_(), head.to(device).requires_grad_()
        loss = next_token_loss(*inputs, tokens.to(device), chunk_logits=30 * 5000)
        loss.backward()
        found.append([loss.detach().cpu(), *(x.grad.cpu() for x in inputs if x.grad is not None)])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", ["qwen3", "olmo2", "mistral", "qwen3_moe"])
def test_every_architecture_trains_in_bf16(architecture: str) -> None:
    mixture = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
    extra = {**mixture, "router_aux_loss_coef": 0.01} if architecture == "qwen3_moe" else {}
    spec = _spec(architecture=architecture, num_hidden_layers=2, **extra)
    result = _train(spec, initial_params(spec, 0), 2)
    assert all(torch.isfinite(delta).all() for delta in result.pseudo_gradient.values())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_second_device_is_the_second(spec, theta) -> None:
    """`cuda:1` used to train on cuda:0 without a word."""
    trainer = InnerTrainer(replace(spec), "cuda:1")
    trainer.train(theta, 2, _batches(spec, 1), lambda: False)
    assert {p.device for p in trainer._model.parameters()} == {torch.device("cuda:1")}
