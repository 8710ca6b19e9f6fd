"""Dense tensors to a body, in three passes of which only the first sees all elements.

1. Blocks of chunks that fit in a core's cache: decayed residual plus pseudo-gradient,
   magnitudes, the k largest. What is kept (1 element in 64) is copied out.
2. Per tensor: scale, ratio and codes of the kept values, packed into the tensor's section.
3. The residual at the kept places becomes what was there less what was sent; everywhere
   else it already is what stays behind. Nothing is decoded into a dense tensor.

On a GPU the first and last pass run there; sums, comparisons and differences are single
float32 operations, so that the body and the residual have the same bits.

Legend: N chunks, K kept per chunk.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compression.chunking import BLOCK_SIDE, CHUNK_ELEMENTS, ChunkGroup, TensorLayout
from compression.decoder import decode_tensor
from compression.indices import pack_indices
from compression.plan import SECTION_HEADER_BYTES, Plan, plan_of, section_length
from compression.quantize import (
    dequantize,
    pack_codes,
    quantize,
    scale_values,
)
from compression.sparse import SparseTensor
from compression.topk import MAGNITUDE_BITS, select_magnitudes, select_topk
from compression.workers import for_each

BLOCK_CHUNKS = 16
"""Chunks of one block on a CPU: 256 KiB each of residual, pseudo-gradient and magnitudes."""
DEVICE_BLOCK_CHUNKS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """What one group of a tensor keeps: indices within chunks, uint16 [N, K], and values."""

    group: ChunkGroup
    index_NK: np.ndarray
    value_NK: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """A tensor to encode: `data` is the accumulated values, or becomes that in pass 1.

    With `delta`: data <- decay * data + delta first. `data` and `delta` are flat.
    """

    data: Tensor
    delta: Tensor | None
    kept: tuple[_Kept, ...]


def encode(tensors: Mapping[str, Tensor], plan: Plan, num_threads: int | None = None) -> bytes:
    """The body of dense float32 tensors, which are not changed.

    The same bytes for any number of threads. ValueError if a shape is not the plan's or
    a kept value is not finite or not below 2^8.
    """
    sources = [
        _source(tensors[n], None, la) for n, la in zip(plan.names, plan.layouts, strict=True)
    ]
    return _encode(sources, plan, 0.0, num_threads)


def encode_with_feedback(
    deltas: Mapping[str, Tensor],
    residual: Mapping[str, Tensor],
    plan: Plan,
    decay: float,
    num_threads: int | None = None,
) -> bytes:
    """The body of decay * residual + delta; `residual` becomes what was not sent, in place.

    The same bytes and residual for any number of threads. ValueError as for `encode`, or
    if the decay is not in [0, 1); the residual is then to be thrown away.
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay is {decay}: it must be in [0, 1)")
    sources = []
    for name, layout in zip(plan.names, plan.layouts, strict=True):
        if not residual[name].is_contiguous():
            raise ValueError(f"{name}: the residual is changed in place and must be contiguous")
        sources.append(_source(residual[name], deltas[name], layout))
    return _encode(sources, plan, decay, num_threads)


def encode_tensor(dense: Tensor, layout: TensorLayout) -> tuple[bytes, SparseTensor]:
    """One tensor's section, and what it decodes to. Errors as for `encode`."""
    data = encode({"": dense}, plan_of(("",), (layout,)), 1)
    return data, decode_tensor(data, layout)


def _source(data: Tensor, delta: Tensor | None, layout: TensorLayout) -> _Source:
    for tensor in (data, delta):
        if tensor is not None and tuple(tensor.shape) != layout.shape:
            raise ValueError(f"shape {tuple(tensor.shape)} is not the layout's {layout.shape}")
        if tensor is not None and tensor.dtype != torch.float32:
            raise ValueError(f"dtype is {tensor.dtype}: it must be float32")
    kept = tuple(
        _Kept(
            group=group,
            index_NK=np.empty((group.num_chunks, group.k), dtype=np.uint16),
            value_NK=np.empty((group.num_chunks, group.k), dtype=np.float32),
        )
        for group in layout.groups
    )
    if delta is not None:
        delta = delta.detach().to(data.device).reshape(-1)
    return _Source(data=data.detach().reshape(-1), delta=delta, kept=kept)


def _encode(sources: list[_Source], plan: Plan, decay: float, num_threads: int | None) -> bytes:
    threads = num_threads or torch.get_num_threads()
    pieces = []
    for source in sources:
        if source.data.device.type == "cpu":
            for kept in source.kept:
                blocks = kept.group.blocks(BLOCK_CHUNKS * CHUNK_ELEMENTS // kept.group.num_elements)
                pieces += [(source, kept, first, part) for first, part in blocks]
        else:
            _select_on_device(source, decay)
    for_each(pieces, lambda shared: _select_blocks(shared, np.float32(decay)), threads)
    body = np.empty(plan.num_bytes, dtype=np.uint8)
    sections = [
        (source, body[start : start + section_length(layout.groups)])
        for source, start, layout in zip(sources, plan.starts, plan.layouts, strict=True)
        if layout.groups
    ]
    sections.sort(key=lambda item: -len(item[1]))
    for_each(sections, _write_sections, threads)
    return body.tobytes()


_Piece = tuple[_Source, _Kept, int, ChunkGroup]


def _select_blocks(shared: Iterator[_Piece], decay: np.float32) -> None:
    size = BLOCK_CHUNKS * CHUNK_ELEMENTS
    buffers = (np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.bool_))
    for source, kept, first, part in shared:
        flat = source.data.numpy()
        view = _grid_view(flat, part)
        if source.delta is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                view *= decay
                view += _grid_view(source.delta.numpy(), part)
        shape = (part.num_chunks, part.num_elements)
        magnitude, scratch, chosen = (b[: shape[0] * shape[1]].reshape(shape) for b in buffers)
        by_chunk = (part.row_blocks, part.col_blocks, part.height, part.width)
        bits = view.view(np.int32).transpose(0, 2, 1, 3)
        np.bitwise_and(bits, MAGNITUDE_BITS, out=magnitude.reshape(by_chunk))
        index_NK = select_magnitudes(magnitude, part.k, scratch, chosen)
        rows = slice(first, first + part.num_chunks)
        kept.index_NK[rows] = index_NK
        kept.value_NK[rows] = flat.take(_flat_indices(index_NK, part))


def _grid_view(flat: np.ndarray, group: ChunkGroup) -> np.ndarray:
    """[row blocks, height, column blocks, width] of a group, without a copy."""
    return np.ndarray(
        group.grid,
        dtype=flat.dtype,
        buffer=flat.data,
        offset=group.offset * flat.itemsize,
        strides=tuple(s * flat.itemsize for s in group.grid_strides),
    )


def _flat_indices(index_NK: np.ndarray, group: ChunkGroup) -> np.ndarray:
    index_NK = index_NK.astype(np.int64, copy=False)
    if group.width == BLOCK_SIDE:
        row_NK, col_NK = index_NK >> 6, index_NK & (BLOCK_SIDE - 1)
    else:
        row_NK, col_NK = np.divmod(index_NK, group.width)
    row_NK *= group.stride
    row_NK += group.bases()[:, None]
    row_NK += col_NK
    return row_NK


def _select_on_device(source: _Source, decay: float) -> None:
    """Pass 1 where the tensor is: two separate operations, so as to round as a CPU does."""
    if source.delta is not None:
        source.data.mul_(decay).add_(source.delta)
    for kept in source.kept:
        for first, part in kept.group.blocks(DEVICE_BLOCK_CHUNKS):
            view = source.data.as_strided(part.grid, part.grid_strides, part.offset)
            rows_NC = view.permute(0, 2, 1, 3).reshape(part.num_chunks, part.num_elements)
            index_NK = select_topk(rows_NC, part.k)
            rows = slice(first, first + part.num_chunks)
            kept.index_NK[rows] = index_NK.cpu().numpy()
            kept.value_NK[rows] = rows_NC.gather(1, index_NK).cpu().numpy()


def _write_sections(shared: Iterator[tuple[_Source, np.ndarray]]) -> None:
    for source, section in shared:
        _write_section(source, section)


def _write_section(source: _Source, section: np.ndarray) -> None:
    """Passes 2 and 3 of one tensor."""
    scale, scale_bytes, codes = quantize([kept.value_NK for kept in source.kept])
    section[0], section[1] = scale.exponent_byte, scale.ratio_byte
    position = SECTION_HEADER_BYTES
    packed_codes = [pack_codes(code_NK) for code_NK in codes]
    parts = list(scale_bytes)
    for kept, packed_NB in zip(source.kept, packed_codes, strict=True):
        index_NK = kept.index_NK.astype(np.int64)
        parts += [*pack_indices(index_NK, kept.group.num_elements), packed_NB]
    for part in parts:
        section[position : position + part.size] = part.reshape(-1)
        position += part.size
    if source.delta is None:
        return
    for kept, bytes_N, packed_NB in zip(source.kept, scale_bytes, packed_codes, strict=True):
        ratio_byte_N = np.full(len(bytes_N), scale.ratio_byte, dtype=np.uint8)
        scale_N = scale_values(bytes_N, scale.exponent_byte)
        left_NK = kept.value_NK
        left_NK -= dequantize(packed_NB, scale_N, ratio_byte_N, kept.group.k)
        _put(source.data, _flat_indices(kept.index_NK, kept.group), left_NK)


def _put(flat: Tensor, where_NK: np.ndarray, values_NK: np.ndarray) -> None:
    if flat.device.type == "cpu":
        flat.numpy()[where_NK] = values_NK
        return
    where = torch.from_numpy(where_NK).to(flat.device)
    flat[where] = torch.from_numpy(values_NK).to(flat.device)
