"""Top-k by magnitude within each chunk; equal magnitudes go to the lowest index.

The PyTorch version, for tensors on a GPU; `kernels.accumulate_and_select` makes the same choice
on the CPU.

Legend: N chunks, C elements per chunk, K kept.
"""

import torch
from torch import Tensor


def select_topk(values_NC: Tensor, k: int) -> Tensor:
    """Indices of the k largest magnitudes of each row, ascending; int64 [N, K], on any device.

    Equal magnitudes go to the lowest index, so the choice is the same on any device; `torch.topk`
    gives no such guarantee. Deterministic. ValueError if k is not in [1, C] or a value is not
    finite.
    """
    num_chunks, num_elements = values_NC.shape
    if not 1 <= k <= num_elements:
        raise ValueError(f"k is {k}: k must be in [1, {num_elements}]")
    if not torch.isfinite(values_NC).all():
        raise ValueError("values are not finite: a pseudo-gradient with NaN or Inf is not sent")
    magnitude_NC = values_NC.abs()
    threshold_N1 = magnitude_NC.topk(k, dim=1).values[:, -1:]
    above_NC = magnitude_NC > threshold_N1
    tied_NC = magnitude_NC == threshold_N1
    missing_N1 = k - above_NC.sum(dim=1, keepdim=True)
    chosen_NC = above_NC | (tied_NC & (tied_NC.cumsum(dim=1) <= missing_N1))
    return chosen_NC.nonzero()[:, 1].view(num_chunks, k)
