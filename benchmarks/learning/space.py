"""A model's tensors as one flat vector, and back as views of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Where each tensor of a model lies in a vector of `num_elements`, in the spec's order."""

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def num_elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Name -> contiguous view of its part of the vector."""
        views, start = {}, 0
        for name, shape in self.shapes.items():
            stop = start + math.prod(shape)
            views[name] = flat[start:stop].view(shape)
            start = stop
        return views

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """A new vector of all tensors' elements."""
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.shapes])
