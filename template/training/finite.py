"""Whether tensors are finite, in one pass over memory and without a tensor of booleans."""

from collections.abc import Iterable

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether no value of the tensor is infinite or NaN: exact, whatever the values.

    A sum carries every infinity and NaN on, so a finite sum is proof. The sum of finite values may
    overflow all the same: then the values are looked at one by one.
    """
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no value of any tensor is infinite or NaN."""
    return all(is_finite(tensor) for tensor in tensors)
