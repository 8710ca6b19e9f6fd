"""Encode dense tensors to a body in three passes. Only the first pass reads all elements.

1. `select`, chunk by chunk: add the pseudo-gradient to the decayed residual, select the k largest
   magnitudes, and copy the kept values (1 element in 64) out.
2. Find the best scales of the kept values for every ratio; `choose` each tensor's ratio from the
   `tally` of all chunks.
3. `write` scales, indices and codes into the body, and subtract the sent values from the
   residual at the kept indices. Pass 1 has already left the right residual at all other
   indices, so the encoder decodes no dense tensor.

Tensors on a device stay there: `compression.torch_encoder` does the same by operations of PyTorch,
and body and residual are bitwise equal to a CPU's.

Of a model that lies in bands with several processes (`compression.bands`), each process selects
and writes its own chunks; only the tally goes from one to the next.

Legend: N chunks, C elements per chunk, K kept values per chunk, R ratios, G groups of a model, T
tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from compression import torch_encoder
from compression.chunking import TensorLayout
from compression.decoder import decode_tensor
from compression.kernels import accumulate_and_select, put, write_chunks
from compression.plan import SECTION_HEADER_BYTES, Piece, Plan, Run, plan_of
from compression.quantize import (
    MIDDLES,
    RATIO_GRID,
    RATIOS,
    TensorScale,
    add_gains,
    check_values,
    choose_scale,
    score_ratios,
)
from compression.sparse import SparseTensor
from compression.torch_encoder import SelectedByTorch, Source
from compression.workers import for_each

_NO_DELTA = np.empty(0, dtype=np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A group's kept indices and values, and per chunk and ratio the best scale and its gain."""

    run: Run
    index_NK: np.ndarray
    value_NK: np.ndarray
    gain_NR: np.ndarray
    scale_NR: np.ndarray

    @property
    def largest_R(self) -> np.ndarray:
        """The largest scale by ratio."""
        largest_R: np.ndarray = self.scale_NR.max(axis=0)
        return largest_R


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """The kept values of the plan's tensors, between pass 1 and pass 3."""

    plan: Plan
    sources: list[Source]
    kept: list[Kept]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Sums over all chunks, for the choice of the tensors' ratios.

    `gain_GR` float64: each group's total gain by ratio; `largest_TR` float32: each tensor's largest
    scale by ratio. 88 bytes a group and 44 a tensor, whatever the number of chunks.
    """

    gain_GR: np.ndarray
    largest_TR: np.ndarray


def encode(tensors: Mapping[str, Tensor], plan: Plan, num_threads: int | None = None) -> bytes:
    """The body of dense float32 tensors. Pure.

    The same bytes for any number of threads. ValueError if a shape differs from the plan's, a
    dtype is not float32, or a kept value is not finite or has a magnitude of 2^8 or more.
    """
    sources = [
        _source(tensors[n], None, la) for n, la in zip(plan.names, plan.layouts, strict=True)
    ]
    return _finish(_select_all(sources, plan, 0.0, num_threads, by_torch=None), num_threads)


def encode_with_feedback(
    deltas: Mapping[str, Tensor],
    residual: Mapping[str, Tensor],
    plan: Plan,
    decay: float,
    num_threads: int | None = None,
    by_torch: bool | None = None,
) -> bytes:
    """The body of decay * residual + delta; the unsent rest replaces `residual`, in place.

    The same bytes and residual for any number of threads. ValueError as for `encode`, if the
    decay is not in [0, 1), or if a residual is not contiguous. After an error the residual may
    be partly changed: discard the residual. `by_torch`: as for `select`.
    """
    selected = select(deltas, residual, plan, decay, num_threads, by_torch)
    return _finish(selected, num_threads)


def select(
    deltas: Mapping[str, Tensor],
    residual: Mapping[str, Tensor],
    plan: Plan,
    decay: float,
    num_threads: int | None = None,
    by_torch: bool | None = None,
) -> Selected | SelectedByTorch:
    """Pass 1 of `encode_with_feedback`, and the best scales. Errors as there.

    `by_torch`: by operations of PyTorch (`compression.torch_encoder`) and not by compiled loops;
    None: where the tensors do not lie on the CPU.
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay is {decay}: decay must be in [0, 1)")
    sources = []
    for name, layout in zip(plan.names, plan.layouts, strict=True):
        if not residual[name].is_contiguous():
            raise ValueError(f"{name}: the residual must be contiguous: encoding is in place")
        sources.append(_source(residual[name], deltas[name], layout))
    return _select_all(sources, plan, decay, num_threads, by_torch)


def no_tally(plan: Plan) -> Tally:
    """The tally of no chunk of a whole model."""
    return Tally(
        gain_GR=np.zeros((len(plan.runs), len(RATIOS))),
        largest_TR=np.zeros((len(plan.names), len(RATIOS)), dtype=np.float32),
    )


def tally(selected: Selected | SelectedByTorch, before: Tally) -> Tally:
    """`before`, of all chunks that precede the selected ones in their groups, and the selected."""
    gain_GR, largest_TR = before.gain_GR.copy(), before.largest_TR.copy()
    for group in selected.kept:
        add_gains(group.gain_NR, gain_GR[group.run.position])
        largest_R = largest_TR[group.run.tensor]
        np.maximum(largest_R, group.largest_R, out=largest_R)
    return Tally(gain_GR=gain_GR, largest_TR=largest_TR)


def choose(total: Tally, plan: Plan) -> tuple[TensorScale, ...]:
    """Every tensor's shared bytes from the tally of all chunks; `plan`: of the whole model."""
    groups: list[list[int]] = [[] for _ in plan.names]
    for run in plan.runs:
        groups[run.tensor].append(run.position)
    return tuple(
        choose_scale(total.gain_GR[positions], total.largest_TR[tensor])
        for tensor, positions in enumerate(groups)
    )


def write(
    selected: Selected | SelectedByTorch,
    scales: Sequence[TensorScale],
    num_threads: int | None = None,
) -> np.ndarray:
    """Pass 3: the selected chunks at their places in a body, uint8. Call once per `select`.

    The rest of the body is arbitrary: never touched, the pages in between take no memory.
    """
    if isinstance(selected, SelectedByTorch):
        return torch_encoder.write(selected, scales)
    body = np.empty(selected.plan.num_bytes, dtype=np.uint8)
    chosen = []
    for group in selected.kept:
        scale = scales[group.run.tensor]
        column = RATIO_GRID.index(scale.ratio_byte)
        chosen.append((scale, np.ascontiguousarray(group.scale_NR[:, column])))
    work = partial(_write, selected.sources, selected.kept, chosen, body)
    for_each(work, selected.plan.pieces(), num_threads)
    return body


def write_scales(body: np.ndarray, scales: Sequence[TensorScale], plan: Plan) -> None:
    """Write every tensor's two shared bytes."""
    for scale, (start, end) in zip(scales, pairwise(plan.starts), strict=True):
        if start < end:
            body[start : start + SECTION_HEADER_BYTES] = scale.exponent_byte, scale.ratio_byte


def encode_tensor(dense: Tensor, layout: TensorLayout) -> tuple[bytes, SparseTensor]:
    """A single tensor's section, and the section decoded. Errors as for `encode`."""
    data = encode({"": dense}, plan_of(("",), (layout,)), 1)
    return data, decode_tensor(data, layout)


def _source(data: Tensor, delta: Tensor | None, layout: TensorLayout) -> Source:
    for tensor in (data, delta):
        if tensor is not None and tuple(tensor.shape) != layout.shape:
            raise ValueError(f"shape {tuple(tensor.shape)} is not the layout's {layout.shape}")
        if tensor is not None and tensor.dtype != torch.float32:
            raise ValueError(f"dtype is {tensor.dtype}: tensors must be float32")
    if delta is not None:
        delta = delta.detach().to(data.device).reshape(-1)
    return Source(data=data.detach().reshape(-1), delta=delta)


def _room_for(run: Run) -> Kept:
    num_chunks, k = run.group.num_chunks, run.group.k
    return Kept(
        run=run,
        index_NK=np.empty((num_chunks, k), dtype=np.uint16),
        value_NK=np.empty((num_chunks, k), dtype=np.float32),
        gain_NR=np.empty((num_chunks, len(RATIOS)), dtype=np.float64),
        scale_NR=np.empty((num_chunks, len(RATIOS)), dtype=np.float32),
    )


def _finish(selected: Selected | SelectedByTorch, num_threads: int | None) -> bytes:
    plan = selected.plan
    scales = choose(tally(selected, no_tally(plan)), plan)
    body = write(selected, scales, num_threads)
    write_scales(body, scales, plan)
    return body.tobytes()


def _select_all(
    sources: list[Source],
    plan: Plan,
    decay: float,
    num_threads: int | None,
    by_torch: bool | None,
) -> Selected | SelectedByTorch:
    devices = {str(source.data.device) for source in sources}
    if len(devices) > 1:
        raise ValueError(f"tensors lie on {', '.join(sorted(devices))}: move all to one device")
    if by_torch or (by_torch is None and devices - {"cpu"}):
        return torch_encoder.select(sources, plan, decay)
    kept = [_room_for(run) for run in plan.runs]
    work = partial(_select, sources, kept, np.float32(decay))
    for_each(work, plan.pieces(), num_threads)
    return Selected(plan=plan, sources=sources, kept=kept)


def _select(sources: list[Source], kept: list[Kept], decay: np.float32, piece: Piece) -> None:
    """Passes 1 and 2 of a piece."""
    run, rows = piece.run, slice(piece.first, piece.stop)
    source, group = sources[run.tensor], kept[run.number]
    value_NK = group.value_NK[rows]
    flat = source.data.numpy()
    delta = _NO_DELTA if source.delta is None else source.delta.numpy()
    bits = flat.view(np.int32)
    accumulate_and_select(
        flat, bits, delta, decay, run.grid, piece.first, group.index_NK[rows], value_NK
    )
    check_values(value_NK)
    score_ratios(value_NK, RATIOS, group.gain_NR[rows], group.scale_NR[rows])


def _write(
    sources: list[Source],
    kept: list[Kept],
    scales: list[tuple[TensorScale, np.ndarray]],
    body: np.ndarray,
    piece: Piece,
) -> None:
    """Pass 3 of a piece: write the chunks, and put the residual back at the kept indices."""
    run, rows = piece.run, slice(piece.first, piece.stop)
    source, group = sources[run.tensor], kept[run.number]
    scale, best_N = scales[run.number]
    index_NK, value_NK = group.index_NK[rows], group.value_NK[rows]
    write_chunks(
        value_NK,
        index_NK,
        best_N[rows],
        scale.unit,
        MIDDLES,
        scale.levels,
        scale.ratio,
        run.places,
        body,
        piece.first,
    )
    if source.delta is not None:
        put(source.data.numpy(), run.grid, piece.first, index_NK, value_NK)
