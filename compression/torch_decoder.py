"""Add bodies to parameters that lie on a device, by operations of PyTorch: the bits of `decoder`.

The body goes to the device as it is, 1/50 of the parameters' bytes, and is read there in blocks of
bounded memory. A value is multiplied by the factor, then added: two operations, two roundings.

Legend: N chunks, C elements per chunk, K kept values per chunk, M runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compression.equal_runs import EqualRuns, chunk_table, equal_runs
from compression.plan import Plan
from compression.quantize import SCALE_LEVELS, TensorScale

READ_CHUNKS = 1 << 15


@dataclass(frozen=True, kw_only=True, slots=True)
class _Columns:
    """The bytes of all chunks of one size, on the device; uint8 [N, bytes]."""

    scales: Tensor
    lows: Tensor
    uppers: Tensor
    codes: Tensor


def add_body(
    params: Mapping[str, Tensor],
    body: np.ndarray,
    scales: Sequence[TensorScale],
    factors: Mapping[str, float],
    plan: Plan,
) -> bool:
    """params[name] += float32(factor) * values, in place; whether the body is valid.

    After an invalid body the parameters are changed: discard the parameters. `body`: of the plan's
    length; `scales`: every tensor's. All parameters contiguous, on one device.
    """
    flats = [params[name].detach().view(-1) for name in plan.names]
    faults = [_add_equal(flats, body, scales, factors, plan, chunks) for chunks in equal_runs(plan)]
    return not faults or not bool(torch.stack(faults).any())


def _add_equal(
    flats: list[Tensor],
    body: np.ndarray,
    scales: Sequence[TensorScale],
    factors: Mapping[str, float],
    plan: Plan,
    chunks: EqualRuns,
) -> Tensor:
    """Add all chunks of one size; whether one of them has a fault."""
    device = flats[chunks.runs[0].tensor].device
    table, columns = chunk_table(chunks, device), _columns(body, chunks, device)
    own = [scales[run.tensor] for run in chunks.runs]
    exponent_M = torch.tensor([scale.exponent_byte for scale in own], device=device)
    units = [[1.0, float(s.ratio), -1.0, -float(s.ratio)] for s in own]
    unit_M4 = torch.tensor(units, dtype=torch.float32, device=device).view(-1)
    by_run = np.array([factors[plan.names[run.tensor]] for run in chunks.runs], dtype=np.float32)
    factor_M, levels = (torch.from_numpy(a).to(device) for a in (by_run, SCALE_LEVELS))
    is_faulty = torch.zeros((), dtype=torch.bool, device=device)
    for rows in chunks.blocks(READ_CHUNKS):
        run_N = table.run_N[rows]
        index_NK, wrong = _read_indices(columns.lows[rows], columns.uppers[rows], chunks)
        code_NK, unclean = _read_codes(columns.codes[rows], chunks.group.k)
        is_faulty |= wrong | unclean
        scale_N = levels.view(-1)[exponent_M[run_N] * 256 + columns.scales[rows, 0].long()]
        value_NK = unit_M4[code_NK + 4 * run_N[:, None]] * scale_N[:, None]
        product_NK = value_NK.mul_(factor_M[run_N][:, None])
        flat_NK = table.flat_indices(rows, index_NK)
        found_NK = torch.empty_like(product_NK)
        for run, part in chunks.runs_in(rows):
            room = found_NK[part].view(-1)
            torch.index_select(flats[run.tensor], 0, flat_NK[part].view(-1), out=room)
        # Read, add and write: an addition in memory (`index_add`) may drop subnormal numbers.
        found_NK.add_(product_NK)
        for run, part in chunks.runs_in(rows):
            flats[run.tensor].index_copy_(0, flat_NK[part].view(-1), found_NK[part].view(-1))
    return is_faulty


def _columns(body: np.ndarray, chunks: EqualRuns, device: torch.device) -> _Columns:
    """Brought together on the host, and moved in four pieces."""

    def column(starts: list[int], num_bytes: int) -> Tensor:
        lengths = [num_bytes * run.group.num_chunks for run in chunks.runs]
        pieces = [body[at : at + n] for at, n in zip(starts, lengths, strict=True)]
        joined = torch.from_numpy(np.concatenate(pieces)).to(device)
        return joined.view(chunks.num_chunks, num_bytes)

    all_places = [run.places for run in chunks.runs]
    first = all_places[0]
    return _Columns(
        scales=column([places.scales for places in all_places], 1),
        lows=column([places.lows for places in all_places], first.low_bytes),
        uppers=column([places.uppers for places in all_places], first.upper_bytes),
        codes=column([places.codes for places in all_places], first.code_bytes),
    )


def _read_indices(lows: Tensor, uppers: Tensor, chunks: EqualRuns) -> tuple[Tensor, Tensor]:
    """Indices, int64 [N, K], below C whatever the bytes; and whether a chunk has a fault."""
    places, k = chunks.runs[0].places, chunks.group.k
    width, num_elements = places.low_bits, chunks.group.num_elements
    map_NU = _unpack(uppers, 1)
    # A stable sort brings the places of the ones to the front, in their order.
    ones_NK = map_NU.sort(dim=1, descending=True, stable=True).indices[:, :k]
    ranks_K = torch.arange(k, device=lows.device)
    bits_NL = _unpack(lows, 1)
    weights = 1 << torch.arange(width - 1, -1, -1, device=lows.device)
    low_NK = (bits_NL[:, : k * width].view(len(lows), k, width) * weights).sum(dim=2)
    index_NK = (ones_NK.sub(ranks_K) << width).add_(low_NK)
    wrong = (map_NU.sum(dim=1) != k).any() | (index_NK[:, -1] >= num_elements).any()
    wrong |= (index_NK[:, 1:] <= index_NK[:, :-1]).any() | (bits_NL[:, k * width :] != 0).any()
    return index_NK.clamp_(0, num_elements - 1), wrong


def _read_codes(codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Codes, int64 [N, K]; and whether a padding bit is set."""
    all_codes = _unpack(codes, 2)
    return all_codes[:, :k].long(), (all_codes[:, k:] != 0).any()


def _unpack(data: Tensor, width: int) -> Tensor:
    """Fields of `width` bits, from the most significant bit on; uint8 [N, fields]."""
    shifts = torch.arange(8 - width, -1, -width, device=data.device, dtype=torch.uint8)
    fields = data[:, :, None] >> shifts & (1 << width) - 1
    return fields.view(len(data), -1)
