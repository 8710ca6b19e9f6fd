"""Decode bodies to sparse tensors, or add bodies to parameters without a dense tensor.

The decoder checks every chunk before using the chunk: exact body length, exponent and ratio
bytes in range, k ones in the upper map, indices ascending and below n, padding bits clear.
Array sizes follow from the plan, never from the bytes: 12 bytes per kept value if the caller
wants the values, half a kilobyte per 256 chunks, and a few kilobytes per tensor and thread,
for honest and for hostile bytes alike.

Legend: N chunks, K kept values per chunk, H held bodies, B bytes of a body, T tensors,
O octaves of scales.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

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
from compression.plan import Piece, Plan, held_plan, plan_of
from compression.quantize import (
    EXPONENT_BIAS,
    MAX_EXPONENT_BYTE,
    MAX_RATIO_BYTE,
    MIN_RATIO_BYTE,
    SCALE_OCTAVES,
    TensorScale,
)
from compression.sparse import CodecError, SparseModel, SparseTensor
from compression.torch_decoder import add_body
from compression.workers import for_each

HELD_BODIES = 10
"""Bodies in memory at a time during `aggregate`: a twentieth of the float32 parameters."""

_FAULTS = {
    WRONG_ONES: ("indices", "an upper map has more or fewer ones than the chunk keeps values"),
    NOT_ASCENDING: ("indices", "indices are not strictly ascending"),
    TOO_LARGE: ("indices", "an index lies past the end of the chunk"),
    LOW_PADDING: ("indices", "padding bits of low parts are set"),
    CODE_PADDING: ("codes", "padding bits of codes are set"),
}


def decode(body: bytes | memoryview, plan: Plan, num_threads: int | None = None) -> SparseModel:
    """The body's kept values, indices and norms. CodecError if the bytes are invalid. Pure."""
    raw = checked_length(body, plan)
    scales = checked_scales(raw, plan)
    indices = np.empty(plan.num_kept, dtype=np.int64)
    values = np.empty(plan.num_kept, dtype=np.float32)

    def read(piece: Piece) -> np.ndarray:
        shape = (piece.stop - piece.first, piece.run.group.k)
        part = piece.kept
        return _read(
            raw, plan, scales, piece, indices[part].reshape(shape), values[part].reshape(shape)
        )

    units = _add_units(plan, for_each(read, plan.pieces(), num_threads))
    norms = _norms(plan, scales, units)
    tensors = {}
    for tensor, (name, layout) in enumerate(zip(plan.names, plan.layouts, strict=True)):
        kept = plan.kept(tensor)
        tensors[name] = SparseTensor(
            shape=layout.shape,
            indices=torch.from_numpy(indices[kept]),
            values=torch.from_numpy(values[kept]),
            norm=norms[name],
        )
    return SparseModel(tensors=tensors)


def check(body: bytes | memoryview, plan: Plan, num_threads: int | None = None) -> dict[str, float]:
    """Every tensor's norm, as in `decode`, without storing values. CodecError if invalid. Pure."""
    units = check_units(body, plan, num_threads)
    return norms_of(body, plan, units)


def check_units(body: bytes | memoryview, plan: Plan, num_threads: int | None = None) -> np.ndarray:
    """`check` for the chunks of the plan, and what `norms_of` needs of them; int64 [T, O, 2].

    The integers of the bands of a model add up to the model's.
    """
    raw = checked_length(body, plan)
    scales = checked_scales(raw, plan)

    def read(piece: Piece) -> np.ndarray:
        shape = (piece.stop - piece.first, 0)
        return _read(
            raw, plan, scales, piece, np.empty(shape, np.int64), np.empty(shape, np.float32)
        )

    return _add_units(plan, for_each(read, plan.pieces(), num_threads))


def norms_of(body: bytes | memoryview, plan: Plan, units_TO2: np.ndarray) -> dict[str, float]:
    """Every tensor's norm from the sum of `check_units` over the whole model."""
    return _norms(plan, checked_scales(checked_length(body, plan), plan), units_TO2)


def decode_tensor(data: bytes, layout: TensorLayout) -> SparseTensor:
    """Decode a single tensor's section. CodecError if the bytes are invalid. Pure."""
    return decode(data, plan_of(("",), (layout,)), 1).tensors[""]


def aggregate(
    params: Mapping[str, Tensor],
    updates: Iterable[tuple[bytes | memoryview, Mapping[str, float]]],
    plan: Plan,
    num_threads: int | None = None,
    by_torch: bool | None = None,
) -> None:
    """params[name] += float32(factor) * values for each (body, factors) in turn, in place.

    Where a body has no factor for a tensor, the body's section is not read.
    Streaming: at most `HELD_BODIES` bodies are in memory at a time, decoded and added chunk by
    chunk. Bitwise equal to `decode` followed by `apply`. ValueError, before any addition, if a
    parameter is not contiguous float32 of the plan's shape. A body without a passed `check` may
    raise CodecError half way and leave the parameters partly changed: discard the parameters.
    `by_torch`: by operations of PyTorch (`compression.torch_decoder`) and not by compiled loops;
    None: where the parameters do not lie on the CPU.
    """
    _check_params(params, plan)
    remaining = iter(updates)
    if by_torch or (by_torch is None and _lies_elsewhere(params, plan)):
        for body, factors in remaining:
            raw = checked_length(body, plan)
            own = held_plan(plan, factors)
            add_by_torch(params, raw, checked_scales(raw, plan), factors, own)
        return
    body_HB = np.empty((HELD_BODIES, plan.num_bytes), dtype=np.uint8)
    while True:
        scales: list[list[TensorScale]] = []
        held: list[Mapping[str, float]] = []
        for row, (body, factors) in zip(body_HB, remaining, strict=False):
            row[:] = checked_length(body, plan)
            scales.append(checked_scales(row, plan))
            held.append(factors)
        if not held:
            return
        add = partial(add_piece, params, plan, body_HB[: len(held)], scales, held)
        for_each(add, plan.pieces(), num_threads)


def _lies_elsewhere(params: Mapping[str, Tensor], plan: Plan) -> bool:
    return any(params[name].device.type != "cpu" for name in plan.names)


def add_by_torch(
    params: Mapping[str, Tensor],
    raw: np.ndarray,
    scales: list[TensorScale],
    factors: Mapping[str, float],
    plan: Plan,
) -> None:
    """Add a body to parameters on one device. CodecError if invalid; the parameters are changed."""
    devices = {str(params[name].device) for name in plan.names}
    if len(devices) > 1:
        raise ValueError(f"parameters lie on {', '.join(sorted(devices))}: move all to one device")
    if add_body(params, raw, scales, factors, plan):
        return
    for piece in plan.pieces():
        shape = (piece.stop - piece.first, 0)  # names the fault, as every other reader does
        _read(raw, plan, scales, piece, np.empty(shape, np.int64), np.empty(shape, np.float32))
    raise RuntimeError("a device refuses a body in which this machine's own loops find no fault")


def _check_params(params: Mapping[str, Tensor], plan: Plan) -> None:
    for name, layout in zip(plan.names, plan.layouts, strict=True):
        check_param(params[name], name, layout)


def check_param(param: Tensor, name: str, layout: TensorLayout) -> None:
    """ValueError unless the parameter is contiguous float32 of the layout's shape."""
    if tuple(param.shape) != layout.shape:
        raise ValueError(f"{name}: shape {tuple(param.shape)} is not the plan's {layout.shape}")
    if param.dtype != torch.float32 or not param.is_contiguous():
        raise ValueError(f"{name}: parameters must be contiguous float32")


def add_piece(
    params: Mapping[str, Tensor],
    plan: Plan,
    body_HB: np.ndarray,
    scales: list[list[TensorScale]],
    factors: list[Mapping[str, float]],
    piece: Piece,
) -> None:
    """Add a piece of every held body with a factor for the tensor, body by body."""
    run, name = piece.run, plan.names[piece.run.tensor]
    scale_H = [of_tensors[run.tensor] for of_tensors in scales]
    for held in _neighbours([name in by_name for by_name in factors]):
        kind = add_chunks(
            params[name].detach().view(-1).numpy(),
            body_HB[held],
            run.places,
            run.grid,
            piece.first,
            piece.stop - piece.first,
            np.stack([scale.levels for scale in scale_H[held]]),
            np.stack([scale.units_of_byte for scale in scale_H[held]]),
            np.array([by_name[name] for by_name in factors[held]], dtype=np.float32),
        )
        raise_for(kind, name, piece.place)


def _neighbours(is_held: Sequence[bool]) -> Iterator[slice]:
    """Ranges of bodies, one after another, all of them held: rows without a copy."""
    first = 0
    for row, held in enumerate([*is_held, False]):
        if held:
            continue
        if first < row:
            yield slice(first, row)
        first = row + 1


def _read(
    raw: np.ndarray,
    plan: Plan,
    scales: list[TensorScale],
    piece: Piece,
    flat_NK: np.ndarray,
    value_NK: np.ndarray,
) -> np.ndarray:
    """Check a piece and fill arrays of K columns (none with 0); squared-norm units [O, 2]."""
    run, scale = piece.run, scales[piece.run.tensor]
    units = np.zeros((SCALE_OCTAVES, 2), dtype=np.int64)
    kind = read_chunks(
        raw,
        run.places,
        run.grid,
        piece.first,
        scale.levels,
        scale.units_of_byte,
        flat_NK,
        value_NK,
        units,
    )
    raise_for(kind, plan.names[run.tensor], piece.place)
    return units


def raise_for(kind: int, name: str, place: int) -> None:
    if kind != GOOD:
        reason, detail = _FAULTS[kind]
        raise CodecError(reason, f"{name}: {detail}" if name else detail, place)


def checked_length(body: bytes | memoryview, plan: Plan) -> np.ndarray:
    """The body as uint8, read-only."""
    if len(body) != plan.num_bytes:
        raise CodecError("length", f"{len(body)} bytes, not {plan.num_bytes}")
    raw = np.frombuffer(body, dtype=np.uint8)
    raw.flags.writeable = False
    return raw


def checked_scales(raw: np.ndarray, plan: Plan) -> list[TensorScale]:
    """Each tensor's scale; `_NO_SCALE` for a tensor of no elements, whose section is empty.

    Also of tensors without a row in the plan's band, so that every process refuses alike.
    """
    scales = [_NO_SCALE] * len(plan.names)
    for tensor, (start, end) in enumerate(pairwise(plan.starts)):
        if start == end:
            continue
        exponent_byte, ratio_byte = int(raw[start]), int(raw[start + 1])
        name = plan.names[tensor]
        where = f"{name}: " if name else ""
        if exponent_byte > MAX_EXPONENT_BYTE:
            detail = f"{where}exponent byte {exponent_byte} exceeds {MAX_EXPONENT_BYTE}"
            raise CodecError("scale", detail)
        if not MIN_RATIO_BYTE <= ratio_byte <= MAX_RATIO_BYTE:
            limits = f"[{MIN_RATIO_BYTE}, {MAX_RATIO_BYTE}]"
            detail = f"{where}ratio byte {ratio_byte} is not in {limits}"
            raise CodecError("scale", detail)
        scales[tensor] = TensorScale(exponent_byte=exponent_byte, ratio_byte=ratio_byte)
    return scales


_NO_SCALE = TensorScale(exponent_byte=0, ratio_byte=1)


def _add_units(plan: Plan, units: list[np.ndarray]) -> np.ndarray:
    """Sums by tensor, int64 [T, O, 2], of the plan's pieces' [O, 2]."""
    sums_TO2 = np.zeros((len(plan.names), SCALE_OCTAVES, 2), dtype=np.int64)
    for piece, units_O2 in zip(plan.pieces(), units, strict=True):
        sums_TO2[piece.run.tensor] += units_O2
    return sums_TO2


def _norms(plan: Plan, scales: list[TensorScale], units_TO2: np.ndarray) -> dict[str, float]:
    """Euclidean norm by name, from exact integer sums of squares."""
    norms = {}
    for name, scale, sums_O2 in zip(plan.names, scales, units_TO2.tolist(), strict=True):
        ratio_units, total = RATIO_STEPS + scale.ratio_byte, 0
        for octave, (small, large) in enumerate(sums_O2):
            total += (small * RATIO_STEPS**2 + large * ratio_units**2) << (2 * octave)
        norms[name] = _norm(total, scale.exponent_byte)
    return norms


def _norm(total: int, exponent_byte: int) -> float:
    """The root of `total`, in units of 2^(E - 15) / 256 squared (E: see `TensorScale`)."""
    smallest_power = exponent_byte - EXPONENT_BIAS - (SCALE_OCTAVES - 1)
    unit_power = smallest_power - (SCALE_STEPS * RATIO_STEPS).bit_length() + 1
    return math.sqrt(math.ldexp(float(total), 2 * unit_power))
