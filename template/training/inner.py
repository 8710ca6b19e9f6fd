"""The inner loop: AdamW steps of a miner on the assigned pages, on one device.

Moments are kept from window to window (SparseLoCo, arXiv 2508.15706, algorithm 1); the parameters
start each window at the network's theta. Accelerate handles precision; master parameters are
float32. A batch goes through in as few passes as the device's memory allows, and its gradients are
added up: the result depends on the number of passes by rounding alone.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from template.errors import ConfigError
from template.protocol.spec import RunSpec
from template.training.devices import (
    FUSED_ADAMW,
    device_name,
    make_accelerator,
    peak_bytes,
    reset_peak,
)
from template.training.flops import flops_per_token, peak_tflops
from template.training.inner_loop import Course, Rest, no_rest, run_inner_loop
from template.training.inner_loop import InnerResult as InnerResult
from template.training.inner_loop import Speed as Speed
from template.training.losses import CHUNKED_VOCAB, next_token_loss, spread_loss
from template.training.memory import KEPT, TrimmedBackward, give_back_freed
from template.training.micro_batch import MicroBatch
from template.training.model import Params, build_model, copy_params, load_params
from template.training.options import DEFAULT_OPTIONS, InnerOptions
from template.training.rates import inner_lr, warm_start_lr

log = logging.getLogger(__name__)


class InnerTrainer:
    """Model and AdamW of one miner. Not thread-safe: one window at a time."""

    def __init__(
        self,
        spec: RunSpec,
        device: str,
        options: InnerOptions = DEFAULT_OPTIONS,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec, self._now_s = spec, now_s
        self._options = options
        self._accelerator = make_accelerator(device, spec.training.precision)
        self._device = torch.device(device) if ":" in device else self._accelerator.device
        self._micro = MicroBatch(spec.training.batch_pages, self._options.micro_batch)
        training = spec.training
        model = build_model(spec).to(self._device)
        if self._options.checkpoints_activations:
            model.activation_checkpointing_enable({"use_reentrant": False})
        if self._options.compiles:
            model.model.compile()
        if self._device.type == "cpu":
            TrimmedBackward(model)
        self.revision: object = object()
        """Another object after every change of the moments."""
        self._is_fused = self._device.type in FUSED_ADAMW
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=training.inner_lr,
            betas=(training.adam_beta1, training.adam_beta2),
            weight_decay=training.weight_decay,
            fused=self._is_fused or None,
        )
        self._model, self._optimizer = self._accelerator.prepare(model, optimizer)

    def train(
        self,
        start: Mapping[str, Tensor],
        window: int,
        batches: Iterable[np.ndarray],
        stop: Callable[[], bool],
        newer: Callable[[], Mapping[str, Tensor] | None] = lambda: None,
        rest: Rest = no_rest,
    ) -> InnerResult:
        """Train from `start` until the batches end or `stop()` is true before a step.

        As in `Trainer`.
        """
        rate = partial(inner_lr, self._spec, window)
        course = Course(rate=rate, stop=stop, newer=newer, rest=rest, now_s=self._now_s)
        given = [start]
        del start  # the loop may move on, and nothing here may keep the first start in memory
        return run_inner_loop(self, given.pop(), batches, course)

    @property
    def shares_memory(self) -> bool:
        """As in `Trainer`."""
        return self._device.type == "cpu"

    def train_alone(self, start: Mapping[str, Tensor], batches: Iterable[np.ndarray]) -> Params:
        """Parameters after a step on each batch, from `start`: the owner's warm start."""
        rate = partial(warm_start_lr, self._spec)
        run_inner_loop(self, start, batches, Course(rate=rate, now_s=self._now_s))
        return copy_params(self._accelerator.unwrap_model(self._model))

    def begin(self, start: Mapping[str, Tensor]) -> None:
        """As in `Engine`."""
        self.revision = object()
        load_params(self._accelerator.unwrap_model(self._model), start)
        self._model.train()
        reset_peak(self._device)

    def make_room(self) -> None:
        """As in `Engine`: without gradients."""
        self._optimizer.zero_grad()
        give_back_freed()

    def speed(self, pages: int, elapsed_s: float) -> Speed:
        """As in `Engine`."""
        tokens_per_s = pages * self._spec.data.page_tokens / max(elapsed_s, 1e-9)
        peak = self._options.peak_tflops or peak_tflops(
            device_name(self._device), self._spec.training.precision
        )
        work = tokens_per_s * flops_per_token(self._spec)
        return Speed(
            tokens_per_s=tokens_per_s,
            utilization=work / (peak * 1e12) if peak else None,
            micro_batch=self._micro.pages,
            peak_bytes=peak_bytes(self._device),
        )

    @torch.no_grad()
    def end(self, start: Mapping[str, Tensor]) -> Params:
        """As in `Engine`, without a copy of either end: a tensor at a time, in kept memory."""
        self.make_room()  # for the pseudo-gradient
        deltas: Params = {}
        for name, parameter in self._accelerator.unwrap_model(self._model).named_parameters():
            end = parameter.detach().to("cpu", torch.float32)
            deltas[name] = torch.sub(start[name], end, out=KEPT.empty(end.shape))
        return deltas

    @torch.no_grad()
    def shift(self, start: Mapping[str, Tensor], goal: Mapping[str, Tensor]) -> None:
        """As in `Engine`."""
        for name, parameter in self._accelerator.unwrap_model(self._model).named_parameters():
            parameter += (goal[name] - start[name]).to(parameter.device)

    def take_step(self, batch: np.ndarray, lr: float) -> Tensor:
        """As in `Engine`."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if not self._optimizer.state:
            self._allocate_moments()
        while (loss := self._try_passes(batch)) is None:
            self._give_memory_back()
        self._micro.note_fit()
        self._accelerator.clip_grad_norm_(
            self._model.parameters(), self._spec.training.max_gradient_norm
        )
        self._optimizer.step()
        return loss

    def _try_passes(self, batch: np.ndarray) -> Tensor | None:
        """The gradients of a batch, added up pass by pass, and the mean loss; None if the device's
        memory did not suffice.
        """
        self._optimizer.zero_grad()
        loss = torch.zeros((), device=self._device)
        try:
            for pages in np.array_split(batch, min(self._micro.passes, len(batch))):
                share = len(pages) / len(batch)
                part = self._loss(self._to_device(pages))
                self._accelerator.backward(part * share)
                loss += part.detach() * share
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            return None
        return loss

    def _give_memory_back(self) -> None:
        pages = self._micro.pages
        self._optimizer.zero_grad()
        clear_device_cache(garbage_collection=True)
        if not self._micro.note_refusal():
            remedies = ["--neuron.micro_batch auto" if pages > 1 else "a larger device"]
            if not self._options.checkpoints_activations:
                remedies.append("--neuron.activation_checkpointing")
            raise ConfigError(
                f"--neuron.micro_batch: the device's memory does not bear a pass of {pages} pages; "
                f"take {' or '.join(remedies)}"
            )
        log.info(
            "the device's memory does not bear a pass of %d pages; trying %d",
            pages,
            self._micro.pages,
        )

    def _to_device(self, pages: np.ndarray) -> Tensor:
        """Token ids on the device; a GPU copies from pinned memory while the CPU goes on."""
        tokens = torch.from_numpy(pages)
        if self._device.type in ("cuda", "xpu"):
            return tokens.pin_memory().to(self._device, non_blocking=True)
        return tokens.to(self._device)

    def _loss(self, tokens: Tensor) -> Tensor:
        """Mean loss of some pages, nats per predicted token."""
        model_spec = self._spec.model
        spreads = model_spec.router_aux_loss_coef > 0
        if model_spec.vocab_size < CHUNKED_VOCAB and not spreads:
            loss: Tensor = self._model(input_ids=tokens, labels=tokens).loss
            return loss
        model = self._accelerator.unwrap_model(self._model)
        asked = {"output_router_logits": True} if spreads else {}
        with self._accelerator.autocast():
            out = model.model(input_ids=tokens, **asked)
        hidden, head = out.last_hidden_state, model.lm_head.weight
        if self._spec.training.precision == "bf16":
            hidden, head = hidden.bfloat16(), head.bfloat16()
        loss = next_token_loss(hidden, head, tokens)
        if spreads:
            crowding = spread_loss(out.router_logits, len(tokens), model_spec.num_experts_per_tok)
            loss = loss + model_spec.router_aux_loss_coef * crowding
        return loss

    def _allocate_moments(self) -> None:
        """AdamW's own first state, before the first pass: what fits beside it always fits."""
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                self._optimizer.state[parameter] = {
                    "step": torch.zeros((), device=self._step_device(parameter)),
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }

    def _step_device(self, parameter: Tensor) -> torch.device:
        """AdamW counts steps on the CPU, in one kernel beside the parameter."""
        return parameter.device if self._is_fused else torch.device("cpu")

    def notes(self) -> dict[str, Any]:
        """What was found about this machine, as plain JSON values for `recall`."""
        return {"setting": self._setting(), **self._micro.notes()}

    def recall(self, notes: Mapping[str, Any]) -> None:
        """Take up an earlier run's `notes()`, if device and settings are the same."""
        if notes.get("setting") == self._setting():
            self._micro.recall(notes)

    def _setting(self) -> str:
        options = self._options
        return (
            f"{device_name(self._device)}, {self._spec.training.precision}, torch "
            f"{torch.__version__}, checkpointing {options.checkpoints_activations}, compiled "
            f"{options.compiles}"
        )

    def moments(self) -> dict[str, Tensor]:
        """AdamW's state as flat names, for a local checkpoint; empty before the first step.

        On the CPU the optimizer's own memory, without a copy: the next step changes the values.
        """
        named = dict(self._accelerator.unwrap_model(self._model).named_parameters())
        state = self._optimizer.state
        return {
            f"{key}.{name}": value.detach().cpu()
            for name, parameter in named.items()
            if parameter in state
            for key, value in state[parameter].items()
        }

    def reset_moments(self) -> None:
        """Reset AdamW's state to the state before the first step."""
        self.revision = object()
        self._optimizer.state.clear()

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Restore the result of `moments()`; KeyError for a missing tensor.

        On the CPU the tensors become the optimizer's own memory, without a copy.
        """
        if not moments:
            return
        self.revision = object()
        model = self._accelerator.unwrap_model(self._model)
        for name, parameter in model.named_parameters():
            keys = ("step", "exp_avg", "exp_avg_sq")
            self._optimizer.state[parameter] = {
                key: moments[f"{key}.{name}"].to(
                    self._step_device(parameter) if key == "step" else parameter.device
                )
                for key in keys
            }
