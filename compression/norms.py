"""The Euclidean norm of a float32 tensor as the correctly rounded root of the exact sum.

A float32 is an integer of 24 bits times a power of two, so the squares of one exponent add up in
integers: the sum is exact whatever the order, the machine and the number of threads, in one pass
and without a copy.

Legend: E exponents of a float32.
"""

import math

import numpy as np
import torch
from torch import Tensor

from compression.jit import compiled
from compression.workers import for_each

NUM_EXPONENTS = 256
MANTISSA_BITS = 23
SMALLEST_POWER = -149
"""Power of two of the last bit of the smallest float32s."""
BLOCK_ELEMENTS = 1 << 14
"""Squares below 2^48 added up in an int64 before a carry: 2^62 at most, beside 2^32 left over."""
CARRY_BITS = 32
PIECE_ELEMENTS = 1 << 20


def exact_norm(tensor: Tensor, num_threads: int | None = None) -> float:
    """The norm of a float32 tensor: the same double on every machine.

    Equal to the square root of `math.fsum` over the exact squares; inf or NaN for a tensor with
    such values.
    """
    return norm_of_squares(sum_squares(tensor, num_threads))


def sum_squares(tensor: Tensor, num_threads: int | None = None) -> np.ndarray:
    """The sum of a tensor's squares, int64 [E, 2]: sums of a tensor's bands add up to the tensor's.

    By exponent, units of 2^32 and the rest, of squared mantissas. The last row counts values that
    are no numbers: NaNs, and infinities.
    """
    if tensor.dtype != torch.float32:
        raise ValueError(f"dtype is {tensor.dtype}: an exact norm is of float32")
    flat = tensor.detach().cpu().reshape(-1).numpy()
    bits = flat.view(np.int32)

    def add(first: int) -> np.ndarray:
        sums_E2 = np.zeros((NUM_EXPONENTS, 2), dtype=np.int64)
        add_squares(bits[first : first + PIECE_ELEMENTS], sums_E2)
        return sums_E2

    parts = for_each(add, range(0, bits.size, PIECE_ELEMENTS), num_threads)
    sums_E2: np.ndarray = sum(parts, np.zeros((NUM_EXPONENTS, 2), dtype=np.int64))
    if sums_E2[-1].any():
        sums_E2[-1] = np.isnan(flat).sum(), np.isinf(flat).sum()
    return sums_E2


def norm_of_squares(sums_E2: np.ndarray) -> float:
    """The norm of the tensor with this sum of squares."""
    pairs: list[list[int]] = sums_E2.tolist()
    num_nan, num_infinite = pairs.pop()
    if num_nan or num_infinite:
        return math.nan if num_nan else math.inf
    # Exponents 0 and 1 share a power: a subnormal number lacks the hidden bit instead.
    total: int = sum(
        ((high << CARRY_BITS) + low) << 2 * max(exponent - 1, 0)
        for exponent, (high, low) in enumerate(pairs)
    )
    # Python divides integers with one rounding, to nearest even, as `math.fsum` rounds.
    return math.sqrt(total / (1 << -2 * SMALLEST_POWER))


@compiled
def add_squares(bits: np.ndarray, sums_E2: np.ndarray) -> None:
    """Add squared mantissas to `sums_E2`: by exponent, units of 2^32, and the rest.

    `bits`: float32 as int32, at most 2^45 values in all.
    """
    mask = (np.int64(1) << CARRY_BITS) - 1
    for first in range(0, bits.size, BLOCK_ELEMENTS):
        for place in range(first, min(first + BLOCK_ELEMENTS, bits.size)):
            value = np.int64(bits[place])
            exponent = (value >> MANTISSA_BITS) & (NUM_EXPONENTS - 1)
            hidden = np.int64(exponent > 0) << MANTISSA_BITS
            mantissa = (value & ((np.int64(1) << MANTISSA_BITS) - 1)) | hidden
            sums_E2[exponent, 1] += mantissa * mantissa
        for row in range(NUM_EXPONENTS):
            sums_E2[row, 0] += sums_E2[row, 1] >> CARRY_BITS
            sums_E2[row, 1] &= mask
