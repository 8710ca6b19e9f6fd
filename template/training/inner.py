"""The inner loop: AdamW steps of a miner on the assigned pages.

Moments are kept from window to window (SparseLoCo, arXiv 2508.15706, algorithm 1); the parameters
start each window at the network's theta. Accelerate handles device and precision; master parameters
are float32.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from template.errors import ConfigError
from template.protocol.spec import RunSpec
from template.training.memory import KEPT
from template.training.model import Params, build_model, copy_params, load_params
from template.training.rates import inner_lr, warm_start_lr


@dataclass(frozen=True, kw_only=True, slots=True)
class InnerResult:
    """Result of a window's inner loop. `pseudo_gradient` is start - end, per tensor.

    `mean_loss`: nats per token, NaN without steps. `moved_at`: the step before which the start was
    moved to newer parameters, or None.
    """

    pseudo_gradient: Params
    pages_consumed: int
    steps: int
    mean_loss: float
    moved_at: int | None = None


class InnerTrainer:
    """Model and AdamW of one miner. Not thread-safe: one window at a time."""

    def __init__(self, spec: RunSpec, device: str) -> None:
        self._spec = spec
        self._accelerator = _make_accelerator(device, spec.training.precision)
        training = spec.training
        model = build_model(spec)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=training.inner_lr,
            betas=(training.adam_beta1, training.adam_beta2),
            weight_decay=training.weight_decay,
        )
        self._model, self._optimizer = self._accelerator.prepare(model, optimizer)

    def train(
        self,
        start: Mapping[str, Tensor],
        window: int,
        batches: Iterable[np.ndarray],
        stop: Callable[[], bool],
        newer: Callable[[], Mapping[str, Tensor] | None] = lambda: None,
    ) -> InnerResult:
        """Train from `start` until the batches end or `stop()` is true before a step.

        A batch is int64 [pages, page_tokens]; loss in nats per token. Before each step, `newer()`
        may return newer parameters to start from: start and current parameters then shift by the
        same difference, so the progress of the window is kept.
        """
        return self._run_loop(start, batches, stop, partial(inner_lr, self._spec, window), newer)

    def train_alone(self, start: Mapping[str, Tensor], batches: Iterable[np.ndarray]) -> Params:
        """Parameters after a step on each batch, from `start`: the owner's warm start."""
        rate = partial(warm_start_lr, self._spec)
        self._run_loop(start, batches, lambda: False, rate, lambda: None)
        return copy_params(self._accelerator.unwrap_model(self._model))

    def _run_loop(
        self,
        start: Mapping[str, Tensor],
        batches: Iterable[np.ndarray],
        stop: Callable[[], bool],
        rate: Callable[[int], float],
        newer: Callable[[], Mapping[str, Tensor] | None],
    ) -> InnerResult:
        load_params(self._accelerator.unwrap_model(self._model), start)
        self._model.train()
        pages, losses, moved_at = 0, [], None
        for step, batch in enumerate(batches):
            if stop():
                break
            # Both ends move alike, so start - end goes on measuring this window's work alone.
            if (goal := newer()) is not None:
                self._shift_parameters(start, goal)
                start, moved_at = goal, step
            losses.append(self._take_step(batch, rate(step)))
            pages += len(batch)
        self._optimizer.zero_grad()  # room for the pseudo-gradient
        return InnerResult(
            pseudo_gradient=self._subtract_end(start),
            pages_consumed=pages,
            steps=len(losses),
            mean_loss=float(np.mean(losses)) if losses else float("nan"),
            moved_at=moved_at,
        )

    @torch.no_grad()
    def _subtract_end(self, start: Mapping[str, Tensor]) -> Params:
        """start - end, without a copy of either end: a tensor at a time, in kept memory."""
        deltas: Params = {}
        for name, parameter in self._accelerator.unwrap_model(self._model).named_parameters():
            end = parameter.detach().to("cpu", torch.float32)
            deltas[name] = torch.sub(start[name], end, out=KEPT.empty(end.shape))
        return deltas

    @torch.no_grad()
    def _shift_parameters(self, start: Mapping[str, Tensor], goal: Mapping[str, Tensor]) -> None:
        for name, parameter in self._accelerator.unwrap_model(self._model).named_parameters():
            parameter += (goal[name] - start[name]).to(parameter.device)

    def _take_step(self, batch: np.ndarray, lr: float) -> float:
        tokens = torch.from_numpy(batch).to(self._accelerator.device)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad()
        loss = self._model(input_ids=tokens, labels=tokens).loss
        self._accelerator.backward(loss)
        self._accelerator.clip_grad_norm_(
            self._model.parameters(), self._spec.training.max_gradient_norm
        )
        self._optimizer.step()
        return float(loss.detach())

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
        self._optimizer.state.clear()

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Restore the result of `moments()`; KeyError for a missing tensor."""
        if not moments:
            return
        model = self._accelerator.unwrap_model(self._model)
        for name, parameter in model.named_parameters():
            # AdamW keeps the step count on the CPU, the moments beside the parameter.
            keys = ("step", "exp_avg", "exp_avg_sq")
            self._optimizer.state[parameter] = {
                key: moments[f"{key}.{name}"]
                .clone()
                .to("cpu" if key == "step" else parameter.device)
                for key in keys
            }


def _make_accelerator(device: str, precision: str) -> Accelerator:
    on_cpu = device == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        raise ConfigError(f"--neuron.device {device}: no such device on this machine; use cpu")
    return Accelerator(cpu=on_cpu, mixed_precision=precision)
