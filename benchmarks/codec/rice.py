"""Golomb-Rice code of sorted indices: the variable-length code that Elias-Fano is measured against.

The gaps of a chunk (index - previous - 1, the first from -1) have a unary quotient and b low
bits each; chunks follow one another without padding, so a tensor is one stream. Shorter than
Elias-Fano by half a bit an index, but its length depends on the values, and a reader must find
every quotient before it knows where the next one starts: the payload's length no longer
follows from the model, and a chunk cannot be read on its own.

Source: R. F. Rice (1979); S. W. Golomb (1966).

Legend: N chunks, K indices per chunk, G gaps.
"""

import numpy as np
from torch import Tensor

DEFAULT_BITS = 5


def rice_bits(index_NK: Tensor, b: int = DEFAULT_BITS) -> int:
    """Length of the stream in bits, without writing it."""
    gap_G = _gaps(index_NK)
    return int((gap_G >> b).sum()) + gap_G.size * (1 + b)


def rice_pack(index_NK: Tensor, b: int = DEFAULT_BITS) -> bytes:
    """The stream of ascending indices, filled with zero bits to a whole byte."""
    gap_G = _gaps(index_NK)
    length_G = (gap_G >> b) + 1 + b
    start_G = np.cumsum(length_G) - length_G
    bits = np.zeros(int(length_G.sum()), dtype=np.uint8)
    stop_G = start_G + (gap_G >> b)
    bits[_ranges(start_G, stop_G)] = 1
    for offset in range(b):
        bits[stop_G + 1 + offset] = (gap_G >> (b - 1 - offset)) & 1
    return np.packbits(bits).tobytes()


def rice_unpack(data: bytes, num_chunks: int, k: int, b: int = DEFAULT_BITS) -> np.ndarray:
    """int64 [N, K], for streams that `rice_pack` wrote: it checks nothing.

    A quotient ends at the first zero at or after its start, and the next gap starts b + 1 bits
    later: one jump per gap, which is what makes this code slow to read.
    """
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    zeros = np.nonzero(bits == 0)[0]
    next_zero = zeros[np.searchsorted(zeros, np.arange(bits.size))].tolist() if bits.size else []
    start, starts, stops = 0, [], []
    for _ in range(num_chunks * k):
        stop = next_zero[start]
        starts.append(start)
        stops.append(stop)
        start = stop + 1 + b
    stop_G = np.array(stops, dtype=np.int64)
    low_G = np.zeros(len(stops), dtype=np.int64)
    for offset in range(b):
        low_G = low_G << 1 | bits[stop_G + 1 + offset]
    gap_NK = ((stop_G - np.array(starts)) << b | low_G).reshape(num_chunks, k)
    return np.cumsum(gap_NK + 1, axis=1) - 1


def _gaps(index_NK: Tensor) -> np.ndarray:
    array_NK = index_NK.cpu().numpy().astype(np.int64)
    return (np.diff(array_NK, axis=1, prepend=-1) - 1).reshape(-1)


def _ranges(start_G: np.ndarray, stop_G: np.ndarray) -> np.ndarray:
    """start..stop-1 of every pair, one after another."""
    length_G = stop_G - start_G
    before_G = np.cumsum(length_G) - length_G
    return np.arange(int(length_G.sum())) + np.repeat(start_G - before_G, length_G)
