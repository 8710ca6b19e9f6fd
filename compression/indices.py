"""Sorted index sets in fixed-size Elias-Fano sections.

k ascending indices below n: the low l = floor(log2(n / k)) bits of each are stored as
they are; the high parts as a bit map in which the i-th one stands at high_i + i. For 64
of 4096 that is 48 + 16 = 64 bytes, 8 bits an index (the bound is log2 C(4096, 64) / 64 =
7.36). The size depends on n and k alone. Bits are filled from the most significant of
each byte; padding bits are zero.

Source: P. Elias (1974); R. Fano (1971).

Legend: N chunks, K indices per chunk, L low bits, U bits of the upper map, B bytes.
"""

import numpy as np
import torch
from torch import Tensor


class IndexSectionError(ValueError):
    """A section does not hold k ascending indices below n."""


def low_bits(num_elements: int, k: int) -> int:
    return (num_elements // k).bit_length() - 1


def _upper_bits(num_elements: int, k: int) -> int:
    return k + ((num_elements - 1) >> low_bits(num_elements, k))


def section_bytes(num_elements: int, k: int) -> tuple[int, int]:
    """Bytes per chunk of the low parts and of the upper map."""
    return -(-k * low_bits(num_elements, k) // 8), -(-_upper_bits(num_elements, k) // 8)


def pack_indices(indices_NK: Tensor, num_elements: int) -> bytes:
    """All chunks' low parts, then all chunks' upper maps. Indices ascending in each row."""
    index_NK = indices_NK.cpu().numpy()
    num_chunks, k = index_NK.shape
    width = low_bits(num_elements, k)
    shifts_L = np.arange(width - 1, -1, -1)
    low_NKL = (index_NK[:, :, None] >> shifts_L) & 1
    low_NB = np.packbits(low_NKL.reshape(num_chunks, -1).astype(np.uint8), axis=1)
    upper_NU = np.zeros((num_chunks, _upper_bits(num_elements, k)), dtype=np.uint8)
    position_NK = (index_NK >> width) + np.arange(k)
    np.put_along_axis(upper_NU, position_NK, 1, axis=1)
    return low_NB.tobytes() + np.packbits(upper_NU, axis=1).tobytes()


def unpack_indices(data: bytes, num_chunks: int, num_elements: int, k: int) -> Tensor:
    """int64 [N, K], ascending and unique in each row, all below `num_elements`.

    The inverse of `pack_indices` on exactly the bytes that it writes; anything else
    raises IndexSectionError. `data` has the exact length (the caller cuts it).
    """
    low_size, upper_size = section_bytes(num_elements, k)
    raw = np.frombuffer(data, dtype=np.uint8)
    split = num_chunks * low_size
    low_NB, upper_NB = raw[:split].reshape(num_chunks, -1), raw[split:].reshape(num_chunks, -1)
    upper_NU = np.unpackbits(upper_NB, axis=1)
    if not (upper_NU.sum(axis=1) == k).all():
        raise IndexSectionError(f"an upper map does not have {k} ones")
    position_NK = np.nonzero(upper_NU)[1].reshape(num_chunks, k)
    high_NK = position_NK - np.arange(k)
    width = low_bits(num_elements, k)
    low_bits_N = np.unpackbits(low_NB, axis=1)
    if low_bits_N[:, k * width :].any():
        raise IndexSectionError("padding bits are set")
    shifts_L = np.arange(width - 1, -1, -1)
    low_NK = (low_bits_N[:, : k * width].reshape(num_chunks, k, width) << shifts_L).sum(axis=2)
    index_NK = (high_NK << width) | low_NK
    if (index_NK >= num_elements).any():
        raise IndexSectionError(f"an index is {num_elements} or more")
    if (np.diff(index_NK, axis=1) <= 0).any():
        raise IndexSectionError("indices are not strictly ascending")
    return torch.from_numpy(index_NK.astype(np.int64))
