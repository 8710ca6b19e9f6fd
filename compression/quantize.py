"""Symmetric 2-bit values: a sign and one of two magnitudes, with an 8-bit scale per chunk.

A kept value becomes +-s or +-s*r: s is the chunk's scale, r the tensor's ratio. A scale
byte is a small float of 4 exponent and 4 mantissa bits below the tensor's exponent; the
ratio is 1 + j/16. Every reconstructed value therefore has at most 11 significant bits and
is exact in float32: no node can round it differently.

Scale and ratio minimise the squared error (Lloyd's method on the two magnitudes with
their ratio fixed, for each ratio on the grid). The 2-bit code of SparseLoCo (arXiv
2508.15706, section 3) has one scale per tensor; one per chunk is what keeps the error
low where chunks differ in scale.

Legend: N chunks, K kept values per chunk.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

MANTISSA_STEPS = 16
SCALE_OCTAVES = 16
EXPONENT_BIAS = 56
MAX_EXPONENT_BYTE = 63
RATIO_STEPS = 16
MAX_RATIO_BYTE = 31
MAX_ABS_VALUE = 2.0 ** (MAX_EXPONENT_BYTE - EXPONENT_BIAS + 3)
"""Above every value that the code can express (2^7 * 31/16 * 47/16 < 2^10)."""

LLOYD_ROUNDS = 8
RATIO_GRID = (3, 4, 5, 6, 7, 8, 9, 11, 14, 18, 23)
NEGATIVE_BIT, LARGE_BIT = 2, 1


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


def scale_values(scale_bytes_N: Tensor, exponent_byte: int) -> Tensor:
    """uint8 [N] -> float32 [N], exact. Byte 0 is a scale of zero."""
    levels_256 = _scale_levels(exponent_byte).to(scale_bytes_N.device)
    return levels_256[scale_bytes_N.to(torch.int64)]


@lru_cache(maxsize=MAX_EXPONENT_BYTE + 1)
def _scale_levels(exponent_byte: int) -> Tensor:
    """The 256 scales below an exponent: a table, since a device's own power may round."""
    lowest_power = exponent_byte - EXPONENT_BIAS - (SCALE_OCTAVES - 1)
    levels = [
        math.ldexp(1.0 + step / MANTISSA_STEPS, lowest_power + octave)
        for octave in range(SCALE_OCTAVES)
        for step in range(MANTISSA_STEPS)
    ]
    return torch.tensor([0.0, *levels[1:]], dtype=torch.float32)


def dequantize(codes_NK: Tensor, scale_N: Tensor, ratio: float) -> Tensor:
    """uint8 codes [N, K] and float32 scales [N] -> float32 [N, K]; every product is exact."""
    large_NK = (codes_NK & LARGE_BIT).bool()
    magnitude_NK = torch.where(large_NK, scale_N[:, None] * ratio, scale_N[:, None])
    return torch.where((codes_NK & NEGATIVE_BIT).bool(), -magnitude_NK, magnitude_NK)


def quantize(
    groups: Sequence[Tensor],
) -> tuple[TensorScale, list[Tensor], list[Tensor]]:
    """Code the kept values of one tensor, given as float32 [N, K] per group of equal chunks.

    Returns the shared scale, then per group the uint8 scale bytes [N] and codes [N, K].
    Deterministic on one device. ValueError if a value is not finite or beyond the code's
    largest value (|v| < 2^8): a pseudo-gradient of that size is a fault, not a payload.
    """
    magnitudes = [values.abs() for values in groups]
    largest = max((float(m.max()) for m in magnitudes if m.numel()), default=0.0)
    if not math.isfinite(largest) or largest >= 2.0 ** (MAX_EXPONENT_BYTE - EXPONENT_BIAS + 1):
        raise ValueError(f"largest value is {largest}: values must be finite and below 2^8")
    candidates = [_code_all(magnitudes, ratio_byte) for ratio_byte in RATIO_GRID]
    best = min(candidates, key=lambda candidate: candidate.error)
    codes = [
        torch.where(values < 0, large + NEGATIVE_BIT, large).to(torch.uint8)
        for values, large in zip(groups, best.large, strict=True)
    ]
    return best.scale, best.scale_bytes, codes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    error: float
    scale: TensorScale
    scale_bytes: list[Tensor]
    large: list[Tensor]


def _code_all(magnitudes: Sequence[Tensor], ratio_byte: int) -> _Candidate:
    ratio = 1.0 + ratio_byte / RATIO_STEPS
    ideal = [_lloyd_scale(m, ratio) for m in magnitudes]
    largest = max((float(s.max()) for s in ideal if s.numel()), default=0.0)
    exponent_byte = _exponent_byte(largest)
    scale_bytes = [_nearest_scale_byte(s, exponent_byte) for s in ideal]
    error, large = 0.0, []
    for magnitude_NK, bytes_N in zip(magnitudes, scale_bytes, strict=True):
        scale_N1 = scale_values(bytes_N, exponent_byte)[:, None]
        large_NK = magnitude_NK >= scale_N1 * ((1.0 + ratio) / 2)
        large_NK &= scale_N1 > 0
        coded_NK = torch.where(large_NK, scale_N1 * ratio, scale_N1)
        error += float((magnitude_NK - coded_NK).square().sum(dtype=torch.float64))
        large.append(large_NK.to(torch.uint8))
    scale = TensorScale(exponent_byte=exponent_byte, ratio_byte=ratio_byte)
    return _Candidate(error=error, scale=scale, scale_bytes=scale_bytes, large=large)


def _lloyd_scale(magnitude_NK: Tensor, ratio: float) -> Tensor:
    """The scale [N] of least squared error for magnitudes {s, s*ratio}, by alternation."""
    scale_N1 = magnitude_NK.mean(dim=1, keepdim=True) * (2.0 / (1.0 + ratio))
    for _ in range(LLOYD_ROUNDS):
        large_NK = magnitude_NK >= scale_N1 * ((1.0 + ratio) / 2)
        level_NK = torch.where(large_NK, ratio, 1.0)
        scale_N1 = (magnitude_NK * level_NK).sum(1, keepdim=True) / level_NK.square().sum(
            1, keepdim=True
        )
    return scale_N1[:, 0]


def _exponent_byte(largest_scale: float) -> int:
    """The byte E + 56 with 2^E <= largest < 2^(E+1), clamped to the code's range."""
    if largest_scale == 0.0:
        return 0
    return min(max(math.frexp(largest_scale)[1] - 1 + EXPONENT_BIAS, 0), MAX_EXPONENT_BYTE)


def _nearest_scale_byte(scale_N: Tensor, exponent_byte: int) -> Tensor:
    """The byte whose scale is nearest; what lies below the smallest scale becomes 0 or that."""
    levels_256 = scale_values(torch.arange(256, dtype=torch.uint8), exponent_byte)
    middle_255 = (levels_256[1:] + levels_256[:-1]) / 2
    return torch.bucketize(scale_N.contiguous(), middle_255).to(torch.uint8)
