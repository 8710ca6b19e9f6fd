"""Top-k by magnitude within each chunk; equal magnitudes go to the lowest index.

Magnitudes are compared as the integers that their bits spell without the sign: the same
order as that of the floats, and NaN, being above infinity, is always kept and then seen.

Legend: N chunks, C elements per chunk, K kept.
"""

import numpy as np
import torch
from torch import Tensor

MAGNITUDE_BITS = 0x7FFFFFFF


def select_topk(values_NC: Tensor, k: int) -> Tensor:
    """Indices of the k largest magnitudes of each row, ascending; int64 [N, K], on any device.

    Equal magnitudes go to the lowest index, which `torch.topk` does not promise: the
    choice must not depend on the device. Deterministic. ValueError if k is not in [1, C]
    or a value is not finite.
    """
    num_chunks, num_elements = values_NC.shape
    if not 1 <= k <= num_elements:
        raise ValueError(f"k is {k}: it must be in [1, {num_elements}]")
    if not torch.isfinite(values_NC).all():
        raise ValueError("values are not finite: a pseudo-gradient with NaN or Inf is not sent")
    magnitude_NC = values_NC.abs()
    threshold_N1 = magnitude_NC.topk(k, dim=1).values[:, -1:]
    above_NC = magnitude_NC > threshold_N1
    tied_NC = magnitude_NC == threshold_N1
    missing_N1 = k - above_NC.sum(dim=1, keepdim=True)
    chosen_NC = above_NC | (tied_NC & (tied_NC.cumsum(dim=1) <= missing_N1))
    return chosen_NC.nonzero()[:, 1].view(num_chunks, k)


def select_magnitudes(
    magnitude_NC: np.ndarray, k: int, scratch_NC: np.ndarray, chosen_NC: np.ndarray
) -> np.ndarray:
    """The same choice on int32 magnitudes (sign bit cleared); int64 [N, K], ascending.

    `scratch_NC` (int32) and `chosen_NC` (bool) are overwritten: buffers of the caller.
    """
    num_chunks, num_elements = magnitude_NC.shape
    np.copyto(scratch_NC, magnitude_NC)
    scratch_NC.partition(num_elements - k, axis=1)
    threshold_N1 = scratch_NC[:, num_elements - k, None]
    np.greater_equal(magnitude_NC, threshold_N1, out=chosen_NC)
    flat = np.flatnonzero(chosen_NC)
    if flat.size != num_chunks * k:
        _drop_late_ties(magnitude_NC, threshold_N1, chosen_NC, k)
        flat = np.flatnonzero(chosen_NC)
    first_N1 = np.arange(0, num_chunks * num_elements, num_elements)[:, None]
    return flat.reshape(num_chunks, k) - first_N1


def _drop_late_ties(
    magnitude_NC: np.ndarray, threshold_N1: np.ndarray, chosen_NC: np.ndarray, k: int
) -> None:
    crowded = np.flatnonzero(np.count_nonzero(chosen_NC, axis=1) > k)
    rows, thresholds = magnitude_NC[crowded], threshold_N1[crowded]
    above, tied = rows > thresholds, rows == thresholds
    missing = k - np.count_nonzero(above, axis=1)[:, None]
    chosen_NC[crowded] = above | (tied & (np.cumsum(tied, axis=1) <= missing))
