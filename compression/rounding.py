"""float32 in three bytes: values rounded to 24 bits, and their bytes packed and unpacked.

A rounded value is a float32 whose last eight bits are zero: sign, exponent and 15 bits of the
mantissa are left, a relative error of 2^-16 at most (half a unit of the last bit kept). Integers
alone decide, so the bits are the same on every machine and for any number of threads.

Legend: N values.
"""

import numpy as np
import torch
from torch import Tensor

from compression.jit import compiled
from compression.workers import for_each

SHORT_BYTES = 3
PIECE_ELEMENTS = 1 << 18
"""Values that a thread rounds at a time."""

_DROPPED = 0xFF
_HALF = 0x7F
_SIGN = 0x80000000
_MAGNITUDE = 0x7FFFFFFF
_LARGEST = 0x7F7FFF00
_ROUNDED_UP_TO_INFINITY = 0x7F7FFF80
_INFINITY = 0x7F800000
_NAN = 0x7FC00000


def round_to_short(tensor: Tensor, num_threads: int | None = None) -> None:
    """Round every value to 24 bits, to nearest and ties to even, in place.

    A finite value stays finite: one beyond the largest of 24 bits becomes the largest. An infinity
    stays, and every NaN becomes the same NaN. ValueError unless contiguous float32 on the CPU.
    """
    if tensor.dtype != torch.float32 or not tensor.is_contiguous() or tensor.device.type != "cpu":
        raise ValueError("only contiguous float32 on the CPU is rounded in place")
    bits_N = tensor.detach().view(-1).numpy().view(np.uint32)

    def round_piece(first: int) -> None:
        round_bits(bits_N[first : first + PIECE_ELEMENTS])

    for_each(round_piece, range(0, bits_N.size, PIECE_ELEMENTS), num_threads)


def pack_short(values_N: np.ndarray) -> np.ndarray:
    """The upper three bytes of each float32, little endian; uint8 [3 N].

    ValueError for a value that has more than 24 bits: nothing is lost in silence.
    """
    packed = np.empty(SHORT_BYTES * values_N.size, dtype=np.uint8)
    if pack_bits(values_N.view(np.uint32), packed):
        raise ValueError("a value has more than 24 bits: three bytes do not hold it")
    return packed


def unpack_short(packed: np.ndarray, values_N: np.ndarray) -> None:
    """The inverse of `pack_short`, of any bytes, into a float32 array of their length."""
    unpack_bits(packed, values_N.view(np.uint32))


@compiled
def round_bits(bits_N: np.ndarray) -> None:
    """`round_to_short` of float32s given as uint32."""
    for i in range(bits_N.size):
        bits = int(bits_N[i])
        magnitude = bits & _MAGNITUDE
        if magnitude < _ROUNDED_UP_TO_INFINITY:
            bits_N[i] = (bits + _HALF + ((bits >> 8) & 1)) & ~_DROPPED
        elif magnitude < _INFINITY:
            bits_N[i] = (bits & _SIGN) | _LARGEST
        elif magnitude > _INFINITY:
            bits_N[i] = _NAN


@compiled
def pack_bits(bits_N: np.ndarray, packed: np.ndarray) -> int:
    """`pack_short` into `packed`; other than zero if a last byte was lost."""
    lost = 0
    for i in range(bits_N.size):
        bits = int(bits_N[i])
        lost |= bits & _DROPPED
        packed[3 * i] = (bits >> 8) & 0xFF
        packed[3 * i + 1] = (bits >> 16) & 0xFF
        packed[3 * i + 2] = bits >> 24
    return lost


@compiled
def unpack_bits(packed: np.ndarray, bits_N: np.ndarray) -> None:
    """`unpack_short` into float32s given as uint32."""
    for i in range(bits_N.size):
        low, middle, high = int(packed[3 * i]), int(packed[3 * i + 1]), int(packed[3 * i + 2])
        bits_N[i] = (low << 8) | (middle << 16) | (high << 24)
