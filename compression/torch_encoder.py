"""Encode tensors that lie on a device, by operations of PyTorch: the bytes of `encoder`.

Each pass is a number of operations on all chunks of one size at once, in blocks of bounded memory.
Only the gains (44 bytes a chunk) and the written chunks (81 bytes) go to the host.

Equal bytes follow from the same operations on float32 in the same order:
- every operation of `encoder` is one operation here, so that each result rounds once. Nothing that
  may fuse a product and a sum is used (`add` with a factor, `addcmul`, a compiled graph);
- sums that round are taken in the loops' order: the magnitudes of a chunk by k additions of rows,
  and the gains of all chunks on the host (`encoder.tally`);
- selection compares integers; the largest of float32s is exact in any order;
- what depends on the ratio and on the scale alone comes from the same tables.

Beside the tensors this takes 0.3 GB, and 0.12 bytes a parameter for what is kept. The first pass
reads and writes about 36 bytes an element, where a kernel of its own would need 12 (counted).

Legend: N chunks, C elements per chunk, K kept values per chunk, R ratios, M runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from compression.chunking import ChunkGroup
from compression.equal_runs import ChunkTable, EqualRuns, Part, chunk_table, equal_runs
from compression.kernels import MAGNITUDE_BITS
from compression.plan import Plan, Run
from compression.quantize import (
    INPUT_LIMIT,
    MIDDLES,
    RATIO_GRID,
    RATIOS,
    SCALE_LEVELS,
    TensorScale,
)
from compression.topk import largest_of

SELECTED_CHUNKS = 1 << 13
"""Chunks of one block of the first pass: 128 MiB of magnitudes, and as much for sorting."""
SCORED_CHUNKS = 1 << 17
WRITTEN_CHUNKS = 1 << 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A flat tensor to encode.

    With `delta`, pass 1 sets data <- decay * data + delta in place; without, `data` is only read.
    """

    data: Tensor
    delta: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gains:
    """On the host, of a run: the gains by chunk and ratio (float64), the largest scale by ratio."""

    run: Run
    gain_NR: np.ndarray
    largest_R: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptChunks:
    """On the device, of all chunks of one size: kept indices (int16) and values, best scales."""

    chunks: EqualRuns
    table: ChunkTable
    index_NK: Tensor
    value_NK: Tensor
    scale_NR: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedByTorch:
    """As `encoder.Selected`: the kept values of the plan's tensors, on a device."""

    plan: Plan
    sources: list[Source]
    kept: list[Gains]
    chunks: list[KeptChunks]


def select(sources: list[Source], plan: Plan, decay: float) -> SelectedByTorch:
    """Pass 1, and the best scales. ValueError as for `encoder.encode`."""
    for source in sources:
        if source.delta is not None:
            # Two operations: one that does both would round once on some devices.
            source.data.mul_(float(np.float32(decay))).add_(source.delta)
    chunks = [_select_equal(sources, equal) for equal in equal_runs(plan)]
    _check_values(chunks)
    gains = [gain for kept in chunks for gain in _score(kept)]
    gains.sort(key=lambda gain: gain.run.number)
    return SelectedByTorch(plan=plan, sources=sources, kept=gains, chunks=chunks)


def _select_equal(sources: list[Source], chunks: EqualRuns) -> KeptChunks:
    """The k largest of every chunk, and room for the scales."""
    device, k = sources[chunks.runs[0].tensor].data.device, chunks.group.k
    table, count = chunk_table(chunks, device), chunks.num_chunks
    kept = KeptChunks(
        chunks=chunks,
        table=table,
        index_NK=torch.empty((count, k), dtype=torch.int16, device=device),
        value_NK=torch.empty((count, k), device=device),
        scale_NR=torch.empty((count, len(RATIOS)), device=device),
    )
    first = 0
    for parts in chunks.row_parts(SELECTED_CHUNKS):
        rows = slice(first, first + parts[-1].rows.stop)
        index_NK = largest_of(_magnitudes(sources, parts, device), k)
        kept.index_NK[rows] = index_NK
        flat_NK = table.flat_indices(rows, index_NK)
        for run, own, _ in parts:
            found = kept.value_NK[rows][own].view(-1)
            torch.index_select(sources[run.tensor].data, 0, flat_NK[own].view(-1), out=found)
        first = rows.stop
    return kept


def _magnitudes(sources: list[Source], parts: list[Part], device: torch.device) -> Tensor:
    """The chunks of a block side by side, as int32 without signs [N, C]."""
    group = parts[0].group
    shape = (parts[-1].rows.stop, group.num_elements)
    bits_NC = torch.empty(shape, dtype=torch.int32, device=device)
    for run, rows, own in parts:
        row_blocks, height, col_blocks, width = own.grid
        room = bits_NC[rows].view(row_blocks, col_blocks, height, width)
        bits = _view(sources[run.tensor].data.view(torch.int32), own).permute(0, 2, 1, 3)
        # Integers: what a device makes of the sign of a NaN does not matter.
        torch.bitwise_and(bits, MAGNITUDE_BITS, out=room)
    return bits_NC


def _view(flat: Tensor, group: ChunkGroup) -> Tensor:
    """[row blocks, height, column blocks, width] of a group, without a copy."""
    offset = flat.storage_offset() + group.offset
    return flat.as_strided(group.grid, group.grid_strides, offset)


def _check_values(chunks: list[KeptChunks]) -> None:
    """As `quantize.check_values`: a NaN is among the kept values, and the largest of any."""
    if not chunks:
        return
    tops = [kept.value_NK.abs().amax() for kept in chunks]
    if not (largest := float(torch.stack(tops).amax())) < INPUT_LIMIT:
        raise ValueError(f"largest value is {largest}: values must be finite and below 2^8")


def _score(kept: KeptChunks) -> list[Gains]:
    """As `quantize.score_ratios`: fills the scales, and brings the gains to the host."""
    gain_NR = torch.empty_like(kept.scale_NR)
    for rows in kept.chunks.blocks(SCORED_CHUNKS):
        _score_block(kept.value_NK[rows], gain_NR[rows], kept.scale_NR[rows])
    runs, gains_NR = kept.chunks.runs, gain_NR.cpu().numpy().astype(np.float64)
    places = [kept.chunks.rows(number) for number in range(len(runs))]
    largest_TR = torch.stack([kept.scale_NR[rows].amax(dim=0) for rows in places]).cpu().numpy()
    return [
        Gains(run=run, gain_NR=gains_NR[rows], largest_R=largest_R)
        for run, rows, largest_R in zip(runs, places, largest_TR, strict=True)
    ]


def _score_block(value_NK: Tensor, gain_NR: Tensor, scale_NR: Tensor) -> None:
    num_chunks, k = value_NK.shape
    largest_KN = value_NK.abs().sort(dim=1, descending=True).values.t().contiguous()
    # Sums of the 0, 1, ... k largest: addition by addition, since each sum rounds.
    sum_KN = largest_KN.new_zeros((k + 1, num_chunks))
    for place in range(k):
        torch.add(sum_KN[place], largest_KN[place], out=sum_KN[place + 1])
    above_KN, total_N = sum_KN[:k], sum_KN[k]
    weight_RK = torch.from_numpy(_weights(k)).to(value_NK.device)
    square_KN = largest_KN
    for number, ratio in enumerate(RATIOS.tolist()):
        weight_K = weight_RK[number]
        projection_KN = torch.mul(above_KN, ratio - 1.0).add_(total_N)
        torch.mul(projection_KN, projection_KN, out=square_KN).mul_(weight_K[:, None])
        # The first of equal gains, as in the loops.
        best_N, at_N = square_KN.max(dim=0)
        gain_NR[:, number] = best_N
        scale_NR[:, number] = projection_KN.gather(0, at_N[None])[0].mul_(weight_K[at_N])


@lru_cache(maxsize=64)
def _weights(k: int) -> np.ndarray:
    """1 / (k + (r^2 - 1) h) by ratio and h, made as in `quantize.score_ratios`; float32 [R, K]."""
    square_R = RATIOS.astype(np.float64) * RATIOS.astype(np.float64)
    weight_RK: np.ndarray = 1.0 / (k + (square_R[:, None] - 1.0) * np.arange(k))
    return weight_RK.astype(np.float32)


def write(selected: SelectedByTorch, scales: Sequence[TensorScale]) -> np.ndarray:
    """Pass 3, as `encoder.write`."""
    body = np.empty(selected.plan.num_bytes, dtype=np.uint8)
    for kept in selected.chunks:
        columns = _write_equal(selected.sources, kept, scales)
        for number, run in enumerate(kept.chunks.runs):
            rows, places = kept.chunks.rows(number), run.places
            starts = (places.scales, places.lows, places.uppers, places.codes)
            for start, column in zip(starts, columns, strict=True):
                own = column[rows].reshape(-1)
                body[start : start + own.size] = own
    return body


def _write_equal(
    sources: list[Source], kept: KeptChunks, scales: Sequence[TensorScale]
) -> list[np.ndarray]:
    """Scale bytes, low parts, upper maps and codes of all chunks; puts the residual back."""
    chunks, table = kept.chunks, kept.table
    shared = _Shared(chunks, scales, kept.value_NK.device)
    columns: list[list[Tensor]] = [[], [], [], []]
    for rows in chunks.blocks(WRITTEN_CHUNKS):
        index_NK, value_NK = kept.index_NK[rows].long(), kept.value_NK[rows]
        run_N = table.run_N[rows]
        scale_byte_N, scale_N = shared.round_scales(run_N, kept.scale_NR[rows])
        code_NK = _subtract_sent(value_NK, scale_N, shared.ratio_M[run_N])
        written = (scale_byte_N[:, None], *_index_bytes(index_NK, chunks), _code_bytes(code_NK))
        for column, part in zip(columns, written, strict=True):
            column.append(part)
        flat_NK = table.flat_indices(rows, index_NK)
        for run, own in chunks.runs_in(rows):
            source = sources[run.tensor]
            if source.delta is not None:
                source.data.index_copy_(0, flat_NK[own].view(-1), value_NK[own].view(-1))
    return [torch.cat(column).cpu().numpy() for column in columns]


class _Shared:
    """The shared bytes of the tensors of some runs, by the runs' numbers M."""

    def __init__(
        self, chunks: EqualRuns, scales: Sequence[TensorScale], device: torch.device
    ) -> None:
        own = [scales[run.tensor] for run in chunks.runs]
        columns = [RATIO_GRID.index(scale.ratio_byte) for scale in own]
        self._column_M = torch.tensor(columns, device=device)
        self._exponent_M = torch.tensor([scale.exponent_byte for scale in own], device=device)
        units, ratios = ([float(s.unit) for s in own], [float(s.ratio) for s in own])
        self._unit_M = torch.tensor(units, dtype=torch.float32, device=device)
        self.ratio_M = torch.tensor(ratios, dtype=torch.float32, device=device)
        self._middles = torch.from_numpy(MIDDLES).to(device)
        self._levels = torch.from_numpy(SCALE_LEVELS).to(device).view(-1)

    def round_scales(self, run_N: Tensor, scale_NR: Tensor) -> tuple[Tensor, Tensor]:
        """Each chunk's scale byte (uint8), and the scale that the byte says."""
        best_N = scale_NR.gather(1, self._column_M[run_N][:, None])[:, 0]
        byte_N = torch.searchsorted(self._middles, best_N * self._unit_M[run_N])
        return byte_N.to(torch.uint8), self._levels[self._exponent_M[run_N] * 256 + byte_N]


def _subtract_sent(value_NK: Tensor, scale_N: Tensor, ratio_N: Tensor) -> Tensor:
    """The codes, uint8 [N, K]; leaves in `value_NK` what is not sent. As `kernels._write_codes`."""
    middle_N = scale_N * ((ratio_N + 1.0) / 2.0)
    middle_N = torch.where(scale_N > 0, middle_N, torch.inf)
    magnitude_NK = value_NK.abs()
    smallest_N = magnitude_NK.amin(dim=1)
    is_large_NK = (magnitude_NK >= middle_N[:, None]) & (magnitude_NK > smallest_N[:, None])
    is_negative_NK = value_NK < 0
    sent_NK = torch.where(is_large_NK, (scale_N * ratio_N)[:, None], scale_N[:, None])
    value_NK.sub_(torch.where(is_negative_NK, -sent_NK, sent_NK))
    return is_large_NK.to(torch.uint8).add_(is_negative_NK.to(torch.uint8).mul_(2))


def _index_bytes(index_NK: Tensor, chunks: EqualRuns) -> tuple[Tensor, Tensor]:
    """Low parts and upper maps, uint8 [N, bytes]; see `compression.indices`."""
    places, (num_chunks, k) = chunks.runs[0].places, index_NK.shape
    width = places.low_bits
    high_NK = (index_NK >> width).add_(torch.arange(k, device=index_NK.device))
    ones = index_NK.new_zeros((num_chunks, 8 * places.upper_bytes), dtype=torch.uint8)
    uppers = _pack(ones.scatter_(1, high_NK, 1), 1)
    shifts = torch.arange(width - 1, -1, -1, device=index_NK.device, dtype=torch.int16)
    bits = (index_NK.to(torch.int16)[:, :, None] >> shifts & 1).to(torch.uint8)
    return _pack(bits.view(num_chunks, k * width), 1), uppers


def _code_bytes(code_NK: Tensor) -> Tensor:
    return _pack(code_NK, 2)


def _pack(fields: Tensor, width: int) -> Tensor:
    """Fields of `width` bits, from the most significant bit on, into bytes; zeros at the end."""
    per_byte = 8 // width
    num_bytes = -(-fields.shape[1] // per_byte)
    if fields.shape[1] % per_byte:
        missing = num_bytes * per_byte - fields.shape[1]
        fields = torch.nn.functional.pad(fields, (0, missing))
    shifts = torch.arange(8 - width, -1, -width, device=fields.device, dtype=torch.uint8)
    moved = fields.view(len(fields), num_bytes, per_byte) << shifts
    return moved.sum(dim=2, dtype=torch.uint8)
