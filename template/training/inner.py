"""The inner loop: steps of a miner's optimizer on the assigned pages, on one device.

Moments are kept from window to window (SparseLoCo, arXiv 2508.15706, algorithm 1); the parameters
start each window at the network's theta. Accelerate handles precision; master parameters are
float32. A batch goes through in as few passes as the device's memory allows, and its gradients are
added up: the result depends on the number of passes by rounding alone.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from transformers import PreTrainedModel

from template.errors import ConfigError
from template.protocol.spec import RunSpec
from template.training.answers import answer_shares
from template.training.devices import (
    device_name,
    make_accelerator,
    peak_bytes,
    reset_peak,
)
from template.training.flops import peak_tflops, range_flops_per_token
from template.training.inner_loop import Course, Rest, no_rest, run_inner_loop
from template.training.inner_loop import InnerResult as InnerResult
from template.training.inner_loop import Speed as Speed
from template.training.layout import Layout
from template.training.losses import (
    CHUNKED_VOCAB,
    next_token_loss,
    shared_loss,
    spread_loss,
)
from template.training.memory import KEPT, TrimmedBackward, give_back_freed
from template.training.micro_batch import MicroBatch
from template.training.model import (
    Params,
    build_model,
    build_without_memory,
    check_parts,
    copy_params,
    tensor_shapes,
)
from template.training.optimizer import RangedOptimizer
from template.training.options import DEFAULT_OPTIONS, InnerOptions
from template.training.rates import inner_lr, warm_start_lr

log = logging.getLogger(__name__)


class InnerTrainer:
    """Model and optimizer of one miner. Not thread-safe: one window at a time."""

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
        model = self._build()
        self.revision: object = object()
        """Another object after every change of the moments."""
        self._layout = Layout(model, self._device, spec.training.precision, options)
        self._optimizer = RangedOptimizer(spec.training, tensor_shapes(spec), self._device)
        if options.parts == 1:
            self._take_up()
        self._trained: Collection[str] | None = None
        """Names of what trains in the window under way; None for all."""
        self._model = self._accelerator.prepare(model)

    def follow(self, spec: RunSpec) -> None:
        """As in `Trainer`."""
        self._spec = spec
        self._micro = MicroBatch(spec.training.batch_pages, self._options.micro_batch)
        self._optimizer.follow(spec.training)

    def _build(self) -> PreTrainedModel:
        """The model: on the device, or without memory until a range of its blocks is named."""
        options = self._options
        if options.parts > 1:
            check_parts(self._spec, options.parts)
            model = build_without_memory(self._spec, self._device)
        else:
            model = build_model(self._spec).to(self._device)
        if options.checkpoints_activations and not options.streams:
            model.activation_checkpointing_enable({"use_reentrant": False})
        if options.compiles:
            model.model.compile()
        return model

    def _take_up(self) -> None:
        """Train the parameters that the layout has made."""
        self._optimizer.take(named := self._layout.parameters())
        if self._device.type == "cpu":
            TrimmedBackward(named.values())

    def train(  # noqa: PLR0913  all of a window
        self,
        start: Mapping[str, Tensor],
        window: int,
        batches: Iterable[np.ndarray],
        stop: Callable[[], bool],
        newer: Callable[[], Mapping[str, Tensor] | None] = lambda: None,
        rest: Rest = no_rest,
        *,
        trained: Collection[str] | None = None,
    ) -> InnerResult:
        """As in `Trainer`. ValueError if `trained` names no tensor, or one the model lacks."""
        self._trained = trained
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
        rate, self._trained = partial(warm_start_lr, self._spec), None
        run_inner_loop(self, start, batches, Course(rate=rate, now_s=self._now_s))
        return copy_params(self._accelerator.unwrap_model(self._model))

    def begin(self, start: Mapping[str, Tensor]) -> None:
        """As in `Engine`."""
        self.revision = object()
        layout, optimizer = self._layout, self._optimizer
        wanted = layout.wanted(self._trained)
        optimizer.drop_gradients()
        if wanted == layout.trained:
            optimizer.place()
        else:
            optimizer.release()  # to make room for the other range
            layout.arrange(wanted)
            self._take_up()
        layout.load(start)
        self._model.train()
        reset_peak(self._device)

    def make_room(self) -> None:
        """As in `Engine`: without gradients."""
        self._optimizer.drop_gradients()
        give_back_freed()

    def speed(self, pages: int, elapsed_s: float) -> Speed:
        """As in `Engine`."""
        tokens_per_s = pages * self._spec.data.page_tokens / max(elapsed_s, 1e-9)
        peak = self._options.peak_tflops or peak_tflops(
            device_name(self._device), self._spec.training.precision
        )
        work = tokens_per_s * range_flops_per_token(
            self._spec, tensor_shapes(self._spec), self._layout.trained
        )
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
        for name, parameter in self._layout.parameters().items():
            end = parameter.detach().to("cpu", torch.float32)
            deltas[name] = torch.sub(start[name], end, out=KEPT.empty(end.shape))
        if not self._layout.is_whole:
            self._optimizer.park()  # another range may be next
            self._layout.let_go()
        return deltas

    def shift(self, start: Mapping[str, Tensor], goal: Mapping[str, Tensor]) -> None:
        """As in `Engine`."""
        self._layout.move(start, goal)

    def take_step(self, batch: np.ndarray, lr: float) -> Tensor:
        """As in `Engine`."""
        self._optimizer.allocate()
        while (loss := self._try_passes(batch)) is None:
            self._give_memory_back()
        self._micro.note_fit()
        self._accelerator.clip_grad_norm_(
            self._model.parameters(), self._spec.training.max_gradient_norm
        )
        self._optimizer.step(lr)
        return loss

    def _try_passes(self, batch: np.ndarray) -> Tensor | None:
        """The gradients of a batch, added up pass by pass, and the mean loss; None if the device's
        memory did not suffice.
        """
        self._optimizer.drop_gradients()
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
        self._optimizer.drop_gradients()
        clear_device_cache(garbage_collection=True)
        if not self._micro.note_refusal():
            remedies = ["--neuron.micro_batch auto" if pages > 1 else "a larger device"]
            if not self._options.checkpoints_activations:
                remedies.append("--neuron.activation_checkpointing")
            remedies.append("more --neuron.parts")
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
        """Mean loss of some pages, nats per predicted token that counts."""
        model_spec, chat = self._spec.model, self._spec.data.chat
        spreads = model_spec.router_aux_loss_coef > 0
        shares = None if chat is None else answer_shares(tokens, chat)
        if model_spec.vocab_size < CHUNKED_VOCAB and not spreads:
            if shares is not None:
                return shared_loss(self._model(input_ids=tokens).logits, tokens, shares)
            loss: Tensor = self._model(input_ids=tokens, labels=tokens).loss
            return loss
        model = self._accelerator.unwrap_model(self._model)
        asked = {"output_router_logits": True} if spreads else {}
        with self._accelerator.autocast():
            out = model.model(input_ids=tokens, **asked)
        hidden, head = out.last_hidden_state, model.lm_head.weight
        if self._spec.training.precision == "bf16":
            hidden, head = hidden.bfloat16(), head.bfloat16()
        loss = next_token_loss(hidden, head, tokens, shares_PT=shares)
        if spreads:
            crowding = spread_loss(out.router_logits, len(tokens), model_spec.num_experts_per_tok)
            loss = loss + model_spec.router_aux_loss_coef * crowding
        return loss

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
            + (f", parts {options.parts}, frozen {options.frozen}" if options.parts > 1 else "")
        )

    def moments(self) -> dict[str, Tensor]:
        """The optimizer's state as flat names, for a local checkpoint; empty before the first step.

        On the CPU the optimizer's own memory, without a copy: the next step changes the values.
        """
        return self._optimizer.moments()

    def reset_moments(self) -> None:
        """Reset the optimizer's state to the state before the first step, of all tensors."""
        self.revision = object()
        self._optimizer.reset()

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """As in `Trainer`. A tensor without any state begins anew.

        On the CPU the tensors become the optimizer's own memory, without a copy.
        """
        if not moments:
            return
        self.revision = object()
        self._optimizer.load(moments)
