"""Top-k by magnitude within each chunk; equal magnitudes go to the lowest index.

The PyTorch version, for tensors on a GPU; `kernels.accumulate_and_select` makes the same choice
on the CPU. Sorting many short rows is what a GPU does well, and `torch.topk` promises nothing about
equal magnitudes; so a long row is first cut to the k octets with the largest magnitudes, and the
rest is sorted.

Legend: N chunks, C elements per chunk, K kept, G octets of a chunk.
"""

import torch
from torch import Tensor

OCTET = 8
"""Elements compared by their largest alone: 8 float32s are the least that a GPU reads at once."""


def select_topk(values_NC: Tensor, k: int) -> Tensor:
    """Indices of the k largest magnitudes of each row, ascending; int64 [N, K], on any device.

    Equal magnitudes go to the lowest index, so the choice is the same on any device.
    Deterministic. ValueError if k is not in [1, C] or a value is not finite.
    """
    num_elements = values_NC.shape[1]
    if not 1 <= k <= num_elements:
        raise ValueError(f"k is {k}: k must be in [1, {num_elements}]")
    if not torch.isfinite(values_NC).all():
        raise ValueError("values are not finite: a pseudo-gradient with NaN or Inf is not sent")
    return largest_of(values_NC.abs().contiguous().view(torch.int32), k)


def largest_of(bits_NC: Tensor, k: int) -> Tensor:
    """As `select_topk`, of magnitudes as int32: the bits of non-negative floats sort like integers.

    NaN sorts above infinity, and so is always among the chosen. Makes no copy to the host.
    """
    num_chunks, num_elements = bits_NC.shape
    num_octets = num_elements // OCTET
    if num_elements % OCTET or num_octets <= k:
        return _largest_by_sort(bits_NC, k)
    # An element that precedes in (magnitude, index) gives its octet a place before all octets of
    # later elements. So the k octets with the first places hold the k first elements.
    bits_NG8 = bits_NC.view(num_chunks, num_octets, OCTET)
    octet_NK = _largest_by_sort(bits_NG8.amax(dim=2), k)
    wanted = octet_NK.unsqueeze(2).expand(-1, -1, OCTET)
    found_NK = _largest_by_sort(bits_NG8.gather(1, wanted).view(num_chunks, k * OCTET), k)
    place_NK = found_NK // OCTET
    return octet_NK.gather(1, place_NK).mul_(OCTET).add_(found_NK.sub_(place_NK, alpha=OCTET))


def _largest_by_sort(bits_NC: Tensor, k: int) -> Tensor:
    order_NC = bits_NC.sort(dim=1, descending=True, stable=True).indices
    return order_NC[:, :k].sort(dim=1).values
