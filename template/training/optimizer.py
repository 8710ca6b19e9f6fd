"""The inner optimizer: AdamW, or Muon for hidden matrices and AdamW for everything else.

`training.inner_optimizer` of the run spec chooses. Moments are kept tensor by tensor: the moments
of what does not train now lie on the host, and a tensor that trains again goes on with its own
moments and its own count of steps.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from template.protocol.spec.training import TrainingSpec
from template.training.devices import FUSED_ADAMW
from template.training.muon import MOMENTUM, Muon, is_hidden

STEP: Final = "step"
AVERAGES: Final = ("exp_avg", "exp_avg_sq")
"""Of torch's AdamW, for each tensor; Muon has the first alone."""
KEYS: Final = (STEP, *AVERAGES)

State = dict[str, Tensor]


def is_turned(spec: TrainingSpec, name: str, shape: Sequence[int]) -> bool:
    """Whether Muon steps this tensor, and not AdamW."""
    return spec.inner_optimizer == "muon" and is_hidden(name, shape)


def state_shapes(
    spec: TrainingSpec, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Flat name -> shape of all moments: `exp_avg.NAME` and so on, a step's shape is ()."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        for key in keys_of(spec, name, shape):
            found[f"{key}.{name}"] = () if key == STEP else shape
    return found


def keys_of(spec: TrainingSpec, name: str, shape: Sequence[int]) -> tuple[str, ...]:
    """The kinds of moments that a tensor has."""
    return (MOMENTUM,) if is_turned(spec, name, shape) else KEYS


class NamedOptimizer:
    """One optimizer step over parameters by name, and their moments."""

    def __init__(
        self,
        spec: TrainingSpec,
        named: Mapping[str, nn.Parameter],
        device: torch.device,
        muon: type[Muon] = Muon,
    ) -> None:
        """`muon`: another class where parameters are cut into rows."""
        self._spec, self._named = spec, dict(named)
        self._is_fused = device.type in FUSED_ADAMW
        turned = {name: p for name, p in named.items() if is_turned(spec, name, p.shape)}
        others = [p for name, p in named.items() if name not in turned]
        self._muon = muon(turned, spec)
        self._adamw: torch.optim.AdamW | None = None
        if others:  # torch refuses an optimizer of nothing
            self._adamw = torch.optim.AdamW(
                others,
                lr=spec.inner_lr,
                betas=(spec.adam_beta1, spec.adam_beta2),
                weight_decay=spec.weight_decay,
                fused=self._is_fused or None,
            )

    def step(self, lr: float) -> None:
        """A step on the gradients."""
        if self._adamw is not None:
            for group in self._adamw.param_groups:
                group["lr"] = lr
            self._adamw.step()
        self._muon.step(lr)

    def drop_gradients(self) -> None:
        """Give up the gradients' memory."""
        for parameter in self._named.values():
            parameter.grad = None

    def allocate(self) -> None:
        """The first state, ahead of the first pass: what fits beside it always fits."""
        for name in self._named:
            if self.state(name) is None:
                self.put(name, self.first_state(name))

    def first_state(self, name: str, steps: float = 0.0) -> State:
        """Moments of nothing, after so many steps."""
        parameter = self._named[name]
        return {
            key: torch.tensor(steps, device=self._step_device(parameter))
            if key == STEP
            else torch.zeros_like(parameter, memory_format=torch.preserve_format)
            for key in keys_of(self._spec, name, parameter.shape)
        }

    def state(self, name: str) -> State | None:
        """The moments of a parameter, in the optimizer's memory; None before its first step."""
        return self._states(name).get(self._named[name])

    def put(self, name: str, state: State) -> None:
        """Go on with these moments, which may lie on another device."""
        parameter = self._named[name]
        self._states(name)[parameter] = {
            key: value.to(self._step_device(parameter) if key == STEP else parameter.device)
            for key, value in state.items()
        }

    def pop(self, name: str) -> State | None:
        """The moments of a parameter, which then has none."""
        return self._states(name).pop(self._named[name], None)

    def _states(self, name: str) -> dict[nn.Parameter, State]:
        """Of the optimizer that steps this parameter."""
        if is_turned(self._spec, name, self._named[name].shape):
            return self._muon.state
        assert self._adamw is not None
        return self._adamw.state  # type: ignore[return-value]

    def _step_device(self, parameter: Tensor) -> torch.device:
        """AdamW counts steps on the CPU, in one kernel beside the parameter."""
        return parameter.device if self._is_fused else torch.device("cpu")


class RangedOptimizer:
    """The optimizer of a model whose trained parameters change from window to window."""

    def __init__(
        self,
        spec: TrainingSpec,
        shapes: Mapping[str, Sequence[int]],
        device: torch.device,
    ) -> None:
        """`shapes`: of all tensors of the model, in the order of the moments."""
        self._spec, self._shapes, self._device = spec, dict(shapes), device
        self._named: dict[str, nn.Parameter] = {}
        self._kept: dict[str, State] = {}
        """Moments on the host: of what does not train now."""
        self._optimizer = NamedOptimizer(spec, {}, device)

    def take(self, named: Mapping[str, nn.Parameter]) -> None:
        """Go on with these parameters, each with the moments that it had."""
        self.release()
        self._optimizer = NamedOptimizer(self._spec, named, self._device)
        self._named = dict(named)
        self.place()

    def follow(self, spec: TrainingSpec) -> None:
        """Go on by another spec, with the moments that its optimizer knows."""
        named = self._named
        self.release()
        self._spec = spec
        known = {name: self._known(name, state) for name, state in self._kept.items()}
        self._kept = {name: state for name, state in known.items() if state is not None}
        self.take(named)

    def release(self) -> None:
        """Know no parameters until the next `take`."""
        self.park()
        self._named = {}
        self._optimizer = NamedOptimizer(self._spec, {}, self._device)

    def park(self) -> None:
        """Bring all moments to the host, until `place`; on the CPU without a copy."""
        for name in self._named:
            if (state := self._optimizer.pop(name)) is not None:
                self._kept[name] = _on_host(state)

    def place(self) -> None:
        """Bring moments from the host to the parameters that train."""
        for name in self._named:
            if (kept := self._kept.pop(name, None)) is not None:
                self._optimizer.put(name, kept)

    def step(self, lr: float) -> None:
        """A step on the gradients."""
        assert self._named, "take comes first"
        self._optimizer.step(lr)

    def drop_gradients(self) -> None:
        """Give up the gradients' memory."""
        self._optimizer.drop_gradients()

    def allocate(self) -> None:
        """The first state of what trains, as in `NamedOptimizer`."""
        self._optimizer.allocate()

    def moments(self) -> dict[str, Tensor]:
        """Moments by flat names: the memory of optimizer and host, copied from a device alone."""
        found = dict(self._kept)
        for name in self._named:
            if (state := self._optimizer.state(name)) is not None:
                found[name] = _on_host(state)
        return {
            f"{key}.{name}": value
            for name in self._shapes
            if name in found
            for key, value in found[name].items()
        }

    def load(self, moments: Mapping[str, Tensor]) -> None:
        """Restore the result of `moments()`. A tensor without moments starts with none.

        KeyError if a tensor lacks some. On the CPU without a copy.
        """
        found: dict[str, State] = {}
        for name in self._shapes:
            kept = {k: moments[f"{k}.{name}"] for k in KEYS if f"{k}.{name}" in moments}
            if (state := self._known(name, kept)) is not None:
                found[name] = state
        self.reset()
        self._kept = found
        self.place()

    def reset(self) -> None:
        """Forget all moments."""
        self._kept = {}
        for name in self._named:
            self._optimizer.pop(name)

    def _known(self, name: str, kept: State) -> State | None:
        """What a tensor goes on with, of moments that another optimizer may have left; None for a
        new beginning. KeyError if moments are missing.
        """
        keys = keys_of(self._spec, name, self._shapes[name])
        if not kept or is_foreign(kept, keys):
            return None
        if missing := set(keys) - kept.keys():
            raise KeyError(f"{min(missing)}.{name}")
        return {key: kept[key] for key in keys}


def is_foreign(kept: Collection[str], keys: Collection[str]) -> bool:
    """Whether these are Muon's moments of a tensor that AdamW steps now.

    The other way round the momentum is AdamW's first moment, and goes on. AdamW would divide by a
    second moment that nothing has made.
    """
    return set(kept) == {MOMENTUM} != set(keys)


def _on_host(state: State) -> State:
    return {key: value.detach().cpu() for key, value in state.items()}
