"""Symmetric 2-bit values: a sign and a choice of two magnitudes, with an 8-bit scale per chunk.

A kept value becomes +-s or +-s*r: s is the chunk's scale, r the tensor's ratio. A scale
byte is a small float of 4 exponent and 4 mantissa bits below the tensor's exponent; the
ratio is 1 + j/16. Every reconstructed value therefore has at most 11 significant bits and
is exact in float32, so all nodes reconstruct the same bits.

Scale and ratio minimise the squared error. Let m be the k magnitudes of a chunk, S their sum
and H the sum of the h largest. Sending s*r for the h largest and s for the rest leaves the error

    sum m^2 - (S + (r - 1) H)^2 / (k + (r^2 - 1) h)   at   s = (S + (r - 1) H) / (k + (r^2 - 1) h).

The encoder tries every h < k, which gives a chunk's best scale for a given r exactly, and takes
the r of RATIO_GRID with the least error over the tensor. Then the encoder rounds s to 8 bits and
sends the nearer magnitude for each value. The 2-bit code of SparseLoCo (arXiv 2508.15706, section
3) has a scale per tensor; a scale per chunk keeps the error low if chunks differ in scale.

Legend: N chunks, K kept values per chunk, R ratios, G groups of a tensor.
"""

import math
from dataclasses import dataclass

import numpy as np

from compression.jit import compiled
from compression.kernels import RATIO_STEPS, SCALE_STEPS

SCALE_OCTAVES = 16
EXPONENT_BIAS = 56
MAX_EXPONENT_BYTE = 63
MIN_RATIO_BYTE, MAX_RATIO_BYTE = 1, 31
MAX_ABS_VALUE = 2.0 ** (MAX_EXPONENT_BYTE - EXPONENT_BIAS + 3)
"""Bound above every expressible value (2^7 * 31/16 * 47/16 < 2^10)."""
INPUT_LIMIT = 2.0 ** (MAX_EXPONENT_BYTE - EXPONENT_BIAS + 1)

RATIO_GRID = (3, 4, 5, 6, 7, 8, 9, 11, 14, 18, 23)
RATIOS = np.array([1.0 + byte / RATIO_STEPS for byte in RATIO_GRID], dtype=np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorScale:
    """The exponent byte and ratio byte, shared by a tensor's chunks.

    `exponent_byte` in [0, 63]: the largest scale lies in [2^E, 2^(E+1)), E = byte - 56.
    `ratio_byte` in [1, 31]: large / small magnitude = 1 + byte/16.
    """

    exponent_byte: int
    ratio_byte: int

    @property
    def ratio(self) -> np.float32:
        return np.float32(1.0 + self.ratio_byte / RATIO_STEPS)

    @property
    def levels(self) -> np.ndarray:
        """Scale by scale byte; float32 [256]."""
        levels: np.ndarray = SCALE_LEVELS[self.exponent_byte]
        return levels

    @property
    def units_of_byte(self) -> np.ndarray:
        """Values of the four codes in each byte, in units of the scale; float32 [256, 4], exact."""
        units: np.ndarray = _UNITS[self.ratio_byte]
        return units

    @property
    def unit(self) -> np.float32:
        """Factor from a scale to the units of `MIDDLES`; a power of two."""
        return np.float32(2.0 ** (EXPONENT_BIAS - self.exponent_byte))


def _scale_levels() -> np.ndarray:
    """Scales [64, 256] by exponent byte and scale byte, exact in float32. Byte 0 is zero."""
    steps = 1.0 + np.arange(SCALE_STEPS) / SCALE_STEPS
    octaves = np.arange(SCALE_OCTAVES)[:, None]
    relative = np.ldexp(steps[None, :], octaves - (SCALE_OCTAVES - 1)).reshape(-1)
    relative[0] = 0.0
    exponents = np.arange(MAX_EXPONENT_BYTE + 1)[:, None] - EXPONENT_BIAS
    return np.ldexp(relative[None, :], exponents).astype(np.float32)


SCALE_LEVELS = _scale_levels()
MIDDLES = (SCALE_LEVELS[EXPONENT_BIAS, 1:] + SCALE_LEVELS[EXPONENT_BIAS, :-1]) / 2
"""Midpoints of neighbouring scales for an exponent of zero; float32 [255], exact."""


def _units() -> np.ndarray:
    """1, r, -1 and -r for the codes in every byte; float32 [32, 256, 4] by ratio byte."""
    ratios = 1.0 + np.arange(MAX_RATIO_BYTE + 1) / RATIO_STEPS
    ones = np.ones_like(ratios)
    by_code = np.stack([ones, ratios, -ones, -ratios], axis=1).astype(np.float32)
    codes = np.arange(256)[:, None] >> np.array([6, 4, 2, 0]) & 3
    return np.ascontiguousarray(by_code[:, codes])


_UNITS = _units()


def code_bytes(k: int) -> int:
    """Bytes of a chunk's k codes: four to a byte, most significant first."""
    return -(-k // 4)


def check_values(value_NK: np.ndarray) -> None:
    """ValueError if a value is not finite or |v| >= 2^8: an unusable pseudo-gradient."""
    if value_NK.size and not (largest := np.abs(value_NK).max()) < INPUT_LIMIT:
        raise ValueError(f"largest value is {largest}: values must be finite and below 2^8")


@compiled
def score_ratios(
    value_NK: np.ndarray, ratio_R: np.ndarray, gain_NR: np.ndarray, scale_NR: np.ndarray
) -> None:
    """Each chunk's best scale for each ratio, and the squared error saved by sending (the gain).

    Values, ratios and scales are float32, gains float64 holding float32 values.
    """
    num_chunks, k = value_NK.shape
    weight_RK = np.empty((ratio_R.size, k), dtype=np.float32)
    for number in range(ratio_R.size):
        square = np.float64(ratio_R[number]) * np.float64(ratio_R[number])
        for large in range(k):
            weight_RK[number, large] = np.float32(1.0 / (k + (square - 1.0) * large))
    largest_K = np.empty(k, dtype=np.float32)
    for chunk in range(num_chunks):
        for place in range(k):
            largest_K[place] = -abs(value_NK[chunk, place])
        largest_K.sort()
        total = np.float32(0)
        for place in range(k):
            largest_K[place] = -largest_K[place]
            total += largest_K[place]
        for number in range(ratio_R.size):
            excess = ratio_R[number] - np.float32(1)
            above = np.float32(0)
            best_gain, best_scale = np.float32(-1), np.float32(0)
            for large in range(k):
                projection = above * excess + total
                gain = projection * projection * weight_RK[number, large]
                if gain > best_gain:
                    best_gain, best_scale = gain, projection * weight_RK[number, large]
                above += largest_K[large]
            gain_NR[chunk, number] = best_gain
            scale_NR[chunk, number] = best_scale


@compiled
def add_gains(gain_NR: np.ndarray, total_R: np.ndarray) -> None:
    """Add the gains of chunks to the totals, one chunk after another.

    Each sum rounds, so the order is fixed: a total goes on where another process's chunks end.
    """
    for chunk in range(gain_NR.shape[0]):
        for number in range(gain_NR.shape[1]):
            total_R[number] += gain_NR[chunk, number]


def choose_scale(gain_GR: np.ndarray, largest_R: np.ndarray) -> TensorScale:
    """A tensor's shared bytes: the ratio of the greatest gain, and the exponent of its scales.

    `gain_GR`: for each group of equal chunks the total gain by ratio of RATIO_GRID, of
    `score_ratios` and `add_gains`. `largest_R`: the largest best scale of all chunks by ratio.
    """
    totals = np.zeros(len(RATIO_GRID))
    for gain_R in gain_GR:
        totals += gain_R
    column = int(totals.argmax())
    exponent_byte = _exponent_byte(float(largest_R[column]))
    return TensorScale(exponent_byte=exponent_byte, ratio_byte=RATIO_GRID[column])


def _exponent_byte(largest_scale: float) -> int:
    """The byte E + 56 with 2^E <= largest < 2^(E+1) after rounding to 4 mantissa bits,
    clamped to the code's range.
    """
    mantissa, exponent = math.frexp(largest_scale)
    if mantissa >= 1.0 - 1.0 / (4 * SCALE_STEPS):
        exponent += 1
    return min(max(exponent - 1 + EXPONENT_BIAS, 0), MAX_EXPONENT_BYTE) if mantissa else 0
