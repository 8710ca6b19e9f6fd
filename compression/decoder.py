"""Bodies to sparse tensors, and straight into parameters. No dense tensor is made.

Every rule is checked on every chunk before anything of it is used: exact length, exponent
and ratio bytes in range, k ones in the upper map, indices ascending and below n, padding
clear. Nothing in the bytes chooses a size: memory is 12 bytes per kept value, 3 per 64 of
them, and a few kilobytes per tensor and thread, for honest bytes and any others.
"""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from compression.chunking import TensorLayout
from compression.kernels import (
    CODE_PADDING,
    GOOD,
    LOW_PADDING,
    NOT_ASCENDING,
    RATIO_STEPS,
    SCALE_STEPS,
    TOO_LARGE,
    WRONG_ONES,
    add_chunks,
    read_chunks,
)
from compression.plan import Piece, Plan, plan_of
from compression.quantize import (
    EXPONENT_BIAS,
    MAX_EXPONENT_BYTE,
    MAX_RATIO_BYTE,
    SCALE_OCTAVES,
    TensorScale,
)
from compression.sparse import CodecError, SparseModel, SparseTensor, apply
from compression.workers import for_each

HELD_BODIES = 10
"""Bodies that `aggregate` holds: 2 % of float32 parameters each."""

_FAULTS = {
    WRONG_ONES: ("indices", "an upper map does not have as many ones as there are indices"),
    NOT_ASCENDING: ("indices", "indices are not strictly ascending"),
    TOO_LARGE: ("indices", "an index lies behind its chunk"),
    LOW_PADDING: ("indices", "padding bits of low parts are set"),
    CODE_PADDING: ("codes", "padding bits of codes are set"),
}


def decode(body: bytes | memoryview, plan: Plan, num_threads: int | None = None) -> SparseModel:
    """What `body` says, or CodecError for bytes that no encoder writes. Pure."""
    raw = _checked_length(body, plan)
    scales = _checked_scales(raw, plan)
    indices = np.empty(plan.num_kept, dtype=np.int64)
    values = np.empty(plan.num_kept, dtype=np.float32)
    read = partial(_read, raw, plan, scales, indices, values)
    pieces = list(plan.pieces())
    units = for_each(read, pieces, num_threads)
    norms = _norms(pieces, units, scales)
    tensors = {}
    for tensor, (name, layout) in enumerate(zip(plan.names, plan.layouts, strict=True)):
        kept = plan.kept(tensor)
        tensors[name] = SparseTensor(
            shape=layout.shape,
            indices=torch.from_numpy(indices[kept]),
            values=torch.from_numpy(values[kept]),
            norm=norms[tensor],
        )
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

    Streaming: at most `HELD_BODIES` bodies are held at a time, decoded and added chunk by
    chunk. The same bits as `decode` and `apply` in that order. A body that has not passed
    `decode` may raise CodecError half way: the parameters are then to be thrown away.
    """
    if any(params[name].device.type != "cpu" for name in plan.names):
        for body, by_name in updates:
            apply(params, decode(body, plan, num_threads), by_name, num_threads)
        return
    remaining = iter(updates)
    while held := list(islice(remaining, HELD_BODIES)):
        bodies = [_checked_length(body, plan) for body, _ in held]
        scales = [_checked_scales(raw, plan) for raw in bodies]
        factors = [by_name for _, by_name in held]
        add = partial(_add, params, plan, np.stack(bodies), scales, factors)
        for_each(add, plan.pieces(), num_threads)


def _add(
    params: Mapping[str, Tensor],
    plan: Plan,
    body_HB: np.ndarray,
    scales: list[list[TensorScale]],
    factors: list[Mapping[str, float]],
    piece: Piece,
) -> None:
    """A piece of every held update in turn."""
    run, name = piece.run, plan.names[piece.run.tensor]
    factor_H = np.array([by_name[name] for by_name in factors], dtype=np.float32)
    scale_H = [of_tensors[run.tensor] for of_tensors in scales]
    kind = add_chunks(
        params[name].detach().view(-1).numpy(),
        body_HB,
        run.places,
        run.grid,
        piece.first,
        piece.stop - piece.first,
        np.stack([scale.levels for scale in scale_H]),
        np.stack([scale.units_of_byte for scale in scale_H]),
        factor_H,
    )
    _check(kind, name)


def _read(
    raw: np.ndarray,
    plan: Plan,
    scales: list[TensorScale],
    indices: np.ndarray,
    values: np.ndarray,
    piece: Piece,
) -> np.ndarray:
    """Fills a piece's part of `indices` and `values`; its units of the norm (see `_norms`)."""
    run, scale = piece.run, scales[piece.run.tensor]
    shape = (piece.stop - piece.first, run.group.k)
    units = np.zeros((SCALE_OCTAVES, 2), dtype=np.int64)
    kind = read_chunks(
        raw,
        run.places,
        run.grid,
        piece.first,
        scale.levels,
        scale.units_of_byte,
        indices[piece.kept].reshape(shape),
        values[piece.kept].reshape(shape),
        units,
    )
    _check(kind, plan.names[run.tensor])
    return units


def _check(kind: int, name: str) -> None:
    if kind != GOOD:
        reason, detail = _FAULTS[kind]
        raise CodecError(reason, f"{name}: {detail}" if name else detail)


def _checked_length(body: bytes | memoryview, plan: Plan) -> np.ndarray:
    """The body as uint8, read-only."""
    if len(body) != plan.num_bytes:
        raise CodecError("length", f"{len(body)} bytes, not {plan.num_bytes}")
    raw = np.frombuffer(body, dtype=np.uint8)
    raw.flags.writeable = False
    return raw


def _checked_scales(raw: np.ndarray, plan: Plan) -> list[TensorScale]:
    """By tensor; a tensor of no elements has no bytes, and none is asked of it."""
    scales = [_NO_SCALE] * len(plan.names)
    for run in plan.runs:
        exponent_byte, ratio_byte = int(raw[run.start]), int(raw[run.start + 1])
        name = plan.names[run.tensor]
        where = f"{name}: " if name else ""
        if exponent_byte > MAX_EXPONENT_BYTE:
            detail = f"{where}exponent byte {exponent_byte} exceeds {MAX_EXPONENT_BYTE}"
            raise CodecError("scale", detail)
        if not 1 <= ratio_byte <= MAX_RATIO_BYTE:
            detail = f"{where}ratio byte {ratio_byte} is not in [1, {MAX_RATIO_BYTE}]"
            raise CodecError("scale", detail)
        scales[run.tensor] = TensorScale(exponent_byte=exponent_byte, ratio_byte=ratio_byte)
    return scales


_NO_SCALE = TensorScale(exponent_byte=0, ratio_byte=1)


def _norms(pieces: list[Piece], units: list[np.ndarray], scales: list[TensorScale]) -> list[float]:
    """By tensor the root of the sum of squares, summed in integers."""
    totals = [0] * len(scales)
    for piece, units_O2 in zip(pieces, units, strict=True):
        ratio_units = RATIO_STEPS + scales[piece.run.tensor].ratio_byte
        for octave, (small, large) in enumerate(units_O2.tolist()):
            squares = small * RATIO_STEPS**2 + large * ratio_units**2
            totals[piece.run.tensor] += squares << (2 * octave)
    return [_norm(total, scale.exponent_byte) for total, scale in zip(totals, scales, strict=True)]


def _norm(total: int, exponent_byte: int) -> float:
    """`total` counts squares of a 16th of a 16th of the smallest scale."""
    smallest_power = exponent_byte - EXPONENT_BIAS - (SCALE_OCTAVES - 1)
    unit_power = smallest_power - (SCALE_STEPS * RATIO_STEPS).bit_length() + 1
    return math.sqrt(math.ldexp(float(total), 2 * unit_power))
