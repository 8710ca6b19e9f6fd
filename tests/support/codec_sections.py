"""One group of equal chunks through the compiled loops, with indices and values of our choice."""

from collections.abc import Sequence

import numpy as np

from compression.indices import low_bits, section_bytes
from compression.kernels import Grid, Places, read_chunks, write_chunks
from compression.quantize import (
    MIDDLES,
    RATIO_GRID,
    RATIOS,
    TensorScale,
    add_gains,
    check_values,
    choose_scale,
    code_bytes,
    score_ratios,
)


class Refused(ValueError):
    """The fault that `read_chunks` names in bytes that no encoder writes."""

    def __init__(self, kind: int) -> None:
        super().__init__(f"fault {kind}")
        self.kind = kind


def places_of(num_chunks: int, num_elements: int, k: int) -> Places:
    low_bytes, upper_bytes = section_bytes(num_elements, k)
    uppers = num_chunks * (1 + low_bytes)
    return Places(
        scales=0,
        lows=num_chunks,
        uppers=uppers,
        codes=uppers + num_chunks * upper_bytes,
        low_bytes=low_bytes,
        upper_bytes=upper_bytes,
        code_bytes=code_bytes(k),
        low_bits=low_bits(num_elements, k),
        num_elements=num_elements,
        k=k,
    )


def quantize(groups: Sequence[np.ndarray]) -> tuple[TensorScale, list[np.ndarray]]:
    """The shared scale of a tensor's kept values, and the best scale of every chunk."""
    gains, scales = [], []
    for value_NK in groups:
        check_values(value_NK)
        gains.append(np.empty((len(value_NK), len(RATIOS))))
        scales.append(np.empty((len(value_NK), len(RATIOS)), dtype=np.float32))
        score_ratios(value_NK, RATIOS, gains[-1], scales[-1])
    gain_GR = np.zeros((len(gains), len(RATIOS)))
    for gain_NR, total_R in zip(gains, gain_GR, strict=True):
        add_gains(gain_NR, total_R)
    largest_R = np.max([s.max(axis=0, initial=0) for s in scales], axis=0)
    scale = choose_scale(gain_GR, largest_R)
    column = RATIO_GRID.index(scale.ratio_byte)
    return scale, [np.ascontiguousarray(scale_NR[:, column]) for scale_NR in scales]


def write(
    value_NK: np.ndarray,
    index_NK: np.ndarray,
    num_elements: int,
    scale: TensorScale,
    best_N: np.ndarray,
) -> np.ndarray:
    """Scale bytes, lows, uppers and codes; uint8. `value_NK` becomes what is left."""
    num_chunks, k = index_NK.shape
    places = places_of(num_chunks, num_elements, k)
    section = np.full(places.codes + num_chunks * places.code_bytes, 0xA5, dtype=np.uint8)
    index_NK = np.ascontiguousarray(index_NK).astype(np.uint16)
    write_chunks(
        value_NK, index_NK, best_N, scale.unit, MIDDLES, scale.levels, scale.ratio, places,
        section, 0,
    )  # fmt: skip
    return section


def read(
    section: np.ndarray, num_chunks: int, num_elements: int, k: int, scale: TensorScale
) -> tuple[np.ndarray, np.ndarray]:
    """Indices in chunks and values; Refused for anything else than `write` writes."""
    index_NK = np.full((num_chunks, k), -1, dtype=np.int64)
    value_NK = np.full((num_chunks, k), np.nan, dtype=np.float32)
    raw = section.copy()
    raw.flags.writeable = False
    kind = read_chunks(
        raw,
        places_of(num_chunks, num_elements, k),
        Grid(0, num_chunks, 1, num_elements, num_chunks * num_elements),
        0,
        scale.levels,
        scale.units_of_byte,
        index_NK,
        value_NK,
        np.zeros((16, 2), dtype=np.int64),
    )
    if kind:
        raise Refused(kind)
    return index_NK - np.arange(num_chunks)[:, None] * num_elements, value_NK
