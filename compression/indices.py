"""Sorted index sets in fixed-size Elias-Fano sections.

k ascending indices below n: the low l = floor(log2(n / k)) bits of each are stored as
they are; the high parts as a bit map in which the i-th one stands at high_i + i. For 64
of 4096 that is 48 + 16 = 64 bytes, 8 bits an index (the bound is log2 C(4096, 64) / 64 =
7.36). The size depends on n and k alone. Bits are filled from the most significant of
each byte; padding bits are zero.

Source: P. Elias (1974); R. Fano (1971).

Legend: N chunks, K indices per chunk, L low bits, U bits of the upper map with its
padding, B bytes.
"""

from functools import lru_cache

import numpy as np


class IndexSectionError(ValueError):
    """A section does not hold k ascending indices below n; `chunk` is the first such."""

    def __init__(self, message: str, chunk: int) -> None:
        super().__init__(message)
        self.chunk = chunk


def low_bits(num_elements: int, k: int) -> int:
    return (num_elements // k).bit_length() - 1


def _upper_bits(num_elements: int, k: int) -> int:
    return k + ((num_elements - 1) >> low_bits(num_elements, k))


def section_bytes(num_elements: int, k: int) -> tuple[int, int]:
    """Bytes per chunk of the low parts and of the upper map."""
    return -(-k * low_bits(num_elements, k) // 8), -(-_upper_bits(num_elements, k) // 8)


def pack_indices(index_NK: np.ndarray, num_elements: int) -> tuple[np.ndarray, np.ndarray]:
    """Low parts and upper maps, uint8 [N, B] each. Indices ascending in each row."""
    num_chunks, k = index_NK.shape
    width = low_bits(num_elements, k)
    low_NK = (index_NK & ((1 << width) - 1)).astype(np.uint16 if width > 8 else np.uint8)
    bits_U = 8 * section_bytes(num_elements, k)[1]
    upper = np.zeros(num_chunks * bits_U, dtype=np.uint8)
    upper[_one_positions(num_chunks, k, bits_U) + (index_NK >> width)] = 1
    return _pack_low(low_NK, width), np.packbits(upper.reshape(num_chunks, bits_U), axis=1)


@lru_cache(maxsize=16)
def _block_one_positions(num_chunks: int, k: int, bits_U: int) -> np.ndarray:
    positions_NK = _one_positions(num_chunks, k, bits_U)
    positions_NK.flags.writeable = False
    return positions_NK


def _one_positions(num_chunks: int, k: int, bits_U: int) -> np.ndarray:
    """Where the ones of an upper map stand if all high parts are zero; int64 [N, K]."""
    return np.arange(0, num_chunks * bits_U, bits_U)[:, None] + np.arange(k)


def _pack_low(low_NK: np.ndarray, width: int) -> np.ndarray:
    num_chunks, k = low_NK.shape
    if width == 6 and k % 4 == 0:
        first, second, third, fourth = (np.ascontiguousarray(low_NK[:, i::4]) for i in range(4))
        packed = np.empty((num_chunks, k // 4, 3), dtype=np.uint8)
        packed[:, :, 0] = first << 2 | second >> 4
        packed[:, :, 1] = second << 4 | third >> 2
        packed[:, :, 2] = third << 6 | fourth
        return packed.reshape(num_chunks, -1)
    shifts_L = np.arange(width - 1, -1, -1, dtype=low_NK.dtype)
    bits_NKL = (low_NK[:, :, None] >> shifts_L & 1).astype(np.uint8)
    return np.packbits(bits_NKL.reshape(num_chunks, -1), axis=1)


def unpack_indices(
    low_NB: np.ndarray, upper_NB: np.ndarray, num_elements: int, k: int
) -> np.ndarray:
    """int64 [N, K], ascending and unique in each row, all below `num_elements`.

    The inverse of `pack_indices` on exactly the bytes that it writes; anything else
    raises IndexSectionError. The widths of the rows are `section_bytes` (the caller cuts).
    """
    high_NK = _unpack_upper(upper_NB, k)
    width = low_bits(num_elements, k)
    index_NK = high_NK
    index_NK <<= width
    index_NK |= _unpack_low(low_NB, k, width)
    if not (index_NK[:, -1] < num_elements).all():
        chunk = int(np.argmax(index_NK[:, -1] >= num_elements))
        raise IndexSectionError(f"an index is {num_elements} or more", chunk)
    ascending = index_NK[:, 1:] > index_NK[:, :-1]
    if not ascending.all():
        chunk = int(np.argmin(ascending.all(axis=1)))
        raise IndexSectionError("indices are not strictly ascending", chunk)
    return index_NK


def _unpack_upper(upper_NB: np.ndarray, k: int) -> np.ndarray:
    """The high parts, int64 [N, K], never descending within a row."""
    num_chunks, num_bytes = upper_NB.shape
    bits = np.unpackbits(np.ascontiguousarray(upper_NB).reshape(-1)).view(np.bool_)
    ones = np.flatnonzero(bits)
    rows_NU = bits.reshape(num_chunks, 8 * num_bytes)
    if ones.size == num_chunks * k:
        ones_NK = ones.reshape(num_chunks, k)
        first_N = np.arange(0, num_chunks * 8 * num_bytes, 8 * num_bytes)
        if (ones_NK[:, 0] >= first_N).all() and (ones_NK[:, -1] < first_N + 8 * num_bytes).all():
            ones_NK -= _block_one_positions(num_chunks, k, 8 * num_bytes)
            return ones_NK
    chunk = int(np.argmax(np.count_nonzero(rows_NU, axis=1) != k))
    raise IndexSectionError(f"an upper map does not have {k} ones", chunk)


def _unpack_low(low_NB: np.ndarray, k: int, width: int) -> np.ndarray:
    num_chunks = low_NB.shape[0]
    if width == 6 and k % 4 == 0:
        triples = low_NB.reshape(num_chunks, k // 4, 3)
        first, second, third = (np.ascontiguousarray(triples[:, :, i]) for i in range(3))
        low = np.empty((num_chunks, k // 4, 4), dtype=np.uint8)
        low[:, :, 0] = first >> 2
        low[:, :, 1] = (first & 3) << 4 | second >> 4
        low[:, :, 2] = (second & 15) << 2 | third >> 6
        low[:, :, 3] = third & 63
        return low.reshape(num_chunks, k)
    bits_N = np.unpackbits(low_NB, axis=1)
    padding_N = bits_N[:, k * width :].any(axis=1)
    if padding_N.any():
        raise IndexSectionError("padding bits are set", int(np.argmax(padding_N)))
    bits_NKL = bits_N[:, : k * width].reshape(num_chunks, k, width)
    low_NK = np.zeros((num_chunks, k), dtype=np.uint16)
    for bit in range(width):
        low_NK |= bits_NKL[:, :, bit].astype(np.uint16) << (width - 1 - bit)
    return low_NK
