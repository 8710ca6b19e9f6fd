"""Symmetric 2-bit values: a sign and one of two magnitudes, with an 8-bit scale per chunk.

A kept value becomes +-s or +-s*r: s is the chunk's scale, r the tensor's ratio. A scale
byte is a small float of 4 exponent and 4 mantissa bits below the tensor's exponent; the
ratio is 1 + j/16. Every reconstructed value therefore has at most 11 significant bits and
is exact in float32: no node can round it differently.

Scale and ratio minimise the squared error. For magnitudes in descending order with sums
S of all and H of the h largest, two magnitudes {s, s*r} of which r goes to those h leave

    sum m^2 - (S + (r - 1) H)^2 / (k + (r^2 - 1) h)   at   s = (S + (r - 1) H) / (k + (r^2 - 1) h).

So the best scale of a chunk for a given r is found exactly, by trying every h; r is the
one of the grid with the least error over the tensor. Only then is s rounded to its 8
bits, and each value takes the nearer of the two magnitudes. The 2-bit code of SparseLoCo
(arXiv 2508.15706, section 3) has one scale per tensor; one per chunk is what keeps the
error low where chunks differ in scale.

Legend: N chunks, K kept values per chunk, B bytes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

MANTISSA_STEPS = 16
SCALE_OCTAVES = 16
EXPONENT_BIAS = 56
MAX_EXPONENT_BYTE = 63
RATIO_STEPS = 16
MAX_RATIO_BYTE = 31
MAX_ABS_VALUE = 2.0 ** (MAX_EXPONENT_BYTE - EXPONENT_BIAS + 3)
"""Above every value that the code can express (2^7 * 31/16 * 47/16 < 2^10)."""
INPUT_LIMIT = 2.0 ** (MAX_EXPONENT_BYTE - EXPONENT_BIAS + 1)

RATIO_GRID = (3, 4, 5, 6, 7, 8, 9, 11, 14, 18, 23)
NEGATIVE_BIT, LARGE_BIT = 2, 1
BLOCK_VALUES = 1 << 15
"""Values that are worked on at once, so that the passes over them stay in the cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorScale:
    """The two bytes that a tensor's chunks share.

    `exponent_byte` in [0, 63]: the largest scale lies in [2^E, 2^(E+1)), E = byte - 56.
    `ratio_byte` in [1, 31]: large / small magnitude = 1 + byte/16.
    """

    exponent_byte: int
    ratio_byte: int

    @property
    def ratio(self) -> float:
        return 1.0 + self.ratio_byte / RATIO_STEPS


def _scale_levels() -> np.ndarray:
    """Scales [64, 256] by exponent byte and scale byte, exact in float32. Byte 0 is zero."""
    steps = 1.0 + np.arange(MANTISSA_STEPS) / MANTISSA_STEPS
    octaves = np.arange(SCALE_OCTAVES)[:, None]
    relative = np.ldexp(steps[None, :], octaves - (SCALE_OCTAVES - 1)).reshape(-1)
    relative[0] = 0.0
    exponents = np.arange(MAX_EXPONENT_BYTE + 1)[:, None] - EXPONENT_BIAS
    return np.ldexp(relative[None, :], exponents).astype(np.float32)


def _level_table() -> np.ndarray:
    """Four levels for every byte of four codes, float32 [32 * 256, 4] by ratio and code byte."""
    ratios = 1.0 + np.arange(MAX_RATIO_BYTE + 1) / RATIO_STEPS
    ones = np.ones_like(ratios)
    by_code = np.stack([ones, ratios, -ones, -ratios], axis=1).astype(np.float32)
    codes = np.arange(256)[:, None] >> np.array([6, 4, 2, 0]) & 3
    return np.ascontiguousarray(by_code[:, codes].reshape(-1, 4))


SCALE_LEVELS = _scale_levels()
_QUAD_LEVELS = _level_table().view(np.complex128).reshape(-1)
"""Four float32 levels as one 16-byte item: one look-up yields four values."""
_MIDDLES = (SCALE_LEVELS[EXPONENT_BIAS, 1:] + SCALE_LEVELS[EXPONENT_BIAS, :-1]) / 2


def scale_values(scale_bytes_N: np.ndarray, exponent_byte: int) -> np.ndarray:
    """uint8 [N] -> float32 [N], exact. Byte 0 is a scale of zero."""
    return SCALE_LEVELS[exponent_byte, scale_bytes_N]


def code_bytes(k: int) -> int:
    """Bytes of a chunk's k codes: four to a byte, most significant first."""
    return -(-k // 4)


def pack_codes(codes_NK: np.ndarray) -> np.ndarray:
    """uint8 codes [N, K] -> uint8 [N, B], padded with zero bits."""
    num_chunks, k = codes_NK.shape
    padded = codes_NK
    if k % 4:
        padded = np.zeros((num_chunks, code_bytes(k) * 4), dtype=np.uint8)
        padded[:, :k] = codes_NK
    first, second, third, fourth = (padded[:, i::4] for i in range(4))
    packed: np.ndarray = first << 6 | second << 4 | third << 2 | fourth
    return packed


def padding_is_clear(packed_NB: np.ndarray, k: int) -> np.ndarray:
    """Per chunk: no bit is set behind the k-th code; bool [N]."""
    clear: np.ndarray = packed_NB[:, -1] & ((1 << 2 * (-k % 4)) - 1) == 0
    return clear


def dequantize(
    packed_NB: np.ndarray, scale_N: np.ndarray, ratio_byte_N: np.ndarray, k: int
) -> np.ndarray:
    """Packed codes [N, B], float32 scales [N], ratio bytes [N] -> float32 [N, K].

    Every product is exact, so that it rounds nowhere.
    """
    keys_NB = ratio_byte_N.astype(np.int64)[:, None] << 8 | packed_NB
    values = _QUAD_LEVELS.take(keys_NB).view(np.float32)
    values *= scale_N[:, None]
    return values if values.shape[1] == k else np.ascontiguousarray(values[:, :k])


def quantize(
    groups: Sequence[np.ndarray],
) -> tuple[TensorScale, list[np.ndarray], list[np.ndarray]]:
    """Code the kept values of one tensor, given as float32 [N, K] per group of equal chunks.

    Returns the shared scale, then per group the uint8 scale bytes [N] and codes [N, K].
    Deterministic. ValueError if a value is not finite or |v| >= 2^8: a pseudo-gradient of
    that size is a fault, not a payload.
    """
    magnitudes = [np.abs(values) for values in groups]
    for magnitude in magnitudes:
        if magnitude.size and not (largest := magnitude.max()) < INPUT_LIMIT:
            raise ValueError(f"largest value is {largest}: values must be finite and below 2^8")
    tails = [_descending_sums(magnitude) for magnitude in magnitudes]
    ratio_byte = _best_ratio(tails)
    ratio = np.float32(1.0 + ratio_byte / RATIO_STEPS)
    ideal = [_best_scales(sums, ratio) for sums in tails]
    largest_scale = max((float(s.max()) for s in ideal if s.size), default=0.0)
    exponent_byte = _exponent_byte(largest_scale)
    scale_bytes = [_nearest_scale_byte(s, exponent_byte) for s in ideal]
    codes = [
        _codes(values, magnitude, scale_values(bytes_N, exponent_byte), ratio)
        for values, magnitude, bytes_N in zip(groups, magnitudes, scale_bytes, strict=True)
    ]
    return TensorScale(exponent_byte=exponent_byte, ratio_byte=ratio_byte), scale_bytes, codes


def _row_blocks(rows: np.ndarray) -> Iterator[slice]:
    step = max(1, BLOCK_VALUES // max(1, rows.shape[1]))
    return (slice(first, first + step) for first in range(0, rows.shape[0], step))


def _descending_sums(magnitude_NK: np.ndarray) -> np.ndarray:
    """Sums of the 0, 1, ... K largest magnitudes of each chunk, float32 [N, K + 1]."""
    num_chunks, k = magnitude_NK.shape
    sums = np.zeros((num_chunks, k + 1), dtype=np.float32)
    for block in _row_blocks(magnitude_NK):
        ascending = np.sort(magnitude_NK[block], axis=1)
        np.cumsum(ascending[:, ::-1], axis=1, out=sums[block, 1:])
    return sums


def _projections(sums: np.ndarray, ratio: np.float32) -> np.ndarray:
    """S + (r - 1) H for every h in [0, K); float32 [N, K]."""
    projection_NK = sums[:, :-1] * (ratio - np.float32(1))
    projection_NK += sums[:, -1:]
    return projection_NK


def _weights(k: int, ratio: np.float32) -> np.ndarray:
    """1 / (k + (r^2 - 1) h) for every h in [0, K)."""
    squares_K = k + (float(ratio) ** 2 - 1) * np.arange(k)
    return (1.0 / squares_K).astype(np.float32)


def _gains(projection_NK: np.ndarray, weights_K: np.ndarray) -> np.ndarray:
    gain_NK = projection_NK * projection_NK
    gain_NK *= weights_K
    return gain_NK


def _best_ratio(tails: Sequence[np.ndarray]) -> int:
    """The ratio byte of the grid that leaves the least squared error over all chunks."""
    totals = np.zeros(len(RATIO_GRID))
    for sums in tails:
        gain_NR = np.empty((sums.shape[0], len(RATIO_GRID)))
        for block in _row_blocks(sums):
            for column, ratio_byte in enumerate(RATIO_GRID):
                ratio = np.float32(1.0 + ratio_byte / RATIO_STEPS)
                weights_K = _weights(sums.shape[1] - 1, ratio)
                gain_NR[block, column] = _gains(_projections(sums[block], ratio), weights_K).max(1)
        totals += gain_NR.sum(axis=0)
    return RATIO_GRID[int(totals.argmax())]


def _best_scales(sums: np.ndarray, ratio: np.float32) -> np.ndarray:
    """The scale of least squared error of each chunk for a given ratio; float32 [N]."""
    scale_N = np.empty(sums.shape[0], dtype=np.float32)
    weights_K = _weights(sums.shape[1] - 1, ratio)
    for block in _row_blocks(sums):
        projection_NK = _projections(sums[block], ratio)
        best_N = _gains(projection_NK, weights_K).argmax(axis=1)
        scale_N[block] = (
            np.take_along_axis(projection_NK, best_N[:, None], axis=1)[:, 0] * weights_K[best_N]
        )
    return scale_N


def _exponent_byte(largest_scale: float) -> int:
    """The byte E + 56 with 2^E <= largest < 2^(E+1) after rounding to 4 mantissa bits,
    clamped to the code's range.
    """
    mantissa, exponent = math.frexp(largest_scale)
    if mantissa >= 1.0 - 1.0 / (4 * MANTISSA_STEPS):
        exponent += 1
    return min(max(exponent - 1 + EXPONENT_BIAS, 0), MAX_EXPONENT_BYTE) if mantissa else 0


def _nearest_scale_byte(scale_N: np.ndarray, exponent_byte: int) -> np.ndarray:
    """The byte whose scale is nearest; what lies below the smallest scale becomes 0 or that."""
    relative_N = np.ldexp(scale_N, EXPONENT_BIAS - exponent_byte)
    return np.searchsorted(_MIDDLES, relative_N).astype(np.uint8)


def _codes(
    values_NK: np.ndarray, magnitude_NK: np.ndarray, scale_N: np.ndarray, ratio: np.float32
) -> np.ndarray:
    """The nearer magnitude, and the sign; all small where the scale is zero.

    At least the smallest of a chunk stays small: a chunk without the small magnitude would
    hide its scale, and what it decodes to would not be coded again as itself.
    """
    middle_N = scale_N * ((np.float32(1) + ratio) / np.float32(2))
    middle_N[scale_N == 0] = np.inf
    smallest_N = magnitude_NK.min(axis=1, initial=np.inf)
    np.maximum(middle_N, np.nextafter(smallest_N, np.float32(np.inf)), out=middle_N)
    codes_NK = (magnitude_NK >= middle_N[:, None]).view(np.uint8)
    codes_NK |= (values_NK < 0).view(np.uint8) << np.uint8(1)
    return codes_NK
