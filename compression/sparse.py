"""Decoded bodies: kept values with their flat indices, and addition to dense tensors.

A value is multiplied by a coefficient and then added, in two separate float32 operations; the
indices of a body are unique within a tensor. The result is therefore bitwise equal for any
number of threads, any size of blocks and any device.

Legend: nnz kept values of a tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compression.workers import for_each

ADD_BLOCK = 1 << 16
"""Kept values per unit of a thread's work."""


class CodecError(ValueError):
    """The bytes are invalid in the format; `reason` is a short, stable word.

    `place`: offset in the body of a scale byte: of the piece with the faulty chunk, or -1 if the
    fault is in the length or in a tensor's shared bytes. Of several processes' faults, the one
    with the smallest place is the fault that a single process finds.
    """

    def __init__(self, reason: str, detail: str = "", place: int = -1) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.place = place


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseTensor:
    """Kept values of a tensor. `indices` int64 [nnz], flat, unique; `values` float32 [nnz].

    `norm` is the Euclidean norm of the values, from integers: the correctly rounded
    square root of the correctly rounded sum, the same double on every machine.
    """

    shape: tuple[int, ...]
    indices: Tensor
    values: Tensor
    norm: float

    def add_to(self, target: Tensor, *, coefficient: float) -> None:
        """target += coefficient * self, in place: product first, then sum, never fused.

        `target` is float32 and contiguous; `coefficient` is rounded once to float32. Unique
        indices make the scatter free of collisions, and the result bitwise equal on any device.
        """
        if target.device.type == "cpu":
            flat = target.detach().view(-1).numpy()
            add_at(flat, self.indices.numpy(), self.values.numpy(), np.float32(coefficient))
            return
        factor = torch.tensor(coefficient, dtype=torch.float32, device=target.device)
        product = self.values.to(target.device) * factor
        on_device = target.detach().view(-1)
        where = self.indices.to(target.device)
        on_device[where] = on_device[where] + product


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseModel:
    """A valid body: every tensor by name, in full."""

    tensors: Mapping[str, SparseTensor]


def add_at(
    flat: np.ndarray, where: np.ndarray, values: np.ndarray, factor: np.float32 | np.ndarray
) -> None:
    """flat[where] += values * factor: product, then sum; `where` is free of repetitions.

    Overflow gives infinity, silently, as torch does.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        product = values * factor
    torch.from_numpy(flat).scatter_add_(0, torch.from_numpy(where), torch.from_numpy(product))


def apply(
    params: Mapping[str, Tensor],
    sparse: SparseModel,
    factors: Mapping[str, float],
    num_threads: int | None = None,
) -> None:
    """params[name] += float32(factor) * values, in place, for every tensor of `sparse`."""
    pieces = []
    for name, tensor in sparse.tensors.items():
        if params[name].device.type != "cpu":
            tensor.add_to(params[name], coefficient=factors[name])
            continue
        flat = params[name].detach().view(-1).numpy()
        factor = np.float32(factors[name])
        where, values = tensor.indices.numpy(), tensor.values.numpy()
        for first in range(0, len(where), ADD_BLOCK):
            part = slice(first, first + ADD_BLOCK)
            pieces.append((flat, where[part], values[part], factor))
    for_each(lambda piece: add_at(*piece), pieces, num_threads)
