"""Bodies to sparse tensors, and straight into parameters. No dense tensor is made.

Every rule is checked on whole blocks of chunks: exact length, exponent and ratio bytes in
range, k ones in every upper map, indices ascending and below n, padding clear. Nothing in
the bytes chooses a size: memory is 12 bytes per kept value, the gathered body (its own
length), under 100 bytes per chunk and 4 MiB per thread, for honest bytes and any others.

Legend: N chunks of a class, K kept per chunk, B bytes.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from compression.chunking import TensorLayout
from compression.indices import IndexSectionError, section_bytes, unpack_indices
from compression.plan import ChunkClass, Plan, Run, plan_of
from compression.quantize import (
    EXPONENT_BIAS,
    MANTISSA_STEPS,
    MAX_EXPONENT_BYTE,
    MAX_RATIO_BYTE,
    RATIO_STEPS,
    SCALE_LEVELS,
    SCALE_OCTAVES,
    code_bytes,
    dequantize,
    padding_is_clear,
)
from compression.sparse import CodecError, SparseModel, SparseTensor, add_at
from compression.workers import for_each, map_ordered

BLOCK_KEPT = 1 << 14
"""Kept values decoded at a time: their working arrays stay in a core's cache."""
HELD_BODIES = 4
"""Bodies that `aggregate` holds: 2 % of float32 parameters each."""

_LARGE_IN_BYTE = np.array([bin(byte & 0x55).count("1") for byte in range(256)], dtype=np.uint8)


@dataclass(frozen=True, kw_only=True, slots=True)
class _ClassBytes:
    """One class's part of a body, gathered over the tensors. Scales as float32 [N]."""

    chunks: ChunkClass
    names: tuple[str, ...]
    scale_byte_N: np.ndarray
    exponent_byte_N: np.ndarray
    ratio_byte_N: np.ndarray
    low_NB: np.ndarray
    upper_NB: np.ndarray
    codes_NB: np.ndarray

    def blocks(self) -> list[slice]:
        step = max(1, BLOCK_KEPT // self.chunks.k)
        count = self.chunks.num_chunks
        return [slice(first, min(first + step, count)) for first in range(0, count, step)]

    def indices(self, rows: slice) -> np.ndarray:
        """Flat indices within the tensors; int64 [N, K]."""
        n, k = self.chunks.num_elements, self.chunks.k
        try:
            index_NK = unpack_indices(self.low_NB[rows], self.upper_NB[rows], n, k)
        except IndexSectionError as error:
            raise self._error("indices", rows.start + error.chunk, str(error)) from error
        return self.chunks.flat_indices(index_NK, rows)

    def values(self, rows: slice) -> np.ndarray:
        """float32 [N, K]."""
        codes_NB, k = self.codes_NB[rows], self.chunks.k
        if k % 4 and not (clear_N := padding_is_clear(codes_NB, k)).all():
            raise self._error("codes", rows.start + int(clear_N.argmin()), "padding bits are set")
        scale_N = SCALE_LEVELS[self.exponent_byte_N[rows], self.scale_byte_N[rows]]
        return dequantize(codes_NB, scale_N, self.ratio_byte_N[rows], k)

    def _error(self, reason: str, chunk: int, detail: str) -> CodecError:
        name = self.names[self.chunks.tensor_N[chunk]]
        return CodecError(reason, f"{name}: {detail}" if name else detail)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Update:
    """A body by classes, and each tensor's factor, float32 [T]."""

    parts: tuple[_ClassBytes, ...]
    factor_T: np.ndarray


def decode(body: bytes | memoryview, plan: Plan, num_threads: int | None = None) -> SparseModel:
    """What `body` says, or CodecError for bytes that no encoder writes. Pure."""
    threads = num_threads or torch.get_num_threads()
    parts = _parse(body, plan)
    decoded = [_decode_class(part, threads) for part in parts]
    norms = _exact_norms(parts, plan)
    pieces: list[list[tuple[int, Tensor, Tensor]]] = [[] for _ in plan.names]
    for part, (flat_NK, values_NK) in zip(parts, decoded, strict=True):
        flat, values = torch.from_numpy(flat_NK), torch.from_numpy(values_NK)
        for run in part.chunks.runs:
            rows = slice(run.first, run.stop)
            piece = (run.group_number, flat[rows].view(-1), values[rows].view(-1))
            pieces[run.tensor].append(piece)
    tensors = {
        name: _joined(layout.shape, pieces[tensor], norms[tensor])
        for tensor, (name, layout) in enumerate(zip(plan.names, plan.layouts, strict=True))
    }
    return SparseModel(tensors=tensors)


def decode_tensor(data: bytes, layout: TensorLayout) -> SparseTensor:
    """One tensor's section alone; CodecError for bytes that no encoder writes. Pure."""
    return decode(data, plan_of(("",), (layout,)), 1).tensors[""]


def aggregate(
    params: Mapping[str, Tensor],
    updates: Iterable[tuple[bytes | memoryview, Mapping[str, float]]],
    plan: Plan,
    num_threads: int | None = None,
) -> None:
    """params[name] += float32(factor) * values for each (body, factors) in turn, in place.

    Streaming: at most `HELD_BODIES` bodies are held at a time, decoded and added block by
    block. The same bits as `decode` and `apply` in that order. A body that has not passed
    `decode` may raise CodecError half way: the parameters are then to be thrown away.
    """
    threads = num_threads or torch.get_num_threads()
    flats = [params[name].detach().view(-1) for name in plan.names]
    on_cpu = all(flat.device.type == "cpu" for flat in flats)
    arrays = [flat.numpy() for flat in flats] if on_cpu else []
    remaining = iter(updates)
    while held := [
        _Update(
            parts=tuple(_parse(body, plan)),
            factor_T=np.array([factors[name] for name in plan.names], dtype=np.float32),
        )
        for body, factors in islice(remaining, HELD_BODIES)
    ]:
        pieces = [(c, rows) for c, part in enumerate(held[0].parts) for rows in part.blocks()]
        if on_cpu:
            for_each(pieces, partial(_add_blocks, held=held, flats=arrays), threads)
        else:
            _add_on_device(pieces, held, flats)


def _add_blocks(
    shared: Iterator[tuple[int, slice]], held: list[_Update], flats: list[np.ndarray]
) -> None:
    """A block of every held update in turn, while its part of the parameters is in the cache."""
    for number, rows in shared:
        for update in held:
            part = update.parts[number]
            flat_NK, values_NK = part.indices(rows), part.values(rows)
            for run, inside in _runs_in(part.chunks, rows):
                where, values = flat_NK[inside].reshape(-1), values_NK[inside].reshape(-1)
                add_at(flats[run.tensor], where, values, update.factor_T[run.tensor])


def _add_on_device(
    pieces: list[tuple[int, slice]], held: list[_Update], flats: list[Tensor]
) -> None:
    for number, rows in pieces:
        for update in held:
            part = update.parts[number]
            flat_NK, values_NK = part.indices(rows), part.values(rows)
            for run, inside in _runs_in(part.chunks, rows):
                target = flats[run.tensor]
                product = torch.from_numpy(values_NK[inside] * update.factor_T[run.tensor])
                where = torch.from_numpy(flat_NK[inside]).to(target.device)
                target[where] = target[where] + product.to(target.device)


def _runs_in(chunks: ChunkClass, rows: slice) -> Iterator[tuple[Run, slice]]:
    """The runs that reach into `rows`, each with its part of them, counted from rows.start."""
    starts = chunks.run_starts
    number = int(np.searchsorted(starts, rows.start, side="right")) - 1
    for run in chunks.runs[number:]:
        if run.first >= rows.stop:
            return
        first, stop = max(run.first, rows.start), min(run.stop, rows.stop)
        yield run, slice(first - rows.start, stop - rows.start)


def _parse(body: bytes | memoryview, plan: Plan) -> list[_ClassBytes]:
    if len(body) != plan.num_bytes:
        raise CodecError("length", f"{len(body)} bytes, not {plan.num_bytes}")
    raw = np.frombuffer(body, dtype=np.uint8)
    exponent_T, ratio_T = _checked_scales(raw, plan)
    return [_class_bytes(raw, chunks, plan, exponent_T, ratio_T) for chunks in plan.classes]


def _checked_scales(raw: np.ndarray, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Exponent and ratio byte of every tensor; zeros for a tensor of no elements."""
    filled_F = np.array([t for t, layout in enumerate(plan.layouts) if layout.groups], dtype=int)
    headers_T2 = np.zeros((len(plan.names), 2), dtype=np.uint8)
    starts_F = np.array(plan.starts, dtype=np.int64)[filled_F]
    headers_T2[filled_F, 0] = raw[starts_F]
    headers_T2[filled_F, 1] = raw[starts_F + 1]
    for tensor, (exponent_byte, ratio_byte) in zip(filled_F, headers_T2[filled_F], strict=True):
        name = plan.names[tensor]
        where = f"{name}: " if name else ""
        if exponent_byte > MAX_EXPONENT_BYTE:
            detail = f"{where}exponent byte {exponent_byte} exceeds {MAX_EXPONENT_BYTE}"
            raise CodecError("scale", detail)
        if not 1 <= ratio_byte <= MAX_RATIO_BYTE:
            detail = f"{where}ratio byte {ratio_byte} is not in [1, {MAX_RATIO_BYTE}]"
            raise CodecError("scale", detail)
    return headers_T2[:, 0], headers_T2[:, 1]


def _class_bytes(
    raw: np.ndarray,
    chunks: ChunkClass,
    plan: Plan,
    exponent_T: np.ndarray,
    ratio_T: np.ndarray,
) -> _ClassBytes:
    low_size, upper_size = section_bytes(chunks.num_elements, chunks.k)
    scales: list[np.ndarray] = []
    lows: list[np.ndarray] = []
    uppers: list[np.ndarray] = []
    codes: list[np.ndarray] = []
    for run in chunks.runs:
        count, position = run.group.num_chunks, run.sections_at
        scales.append(raw[run.scales_at : run.scales_at + count])
        for parts, size in ((lows, low_size), (uppers, upper_size), (codes, code_bytes(chunks.k))):
            stop = position + count * size
            parts.append(raw[position:stop].reshape(count, size))
            position = stop
    return _ClassBytes(
        chunks=chunks,
        names=plan.names,
        scale_byte_N=np.concatenate(scales),
        exponent_byte_N=exponent_T[chunks.tensor_N],
        ratio_byte_N=ratio_T[chunks.tensor_N],
        low_NB=np.concatenate(lows),
        upper_NB=np.concatenate(uppers),
        codes_NB=np.concatenate(codes),
    )


def _decode_class(part: _ClassBytes, num_threads: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (part.chunks.num_chunks, part.chunks.k)
    flat_NK, values_NK = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)

    def work(rows: slice) -> None:
        flat_NK[rows] = part.indices(rows)
        values_NK[rows] = part.values(rows)

    map_ordered(work, part.blocks(), num_threads)
    return flat_NK, values_NK


def _joined(
    shape: tuple[int, ...], pieces: list[tuple[int, Tensor, Tensor]], norm: float
) -> SparseTensor:
    if len(pieces) == 1:
        _, indices, values = pieces[0]
    else:
        ordered = sorted(pieces, key=lambda piece: piece[0])
        empty = (torch.empty(0, dtype=torch.int64), torch.empty(0))
        indices = torch.cat([empty[0], *(piece[1] for piece in ordered)])
        values = torch.cat([empty[1], *(piece[2] for piece in ordered)])
    return SparseTensor(shape=shape, indices=indices, values=values, norm=norm)


def _exact_norms(parts: list[_ClassBytes], plan: Plan) -> list[float]:
    """sqrt of the sums of squares, summed in integers (units of 2^-16 of the smallest scale)."""
    sums = np.zeros((len(plan.names), SCALE_OCTAVES), dtype=np.int64)
    exponents = [0] * len(plan.names)
    for part in parts:
        large_N = _LARGE_IN_BYTE[part.codes_NB].sum(axis=1, dtype=np.int64)
        ratio_units_N = RATIO_STEPS + part.ratio_byte_N.astype(np.int64)
        code_N = part.scale_byte_N.astype(np.int64)
        step_N = np.where(code_N == 0, 0, MANTISSA_STEPS + code_N % MANTISSA_STEPS)
        small_N = part.chunks.k - large_N
        units_N = step_N**2 * (small_N * RATIO_STEPS**2 + large_N * ratio_units_N**2)
        np.add.at(sums, (part.chunks.tensor_N, code_N // MANTISSA_STEPS), units_N)
        for run in part.chunks.runs:
            exponents[run.tensor] = int(part.exponent_byte_N[run.first])
    return [
        _norm(octaves, exponent_byte)
        for octaves, exponent_byte in zip(sums.tolist(), exponents, strict=True)
    ]


def _norm(octave_sums: list[int], exponent_byte: int) -> float:
    total = sum(units << (2 * octave) for octave, units in enumerate(octave_sums))
    smallest_power = exponent_byte - EXPONENT_BIAS - (SCALE_OCTAVES - 1) - 8
    return math.sqrt(math.ldexp(float(total), 2 * smallest_power))
