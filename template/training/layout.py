"""Where a model's parameters lie while a block range of the model trains, and the rest is frozen.

What trains lies in float32 on the device. Frozen matrices lie in bf16 where the run multiplies in
bf16, in float32 elsewhere; norms and other vectors always in float32. A frozen float32 tensor on
the CPU is theta's own memory, without a copy. With `frozen="host"` the frozen matrices of the
layers lie on the host, and are on the device for the time of their own layer's arithmetic alone:
once in the forward pass, and once when the backward pass computes the layer's activations again.
The output layer stays on the device; a frozen embedding of its own is read on the host.

Neither `accelerate`'s hooks for offloaded weights nor the checkpointing of `transformers` does
that: the second computation goes past a module's hooks, and ends in the middle of a layer.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from template.training.options import InnerOptions

HOST = torch.device("cpu")
Place = tuple[nn.Module, str]
"""A module and an attribute: tied tensors have several places."""


class Layout:
    """The parameters of one model, by their names in theta."""

    def __init__(
        self, model: PreTrainedModel, device: torch.device, precision: str, options: InnerOptions
    ) -> None:
        """The model may lie on the meta device: `load` gives memory to what needs some."""
        self._model, self._device = model, device
        self._frozen_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._places = _places_of(model)
        is_made = not any(parameter.is_meta for parameter in model.parameters())
        self.trained = frozenset(self._places if is_made else ())
        """Names of what trains."""
        self._borrowed: set[str] = set()
        """Names of parameters in theta's own memory, where nothing may be written."""
        self._hosted: frozenset[str] = frozenset()
        self._streams, self._is_cut = options.streams, False
        if options.parts > 1:
            self._cut_once()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all parameters, in the order of the forward pass."""
        return tuple(self._places)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What trains, by name."""
        return {name: self._parameter(name) for name in self._places if name in self.trained}

    @property
    def is_whole(self) -> bool:
        """Whether everything trains."""
        return len(self.trained) == len(self._places)

    def wanted(self, trained: Collection[str] | None) -> frozenset[str]:
        """The names of what is to train, None for all; ValueError for no names, or unknown ones."""
        if trained is None:
            return frozenset(self._places)
        if unknown := set(trained) - self._places.keys():
            raise ValueError(f"trained: the model has no tensor {min(unknown)}")
        if not trained:
            raise ValueError("trained: names no tensor; None trains all")
        return frozenset(trained)

    def arrange(self, wanted: frozenset[str]) -> None:
        """Train these: give every parameter the memory of its part, with any values.

        What another part had is freed first.
        """
        if len(wanted) < len(self._places):
            self._cut_once()
        self.let_go()
        self.trained = wanted
        kept = []
        for name in self._places:
            parameter, (device, dtype) = self._parameter(name), self._home(name)
            if (parameter.device, parameter.dtype) == (device, dtype):
                kept.append(name)
            else:
                self._empty(name)
        for name in self._places:
            trains = name in wanted
            if name in kept:
                # Another object: hooks and a gradient belong to the one before.
                self._set(name, self._parameter(name).detach(), trains=trains)
            elif trains:
                shape = self._parameter(name).shape
                self._set(name, torch.empty(shape, device=self._device), trains=True)

    @torch.no_grad()
    def load(self, params: Mapping[str, Tensor]) -> None:
        """Take values. KeyError for a missing name, RuntimeError for a wrong shape."""
        self._await_device()
        for name in self._places:
            if name in self.trained:
                self._parameter(name).copy_(params[name])
            else:
                self._freeze(name, params[name])

    @torch.no_grad()
    def move(self, start: Mapping[str, Tensor], goal: Mapping[str, Tensor]) -> None:
        """Move what trains by goal - start; what is frozen becomes the goal."""
        self._await_device()
        for name in self._places:
            parameter = self._parameter(name)
            if name in self.trained:
                parameter.add_((goal[name] - start[name]).to(parameter.device))
            else:
                self._freeze(name, goal[name])

    def let_go(self) -> None:
        """Hold theta's own memory no longer, until the next `load`."""
        for name in self._borrowed:
            self._empty(name)
        self._borrowed.clear()

    def _home(self, name: str) -> tuple[torch.device, torch.dtype]:
        """Device and dtype of a parameter."""
        if name in self.trained:
            return self._device, torch.float32
        is_matrix = self._parameter(name).dim() > 1
        device = HOST if name in self._hosted else self._device
        return device, self._frozen_dtype if is_matrix else torch.float32

    def _freeze(self, name: str, value: Tensor) -> None:
        """Give a frozen parameter its value."""
        parameter, (device, dtype) = self._parameter(name), self._home(name)
        if value.shape != parameter.shape:
            raise RuntimeError(f"{name}: has shape {tuple(value.shape)} instead of "
                               f"{tuple(parameter.shape)}")  # fmt: skip
        if (value.device, value.dtype) == (device, dtype):
            self._borrowed.add(name)
            self._set(name, value.detach(), trains=False)
        elif parameter.is_meta or name in self._borrowed:
            self._borrowed.discard(name)
            self._set(name, self._made(value, device, dtype), trains=False)
        else:
            parameter.copy_(value)

    def _made(self, value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        made = value.detach().to(device, dtype)
        # From pinned memory a GPU copies while the CPU goes on.
        is_pinned = device == HOST and self._device.type in ("cuda", "xpu")
        return made.pin_memory() if is_pinned else made

    def _await_device(self) -> None:
        """What a device may still copy from the host must not change."""
        if self._hosted and self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)

    def _cut_once(self) -> None:
        """Prepare the modules for frozen parameters."""
        if self._is_cut:
            return
        self._is_cut = True
        embedding = self._model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        _widen(embedding)
        if not self._streams:
            return
        hosted: set[str] = set()
        for layer in self._model.model.layers:
            names = [n for n, places in self._places.items() if _is_in(places[0], layer)]
            matrices = [n for n in names if self._parameter(n).dim() > 1]
            hosted.update(matrices)
            _stream(layer, [self._places[n][0] for n in matrices], self._device)
        if not self._model.config.tie_word_embeddings:
            hosted.update(n for n, p in self._places.items() if _is_in(p[0], embedding))
        self._hosted = frozenset(hosted)

    def _parameter(self, name: str) -> nn.Parameter:
        module, attribute = self._places[name][0]
        found = module._parameters[attribute]
        assert found is not None
        return found

    def _set(self, name: str, value: Tensor, *, trains: bool) -> None:
        parameter = nn.Parameter(value, requires_grad=trains)
        for module, attribute in self._places[name]:
            module._parameters[attribute] = parameter

    def _empty(self, name: str) -> None:
        """Free a parameter's memory."""
        self._set(name, torch.empty_like(self._parameter(name), device="meta"), trains=False)


def _places_of(model: nn.Module) -> dict[str, tuple[Place, ...]]:
    """Name in theta -> every place of the tensor."""
    found: dict[int, tuple[str, list[Place]]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        owner, _, attribute = path.rpartition(".")
        place = (model.get_submodule(owner), attribute)
        found.setdefault(id(parameter), (path, []))[1].append(place)
    return {name: tuple(places) for name, places in found.values()}


def _is_in(place: Place, block: nn.Module) -> bool:
    return any(place[0] is module for module in block.modules())


def _widen(embedding: nn.Embedding) -> None:
    """Read the embedding where its rows lie; the residual stream stays float32 on the device."""
    forward = embedding.forward

    @wraps(forward)
    def run(tokens: Tensor) -> Tensor:
        return forward(tokens.to(embedding.weight.device)).to(tokens.device, torch.float32)

    embedding.forward = run  # type: ignore[method-assign, assignment]


def _stream(block: nn.Module, places: Sequence[Place], device: torch.device) -> None:
    """Have a block's frozen matrices on the device for the block's own arithmetic alone.

    The block keeps its input for the backward pass, and computes the rest again.
    """
    forward = block.forward

    def compute(*args: Any, **kwargs: Any) -> Any:
        with _on_device(places, device):
            return forward(*args, **kwargs)

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(compute, *args, use_reentrant=False, **kwargs)

    block.forward = run


@contextmanager
def _on_device(places: Sequence[Place], device: torch.device) -> Iterator[None]:
    """Copies on the device in the places of the frozen parameters.

    The graph of a backward pass holds the copies that it needs, and no longer than it needs them.
    """
    frozen: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for module, attribute in places:
            parameter = module._parameters[attribute]
            if parameter is None or parameter.requires_grad:
                continue
            frozen.append((module, attribute, parameter))
            copied = parameter.detach().to(device, non_blocking=True, copy=True)
            module._parameters[attribute] = nn.Parameter(copied, requires_grad=False)
        yield
    finally:
        for module, attribute, parameter in frozen:
            module._parameters[attribute] = parameter
