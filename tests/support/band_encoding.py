"""Encoding by bands, all ranks in one process: what real processes do, in their order."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from compression.bands import band_of, band_plan, cut, splice
from compression.encoder import choose, no_tally, select, tally, write
from compression.plan import Plan

Tensors = dict[str, Tensor]


def plans_of(plan: Plan, ranks: int) -> list[Plan]:
    return [band_plan(plan, rank, ranks) for rank in range(ranks)]


def bands_of(tensors: Mapping[str, Tensor], rank: int, ranks: int) -> Tensors:
    """A rank's own copies of its rows."""
    return {name: band_of(tensor, rank, ranks).clone() for name, tensor in tensors.items()}


def encode_in_bands(
    deltas: Sequence[Tensors],
    residuals: Sequence[Tensors],
    plan: Plan,
    decay: float,
    by_torch: bool | None = None,
) -> bytes:
    """The body; `deltas` and `residuals` by rank, and the residuals change in place."""
    bands = plans_of(plan, len(deltas))
    selected = [
        select(delta, residual, band, decay, 1, by_torch)
        for delta, residual, band in zip(deltas, residuals, bands, strict=True)
    ]
    total = no_tally(plan)
    for own in selected:
        total = tally(own, total)
    scales = choose(total, plan)
    parts = [cut(write(own, scales, 1), own.plan) for own in selected]
    return splice(parts, scales, bands)
