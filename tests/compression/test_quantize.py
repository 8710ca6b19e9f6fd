"""The 2-bit code: error on kept values, exactness in float32, extreme magnitudes."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compression.quantize import (
    EXPONENT_BIAS,
    MAX_ABS_VALUE,
    MAX_EXPONENT_BYTE,
    MAX_RATIO_BYTE,
    RATIO_GRID,
    TensorScale,
)
from compression.topk import select_topk
from tests.support.codec_sections import places_of, quantize, read, write


def exact_scale(scale_byte: int, exponent_byte: int) -> Fraction:
    """4 exponent and 4 mantissa bits below 2^(E + 1); byte 0 is zero."""
    if scale_byte == 0:
        return Fraction(0)
    octave, step = divmod(scale_byte, 16)
    return (1 + Fraction(step, 16)) * Fraction(2) ** (exponent_byte - EXPONENT_BIAS - 15 + octave)


def coded_groups(groups: list[np.ndarray]) -> tuple[TensorScale, list[np.ndarray], list[Tensor]]:
    """The shared scale; per group of chunks that keep all they have, the section and its values."""
    scale, best = quantize(groups)
    sections, values = [], []
    for value_NK, best_N in zip(groups, best, strict=True):
        num_chunks, k = value_NK.shape
        left_NK = value_NK.copy()
        section = write(left_NK, np.tile(np.arange(k), (num_chunks, 1)), k, scale, best_N)
        _, read_NK = read(section, num_chunks, k, k, scale)
        assert np.array_equal(left_NK, value_NK - read_NK)
        sections.append(section)
        values.append(torch.from_numpy(read_NK))
    return scale, sections, values


def decoded(values_NK: Tensor) -> Tensor:
    return coded_groups([values_NK.numpy()])[2][0]


def values_of(codes_NK: np.ndarray, scale: TensorScale) -> Tensor:
    """The decoded values of codes, with a chunk for every scale byte."""
    num_chunks, k = codes_NK.shape
    places = places_of(num_chunks, k, k)
    indices = write(
        np.zeros((num_chunks, k), np.float32),
        np.tile(np.arange(k), (num_chunks, 1)),
        k,
        scale,
        np.zeros(num_chunks, np.float32),
    )
    section = indices.copy()
    section[:num_chunks] = np.arange(num_chunks)
    packed = [sum(int(c) << (6 - 2 * i) for i, c in enumerate(row)) for row in codes_NK]
    assert k == 4
    section[places.codes :] = packed
    return torch.from_numpy(read(section, num_chunks, k, k, scale)[1])


def nmse(values: Tensor, coded: Tensor) -> float:
    values, coded = values.double(), coded.double()
    return float((values - coded).square().sum() / values.square().sum())


def gaussian_kept(num_chunks: int, spread: float, seed: int) -> Tensor:
    """The 64 largest of 4096 normals, each chunk multiplied by e^(spread * N(0, 1))."""
    generator = torch.Generator().manual_seed(seed)
    values_NC = torch.randn(num_chunks, 4096, generator=generator) * 1e-3
    values_NC *= (spread * torch.randn(num_chunks, 1, generator=generator)).exp()
    return values_NC.gather(1, select_topk(values_NC, 64))


SOURCES: dict[str, tuple[Callable[[torch.Generator], Tensor], float]] = {
    "gaussian": (lambda g: torch.randn(256, 4096, generator=g), 0.0045),
    "unequal scale": (
        lambda g: (
            torch.randn(256, 4096, generator=g) * (0.7 * torch.randn(256, 1, generator=g)).exp()
        ),
        0.005,
    ),
    "laplace": (
        lambda g: (
            torch.empty(256, 4096).exponential_(generator=g)
            * torch.randn(256, 4096, generator=g).sign()
        ),
        0.0378,
    ),
    "student t4": (
        lambda g: (
            torch.randn(256, 4096, generator=g)
            / torch.randn(4, 256, 4096, generator=g).square().mean(dim=0).sqrt()
        ),
        0.0820,
    ),
}
"""Pseudo-gradients, and the squared error allowed relative to the squares of what is kept:
for the last two what a 1-bit code with one scale per tensor leaves on Laplace and Student t5."""


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("seed", range(2))
def test_error_on_kept_values(source: str, seed: int) -> None:
    draw, limit = SOURCES[source]
    values_NC = draw(torch.Generator().manual_seed(seed)) * 1e-3
    kept_NK = values_NC.gather(1, select_topk(values_NC, 64))
    error = nmse(kept_NK, decoded(kept_NK))
    assert 0.001 < error <= limit


def test_the_error_is_the_least_of_all_splits_and_ratios() -> None:
    """Against every pair of magnitudes {s, s r} of the grid, s not rounded: brute force."""
    kept_NK = gaussian_kept(3, 0.7, 5)
    magnitude_NK = kept_NK.double().abs().sort(dim=1, descending=True).values
    least = float("inf")
    for ratio_byte in RATIO_GRID:
        ratio, total = 1 + ratio_byte / 16, 0.0
        for row in magnitude_NK:
            errors = []
            for h in range(64):
                level = torch.ones(64, dtype=torch.float64)
                level[:h] = ratio
                scale = (row * level).sum() / level.square().sum()
                errors.append(float((row - scale * level).square().sum()))
            total += min(errors)
        least = min(least, total)
    error = float((kept_NK.double() - decoded(kept_NK).double()).square().sum())
    scale_rounding = float(magnitude_NK.square().sum()) / 32**2
    assert least <= error <= least + scale_rounding


def test_every_code_is_exact_in_float32() -> None:
    """Each of the scales, ratios and signs against rational arithmetic."""
    codes = np.tile(np.array([0, 1, 2, 3], dtype=np.uint8), (256, 1))
    for exponent_byte in (0, 1, 31, EXPONENT_BIAS, MAX_EXPONENT_BYTE):
        scales = [exact_scale(b, exponent_byte) for b in range(256)]
        for ratio_byte in (1, 7, 16, MAX_RATIO_BYTE):
            ratio = 1 + Fraction(ratio_byte, 16)
            scale = TensorScale(exponent_byte=exponent_byte, ratio_byte=ratio_byte)
            coded = values_of(codes, scale)
            expected = [[s, s * ratio, -s, -s * ratio] for s in scales]
            assert [[Fraction(v) for v in row] for row in coded.tolist()] == expected
            assert float(coded.abs().max()) < MAX_ABS_VALUE


def test_scales_ascend_from_zero() -> None:
    scale_256 = TensorScale(exponent_byte=EXPONENT_BIAS, ratio_byte=1).levels
    assert scale_256[0] == 0
    assert (np.diff(scale_256) > 0).all()
    assert 1.0 <= float(scale_256[-1]) < 2.0


@pytest.mark.parametrize("magnitude", [255.0, 1.0, 1e-3, 3e-9, 1e-15])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_value_is_kept_within_the_scale_grid(magnitude: float, sign: float) -> None:
    value = torch.tensor([[sign * magnitude]])
    relative = (decoded(value) - value).abs() / value.abs()
    assert float(relative) <= 1 / 32 + 1e-6


@pytest.mark.parametrize("power", [0, -20, -40, -60])
def test_error_does_not_depend_on_the_magnitude(power: int) -> None:
    """A power of two moves the exponent byte alone: the same codes, scaled values."""
    kept_NK = gaussian_kept(8, 0.7, 3)
    scaled = decoded(torch.ldexp(kept_NK, torch.tensor(power)))
    expected = torch.ldexp(decoded(kept_NK), torch.tensor(power))
    exponent = quantize([kept_NK.numpy()])[0].exponent_byte
    if exponent + power >= 0:
        assert torch.equal(scaled, expected)
    else:
        assert (scaled.abs() <= expected.abs().max() * 2).all()


def test_below_the_smallest_scale_is_zero() -> None:
    assert torch.equal(decoded(torch.full((2, 3), 1e-30)), torch.zeros(2, 3))


def test_codes_of_a_zero_scale_are_all_small() -> None:
    """One way to write zero: of the two codes that would decode alike, the encoder takes one."""
    values_NK = np.array([[1.0, 1.5], [1e-7, 1.5e-7]], dtype=np.float32)
    _, (section,), _ = coded_groups([values_NK])
    codes = places_of(2, 2, 2).codes
    assert section[1] == 0
    assert section[codes:].tolist() == [0b00010000, 0]


def test_a_chunk_of_zeros_is_zero_beside_others() -> None:
    kept_NK = torch.stack([torch.zeros(64), torch.randn(64)])
    coded_NK = decoded(kept_NK)
    assert (coded_NK[0] == 0).all()
    assert (coded_NK[1].sign() == kept_NK[1].sign()).all()


def test_a_chunk_far_below_the_largest_is_zero_not_garbage() -> None:
    kept_NK = torch.tensor([[1.0, 1.5], [1e-7, 1.5e-7]])
    coded_NK = decoded(kept_NK)
    assert nmse(kept_NK[0], coded_NK[0]) < 0.005
    assert (coded_NK[1] == 0).all()


def test_groups_share_exponent_and_ratio_but_not_scales() -> None:
    large, small = torch.full((2, 5), 0.5), torch.full((1, 3), 0.03125)
    _, _, coded = coded_groups([large.numpy(), small.numpy()])
    assert nmse(large, coded[0]) < 0.001
    assert nmse(small, coded[1]) < 0.001


@pytest.mark.parametrize("value", [256.0, -256.0, 1e30, float("inf"), float("nan")])
def test_values_that_no_pseudo_gradient_has_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="below 2"):
        quantize([np.array([[1.0, value]], dtype=np.float32)])


@settings(deadline=None)
@given(st.lists(st.floats(-255.0, 255.0, width=32), min_size=1, max_size=12))
def test_any_values_decode_finite_bounded_and_of_the_same_sign(values: list[float]) -> None:
    kept_NK = torch.tensor([values])
    coded_NK = decoded(kept_NK)
    assert torch.isfinite(coded_NK).all()
    assert float(coded_NK.abs().max()) <= max(map(abs, values)) * 1.6
    assert ((coded_NK == 0) | (kept_NK == 0) | (coded_NK.sign() == kept_NK.sign())).all()
