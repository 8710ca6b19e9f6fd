"""The inner loop on one device: passes of a batch, memory, precision, and how fast it was."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from template.commands.plan import RunChoices, load_plan
from template.errors import ConfigError
from template.protocol.payload import PayloadFormat, PayloadHeader, encode_payload
from template.protocol.root import tensors_digest
from template.protocol.spec import RunSpec, spec_to_toml
from template.protocol.spec.plan import draft_spec
from template.training.checkpoint import LocalCheckpoint, load_local, save_local
from template.training.flops import flops_per_token, peak_tflops
from template.training.inner import InnerTrainer
from template.training.losses import CHUNKED_VOCAB
from template.training.model import (
    Params,
    build_model,
    copy_params,
    initial_params,
    load_params,
    tensor_shapes,
)
from template.training.options import InnerOptions
from template.training.outer import first_state
from template.training.rates import inner_lr
from template.training.scorer import Scorer

ROOT = Path(__file__).parents[2]
OWNER = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
BEYOND_ALL_MEMORY = 2**60


def _batches(spec: RunSpec, count: int = 2, seed: int = 1) -> list[np.ndarray]:
    shape = (count, spec.training.batch_pages, spec.data.page_tokens)
    return list(np.random.default_rng(seed).integers(0, spec.model.vocab_size, size=shape))


def _trainer(spec: RunSpec, **options: Any) -> InnerTrainer:
    return InnerTrainer(spec, "cpu", InnerOptions(**options))


def _train(trainer: InnerTrainer, theta: Params, batches: list[np.ndarray]) -> Params:
    return dict(trainer.train(theta, 2, batches, lambda: False).pseudo_gradient)


def _plain(spec: RunSpec, theta: Params, batches: list[np.ndarray], window: int) -> Params:
    """The pseudo-gradient of the loop as it was before passes: one batch, one forward pass."""
    model = build_model(spec).train()
    load_params(model, theta)
    training = spec.training
    optimizer = torch.optim.AdamW(
        model.parameters(),
        betas=(training.adam_beta1, training.adam_beta2),
        weight_decay=training.weight_decay,
    )
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = inner_lr(spec, window, step)
        optimizer.zero_grad()
        tokens = torch.from_numpy(batch)
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_gradient_norm)
        optimizer.step()
    end = copy_params(model)
    return {name: theta[name] - end[name] for name in end}


def _close(first: Params, second: Params, share: float) -> bool:
    """Whether two pseudo-gradients differ by at most a share of their length, all tensors."""
    apart = sum(float((first[name] - second[name]).square().sum()) for name in first)
    return apart <= share**2 * sum(float(delta.square().sum()) for delta in first.values())


@pytest.mark.parametrize("plan", ["localnet", "testnet"])
def test_a_window_of_a_shipped_plan_has_the_payload_of_the_plain_loop(plan: str) -> None:
    """At default settings, byte for byte: runs of small models go on unchanged."""
    choices = RunChoices(owner_hotkey=OWNER, start_block=1000)
    spec = draft_spec(load_plan(ROOT / "runs" / f"{plan}.toml"), choices)
    theta, batches = initial_params(spec, 0), _batches(spec, count=5)
    form = PayloadFormat(run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=64)
    header = PayloadHeader(window=2, base_window=2, pages_consumed=40, public_key=bytes(32))
    ours = encode_payload(header, _train(InnerTrainer(spec, "cpu"), theta, batches), form)[0]
    assert ours == encode_payload(header, _plain(spec, theta, batches, 2), form)[0]


@pytest.mark.parametrize("pages", [1, 2, 3, 4, 64])
def test_the_cut_of_a_batch_moves_the_result_by_rounding_alone(spec, theta0, pages: int) -> None:
    """At the whole batch by nothing."""
    whole = _train(_trainer(spec), theta0, _batches(spec))
    cut = _train(_trainer(spec, micro_batch=pages), theta0, _batches(spec))
    if pages >= spec.training.batch_pages:
        assert tensors_digest(cut) == tensors_digest(whole)
    else:
        assert tensors_digest(cut) != tensors_digest(whole)
        assert _close(whole, cut, 1e-4)


def _device_that_bears(trainer: InnerTrainer, pages: int) -> list[int]:
    """Let torch's own allocator refuse passes of more pages; the sizes of all passes tried."""
    tried: list[int] = []

    def before(module: object, args: object, kwargs: dict[str, Tensor]) -> None:
        tried.append(len(kwargs["input_ids"]))
        if tried[-1] > pages:
            torch.empty(BEYOND_ALL_MEMORY, dtype=torch.uint8)

    trainer._model.register_forward_pre_hook(before, with_kwargs=True)
    return tried


def test_auto_finds_what_fits_and_trains_as_if_it_had_been_named(spec, theta0, caplog) -> None:
    trainer = _trainer(spec)
    tried = _device_that_bears(trainer, 2)
    with caplog.at_level(logging.INFO, logger="template.training.inner"):
        found = trainer.train(theta0, 2, _batches(spec), lambda: False)
    assert tried == [4, 2, 2, 2, 2], "one pass was lost, and nothing of the step"
    assert "does not bear a pass of 4 pages; trying 2" in caplog.text
    named = _train(_trainer(spec, micro_batch=2), theta0, _batches(spec))
    assert tensors_digest(found.pseudo_gradient) == tensors_digest(named)
    assert found.speed is not None
    assert found.speed.micro_batch == 2


def test_a_restart_remembers_it_from_the_state_folder(spec, theta0, tmp_path: Path) -> None:
    trainer = _trainer(spec)
    _device_that_bears(trainer, 1)
    _train(trainer, theta0, _batches(spec))
    values = {"inner_notes": trainer.notes()}
    saved = LocalCheckpoint(state=first_state(theta0, spec.run_id), values=values)
    save_local(tmp_path / "node.safetensors", saved, spec.run_id)
    loaded = load_local(tmp_path / "node.safetensors", spec)
    assert loaded is not None

    again, elsewhere = _trainer(spec), _trainer(spec, checkpoints_activations=True)
    for other in (again, elsewhere):
        other.recall(loaded.values["inner_notes"])
    for other, expected in ((again, [1, 1, 1, 1]), (elsewhere, [4])):
        tried = _device_that_bears(other, 4)
        _train(other, theta0, _batches(spec, count=1))
        assert tried == expected, "another setting has other needs"


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({}, "take a larger device or --neuron.activation_checkpointing"),
        ({"micro_batch": 2}, "take --neuron.micro_batch auto or --neuron.act"),
        (
            {"micro_batch": 1, "checkpoints_activations": True},
            "take a larger device or more --neuron.parts$",
        ),
    ],
)
def test_where_nothing_fits_the_flags_that_help_are_named(
    spec, theta0, options: dict[str, Any], remedy: str
) -> None:
    trainer = _trainer(spec, **options)
    _device_that_bears(trainer, 0)
    with pytest.raises(ConfigError, match=rf"--neuron\.micro_batch: .* of [12] pages; {remedy}"):
        _train(trainer, theta0, _batches(spec))


def test_another_error_of_torch_is_no_lack_of_memory(spec, theta0) -> None:
    trainer = _trainer(spec)
    trainer._model.register_forward_pre_hook(lambda *_: torch.ones(2) + torch.ones(3))
    with pytest.raises(RuntimeError, match="must match"):
        _train(trainer, theta0, _batches(spec))


def _saved_bytes(run: Callable[[], object]) -> int:
    """Bytes of all tensors that autograd keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values())


def test_checkpointed_activations_take_less_memory_and_leave_the_bits(spec) -> None:
    deep = replace(spec, model=replace(spec.model, num_hidden_layers=6))
    theta, (batch,) = initial_params(deep, 3), _batches(deep, count=1)
    kept, spared = _trainer(deep), _trainer(deep, checkpoints_activations=True)
    tokens = torch.from_numpy(batch)
    whole, less = (_saved_bytes(partial(t._loss, tokens)) for t in (kept, spared))
    assert less < whole / 2
    results = [_train(trainer, theta, [batch]) for trainer in (kept, spared)]
    assert tensors_digest(results[0]) == tensors_digest(results[1])


def _of_words(spec: RunSpec, vocab_size: int) -> RunSpec:
    return replace(spec, model=replace(spec.model, vocab_size=vocab_size))


@pytest.mark.parametrize("words", [CHUNKED_VOCAB - 1, CHUNKED_VOCAB])
def test_a_large_vocabulary_trains_and_scores_as_the_plain_loop(spec, words: int) -> None:
    """Below the threshold with the same bits."""
    large = _of_words(spec, words)
    theta, batches = initial_params(large, 3), _batches(large)
    ours, plain = _train(_trainer(large), theta, batches), _plain(large, theta, batches, 2)
    assert _close(plain, ours, 1e-4)
    assert (tensors_digest(ours) == tensors_digest(plain)) == (words < CHUNKED_VOCAB)
    scorer, model = Scorer(large, "cpu"), build_model(large).eval()
    scorer.load(theta)
    load_params(model, theta)
    with torch.no_grad():
        rows = [torch.from_numpy(page)[None] for page in batches[0]]
        expected = [float(model(input_ids=row, labels=row).loss) for row in rows]
    losses = scorer.losses(batches[0])
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert losses.tobytes() == scorer.losses(batches[0]).tobytes()
    other = Scorer(large, "cpu", batch_pages=1)
    other.load(theta)
    assert np.abs(other.losses(batches[0]) - losses).max() < large.evaluation.loss_tolerance


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_mixture_is_spread_alike_by_passes_of_any_size(spec, checkpointed: bool) -> None:
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
    model = replace(spec.model, architecture="qwen3_moe", router_aux_loss_coef=0.5, **sizes)
    mixture = replace(spec, model=model)
    theta, batches = initial_params(mixture, 3), _batches(mixture)
    whole = _train(_trainer(mixture), theta, batches)
    cut = _trainer(mixture, micro_batch=1, checkpoints_activations=checkpointed)
    assert _close(whole, _train(cut, theta, batches), 1e-4)
    free = replace(spec, model=replace(model, router_aux_loss_coef=0.0))
    assert not _close(whole, _train(_trainer(free), theta, batches), 1e-2)


@pytest.fixture
def any_precision() -> Iterator[None]:
    """A process of its own, to accelerate: a node trains in one precision all its life."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("any_precision")
@pytest.mark.parametrize("words", [256, CHUNKED_VOCAB])
def test_bf16_computes_short_and_keeps_the_masters_long(spec, words: int) -> None:
    long = _of_words(spec, words)
    short = replace(long, training=replace(long.training, precision="bf16"))
    theta, batches = initial_params(long, 3), _batches(long)
    exact = _train(_trainer(long), theta, batches)
    AcceleratorState._reset_state(reset_partial_state=True)
    trainer = _trainer(short)
    found = _train(trainer, theta, batches)
    assert {delta.dtype for delta in found.values()} == {torch.float32}
    assert {moment.dtype for moment in trainer.moments().values()} == {torch.float32}
    assert tensors_digest(found) != tensors_digest(exact)
    assert _close(exact, found, 0.2)


def test_the_moments_are_adamws_own(spec, theta0) -> None:
    """Made before the first pass, so that memory found enough stays enough."""
    trainer = _trainer(spec)
    tried = _device_that_bears(trainer, 0)
    with suppress(ConfigError):
        _train(trainer, theta0, _batches(spec))
    assert tried
    moments = trainer.moments()
    assert moments.keys() == {f"{k}.{n}" for n in theta0 for k in ("step", "exp_avg", "exp_avg_sq")}
    assert not any(moment.any() for moment in moments.values())
    assert {moments[f"step.{name}"].dtype for name in theta0} == {torch.float32}


def test_speed_is_counted_by_tokens_and_by_the_models_arithmetic(spec, theta0) -> None:
    clock = iter([10.0, 10.5, 11.5, 12.0, 13.0, 13.0, 13.5, 14.0])
    options = InnerOptions(peak_tflops=1e-6)
    trainer = InnerTrainer(spec, "cpu", options, now_s=lambda: next(clock))
    result = trainer.train(theta0, 2, _batches(spec), lambda: False)
    speed = result.speed
    assert speed is not None
    assert result.busy_s == 1.0 + 1.0 + 0.5, "two steps, and the wait for the last"
    assert speed.tokens_per_s == 2 * 4 * 16 / 4.0
    assert speed.utilization == pytest.approx(32 * flops_per_token(spec) / 1e6)
    assert (speed.micro_batch, speed.peak_bytes) == (4, None)
    unknown = InnerTrainer(spec, "cpu").train(theta0, 2, _batches(spec), lambda: False).speed
    assert unknown is not None
    assert unknown.utilization is None
    assert InnerTrainer(spec, "cpu").train(theta0, 2, [], lambda: False).speed is None


def test_flops_are_those_of_palms_formula(spec) -> None:
    """6 for each parameter beside the input embedding, and 12 L H Q T of attention."""
    shapes = tensor_shapes(spec)
    parameters = sum(int(np.prod(shape)) for shape in shapes.values())
    model = spec.model
    attention = 12 * model.num_hidden_layers * model.hidden_size * spec.data.page_tokens
    assert model.tie_word_embeddings
    assert flops_per_token(spec) == 6 * parameters + attention
    apart = replace(spec, model=replace(model, tie_word_embeddings=False))
    assert flops_per_token(apart) == flops_per_token(spec)


def test_known_devices_have_their_makers_peak() -> None:
    assert peak_tflops("NVIDIA H200", "bf16") == 989.0
    assert peak_tflops("NVIDIA H200", "no") == 67.0
    assert peak_tflops("NVIDIA L40S", "bf16") != peak_tflops("NVIDIA L4", "bf16")
    assert peak_tflops("cpu", "bf16") is None


def test_notes_are_plain_json(spec, theta0) -> None:
    trainer = _trainer(spec)
    _train(trainer, theta0, _batches(spec))
    assert json.loads(json.dumps(trainer.notes())) == trainer.notes()


COMPILED = """
import sys
from pathlib import Path
import numpy as np
from template.protocol.spec import parse_spec
from template.training.inner import InnerTrainer
from template.training.model import initial_params
from template.training.options import InnerOptions
spec = parse_spec(Path(sys.argv[1]).read_text())
theta, pages = initial_params(spec, 3), np.arange(4 * 16).reshape(4, 16)
plain, compiled = (
    InnerTrainer(spec, "cpu", InnerOptions(compiles=compiles))
    .train(theta, 2, [pages], lambda: False)
    .pseudo_gradient
    for compiles in (False, True)
)
apart = sum(float((plain[name] - compiled[name]).square().sum()) for name in plain)
print(compiled.keys() == plain.keys())
print(apart / sum(float(delta.square().sum()) for delta in plain.values()))
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
def test_compiled_it_trains_the_same_but_for_rounding(spec, tmp_path: Path) -> None:
    """In a process of its own, for the compiler's threads and folders."""
    path = tmp_path / "run.toml"
    path.write_text(spec_to_toml(spec), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(path)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    has_names, apart = done.stdout.split()
    assert has_names == "True"
    assert float(apart) < 1e-6
