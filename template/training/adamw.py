"""AdamW over the parameters that train, and the moments of every tensor ever trained.

The moments of what does not train now lie on the host, and a tensor that trains again goes on with
its own moments and its own count of steps.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from template.protocol.spec.training import TrainingSpec
from template.training.devices import FUSED_ADAMW

KEYS: Final = ("step", "exp_avg", "exp_avg_sq")
"""Of torch's AdamW, for each tensor."""
STEP: Final = KEYS[0]

State = dict[str, Tensor]


class RangedAdamW:
    """The optimizer of a model whose trained parameters change from window to window."""

    def __init__(self, spec: TrainingSpec, names: Sequence[str], device: torch.device) -> None:
        """`names`: of all tensors of the model, in the order of the moments."""
        self._spec, self._names = spec, tuple(names)
        self._is_fused = device.type in FUSED_ADAMW
        self._named: dict[str, nn.Parameter] = {}
        self._kept: dict[str, State] = {}
        """Moments on the host: of what does not train now."""
        self._optimizer: torch.optim.AdamW | None = None

    def take(self, named: Mapping[str, nn.Parameter]) -> None:
        """Go on with these parameters, each with the moments that it had."""
        self.release()
        self._named = dict(named)
        self._optimizer = torch.optim.AdamW(
            self._named.values(),
            lr=self._spec.inner_lr,
            betas=(self._spec.adam_beta1, self._spec.adam_beta2),
            weight_decay=self._spec.weight_decay,
            fused=self._is_fused or None,
        )
        self.place()

    def follow(self, spec: TrainingSpec) -> None:
        """Go on with another spec's betas and weight decay; the moments stay."""
        self._spec = spec
        for group in () if self._optimizer is None else self._optimizer.param_groups:
            group["betas"] = spec.adam_beta1, spec.adam_beta2
            group["weight_decay"] = spec.weight_decay

    def release(self) -> None:
        """Know no parameters until the next `take`."""
        self.park()
        self._named, self._optimizer = {}, None

    def park(self) -> None:
        """Bring all moments to the host, until `place`; on the CPU without a copy."""
        if self._optimizer is None:
            return
        state = self._optimizer.state
        for name, parameter in self._named.items():
            if parameter in state:
                self._kept[name] = {k: v.detach().cpu() for k, v in state.pop(parameter).items()}

    def place(self) -> None:
        """Bring moments from the host to the parameters that train."""
        for name, parameter in self._named.items():
            if (kept := self._kept.pop(name, None)) is not None:
                assert self._optimizer is not None
                self._optimizer.state[parameter] = {
                    key: value.to(self._step_device(parameter) if key == STEP else parameter.device)
                    for key, value in kept.items()
                }

    def step(self, lr: float) -> None:
        """A step on the gradients."""
        assert self._optimizer is not None, "take comes first"
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()

    def drop_gradients(self) -> None:
        """Give up the gradients' memory."""
        if self._optimizer is not None:
            self._optimizer.zero_grad()

    def allocate(self) -> None:
        """AdamW's own first state, before the first pass: what fits beside it always fits."""
        assert self._optimizer is not None, "take comes first"
        state = self._optimizer.state
        for parameter in self._named.values():
            if parameter not in state:
                state[parameter] = {
                    "step": torch.zeros((), device=self._step_device(parameter)),
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }

    def moments(self) -> dict[str, Tensor]:
        """Moments by flat names: the memory of optimizer and host, copied from a device alone."""
        state = {} if self._optimizer is None else self._optimizer.state
        found = dict(self._kept)
        for name, parameter in self._named.items():
            if parameter in state:
                found[name] = {key: v.detach().cpu() for key, v in state[parameter].items()}
        return {
            f"{key}.{name}": value
            for name in self._names
            if name in found
            for key, value in found[name].items()
        }

    def load(self, moments: Mapping[str, Tensor]) -> None:
        """Restore the result of `moments()`. A tensor without moments starts with none.

        KeyError if a tensor lacks some. On the CPU without a copy.
        """
        found: dict[str, State] = {}
        for name in self._names:
            if any(f"{key}.{name}" in moments for key in KEYS):
                found[name] = {key: moments[f"{key}.{name}"] for key in KEYS}
        self.reset()
        self._kept = found
        self.place()

    def reset(self) -> None:
        """Forget all moments."""
        self._kept = {}
        if self._optimizer is not None:
            self._optimizer.state.clear()

    def _step_device(self, parameter: Tensor) -> torch.device:
        """AdamW counts steps on the CPU, in one kernel beside the parameter."""
        return parameter.device if self._is_fused else torch.device("cpu")
