"""One tensor's sparse pseudo-gradient as bytes, and back.

A tensor's section is: exponent byte, ratio byte, one scale byte per chunk, then per group
of equal chunks the Elias-Fano indices and the 2-bit codes (four to a byte, most
significant first, each chunk padded with zero bits to a whole byte). Its length follows
from the layout alone; a tensor without elements has no bytes at all. Decoding never
makes a dense tensor.

Legend: N chunks, K kept per chunk, B bytes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compression.chunking import ChunkGroup, TensorLayout
from compression.indices import IndexSectionError, pack_indices, section_bytes, unpack_indices
from compression.quantize import (
    EXPONENT_BIAS,
    LARGE_BIT,
    MANTISSA_STEPS,
    MAX_EXPONENT_BYTE,
    MAX_RATIO_BYTE,
    RATIO_STEPS,
    SCALE_OCTAVES,
    TensorScale,
    dequantize,
    quantize,
    scale_values,
)
from compression.topk import select_topk

_HEADER_BYTES = 2


class CodecError(ValueError):
    """The bytes are not what any encoder writes; `reason` is a short, stable word."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseTensor:
    """Kept values of one tensor. `indices` int64 [nnz], flat, unique; `values` float32 [nnz].

    `norm` is the Euclidean norm of the values, from integers: the correctly rounded
    square root of the correctly rounded sum, the same double on every machine.
    """

    shape: tuple[int, ...]
    indices: Tensor
    values: Tensor
    norm: float

    def add_to(self, target: Tensor, *, coefficient: float) -> None:
        """target += coefficient * self, in place: product first, then sum, never fused.

        `coefficient` is rounded once to float32. The indices are unique, so that the
        scatter has no collisions and the result has the same bits on any device.
        """
        factor = torch.tensor(coefficient, dtype=torch.float32, device=target.device)
        product = self.values.to(target.device) * factor
        flat = target.view(-1)
        where = self.indices.to(target.device)
        flat[where] = flat[where] + product


def section_length(layout_groups: tuple[ChunkGroup, ...]) -> int:
    """Bytes of a tensor's section, from its groups alone."""
    if not layout_groups:
        return 0
    return _HEADER_BYTES + sum(g.num_chunks * (1 + _group_bytes(g)) for g in layout_groups)


def _group_bytes(group: ChunkGroup) -> int:
    return sum(section_bytes(group.num_elements, group.k)) + _code_bytes(group.k)


def _code_bytes(k: int) -> int:
    return -(-k // 4)


def encode_tensor(dense: Tensor, layout: TensorLayout) -> tuple[bytes, SparseTensor]:
    """Top-k, quantise and pack one float32 tensor; returns the bytes and what they decode to.

    Deterministic on one device. ValueError if the shape is not the layout's or a value
    is not finite.
    """
    if tuple(dense.shape) != layout.shape:
        raise ValueError(f"shape {tuple(dense.shape)} is not the layout's {layout.shape}")
    if not layout.groups:
        return b"", _empty(layout)
    chunked = dense.detach().cpu().reshape(-1)[layout.order]
    indices, values, start = [], [], 0
    for group in layout.groups:
        stop = start + group.num_chunks * group.num_elements
        rows_NC = chunked[start:stop].view(group.num_chunks, group.num_elements)
        index_NK = select_topk(rows_NC, group.k)
        indices.append(index_NK)
        values.append(rows_NC.gather(1, index_NK))
        start = stop
    scale, scale_bytes, codes = quantize(values)
    parts = [bytes([scale.exponent_byte, scale.ratio_byte])]
    parts += [b.numpy().tobytes() for b in scale_bytes]
    for group, index_NK, code_NK in zip(layout.groups, indices, codes, strict=True):
        parts += [pack_indices(index_NK, group.num_elements), _pack_codes(code_NK)]
    return b"".join(parts), _assemble(layout, scale, scale_bytes, indices, codes)


def decode_tensor(data: bytes, layout: TensorLayout) -> SparseTensor:
    """The inverse of `encode_tensor`; CodecError for bytes that no encoder writes. Pure."""
    if len(data) != section_length(layout.groups):
        raise CodecError("length", f"{len(data)} bytes, not {section_length(layout.groups)}")
    if not layout.groups:
        return _empty(layout)
    scale = _checked_scale(data[0], data[1])
    position = _HEADER_BYTES
    scale_bytes, indices, codes = [], [], []
    for group in layout.groups:
        raw = np.frombuffer(data, dtype=np.uint8, count=group.num_chunks, offset=position)
        scale_bytes.append(torch.from_numpy(raw.copy()))
        position += group.num_chunks
    for group in layout.groups:
        index_size = group.num_chunks * sum(section_bytes(group.num_elements, group.k))
        code_size = group.num_chunks * _code_bytes(group.k)
        indices.append(_unpack_indices(data[position : position + index_size], group))
        position += index_size
        codes.append(_unpack_codes(data[position : position + code_size], group))
        position += code_size
    return _assemble(layout, scale, scale_bytes, indices, codes)


def _checked_scale(exponent_byte: int, ratio_byte: int) -> TensorScale:
    if exponent_byte > MAX_EXPONENT_BYTE:
        raise CodecError("scale", f"exponent byte {exponent_byte} exceeds {MAX_EXPONENT_BYTE}")
    if not 1 <= ratio_byte <= MAX_RATIO_BYTE:
        raise CodecError("scale", f"ratio byte {ratio_byte} is not in [1, {MAX_RATIO_BYTE}]")
    return TensorScale(exponent_byte=exponent_byte, ratio_byte=ratio_byte)


def _unpack_indices(data: bytes, group: ChunkGroup) -> Tensor:
    try:
        return unpack_indices(data, group.num_chunks, group.num_elements, group.k)
    except IndexSectionError as error:
        raise CodecError("indices", str(error)) from error


def _pack_codes(codes_NK: Tensor) -> bytes:
    num_chunks, k = codes_NK.shape
    padded = np.zeros((num_chunks, _code_bytes(k) * 4), dtype=np.uint8)
    padded[:, :k] = codes_NK.numpy()
    quads = padded.reshape(num_chunks, -1, 4)
    packed_NB = (quads << np.array([6, 4, 2, 0], dtype=np.uint8)).sum(axis=2, dtype=np.uint8)
    return packed_NB.tobytes()


def _unpack_codes(data: bytes, group: ChunkGroup) -> Tensor:
    packed_NB = np.frombuffer(data, dtype=np.uint8).reshape(group.num_chunks, -1)
    quads = (packed_NB[:, :, None] >> np.array([6, 4, 2, 0], dtype=np.uint8)) & 3
    codes = quads.reshape(group.num_chunks, -1)
    if codes[:, group.k :].any():
        raise CodecError("codes", "padding bits are set")
    return torch.from_numpy(codes[:, : group.k].copy())


def _assemble(
    layout: TensorLayout,
    scale: TensorScale,
    scale_bytes: list[Tensor],
    indices: list[Tensor],
    codes: list[Tensor],
) -> SparseTensor:
    positions, values, start = [], [], 0
    for group, bytes_N, index_NK, code_NK in zip(
        layout.groups, scale_bytes, indices, codes, strict=True
    ):
        first_N1 = start + torch.arange(group.num_chunks)[:, None] * group.num_elements
        positions.append((first_N1 + index_NK).reshape(-1))
        scale_N = scale_values(bytes_N, scale.exponent_byte)
        values.append(dequantize(code_NK, scale_N, scale.ratio).reshape(-1))
        start += group.num_chunks * group.num_elements
    return SparseTensor(
        shape=layout.shape,
        indices=layout.order[torch.cat(positions)],
        values=torch.cat(values),
        norm=_exact_norm(scale, scale_bytes, codes),
    )


def _exact_norm(scale: TensorScale, scale_bytes: list[Tensor], codes: list[Tensor]) -> float:
    """sqrt of the sum of squares, summed in integers (units of 2^-16 of the smallest scale)."""
    ratio_units = RATIO_STEPS + scale.ratio_byte
    total = 0
    for bytes_N, code_NK in zip(scale_bytes, codes, strict=True):
        code_N = bytes_N.numpy().astype(np.int64)
        step_N = np.where(code_N == 0, 0, MANTISSA_STEPS + code_N % MANTISSA_STEPS)
        num_large_N = (code_NK & LARGE_BIT).sum(dim=1).numpy()
        num_small_N = code_NK.shape[1] - num_large_N
        units_N = step_N**2 * (num_small_N * RATIO_STEPS**2 + num_large_N * ratio_units**2)
        octave_sums = [int(units_N[code_N // MANTISSA_STEPS == o].sum()) for o in range(16)]
        total += sum(units << (2 * octave) for octave, units in enumerate(octave_sums))
    smallest_power = scale.exponent_byte - EXPONENT_BIAS - (SCALE_OCTAVES - 1) - 8
    return math.sqrt(math.ldexp(float(total), 2 * smallest_power))


def _empty(layout: TensorLayout) -> SparseTensor:
    return SparseTensor(
        shape=layout.shape,
        indices=torch.empty(0, dtype=torch.int64),
        values=torch.empty(0),
        norm=0.0,
    )
