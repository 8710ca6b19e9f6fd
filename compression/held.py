"""Updates that are held as bodies, and added to one tensor at a time, as often as needed."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from compression.decoder import add_by_torch, add_piece, check_param, checked_length, checked_scales
from compression.plan import Plan, Run
from compression.workers import for_each


class HeldUpdates:
    """Bodies with factors by tensor name, in the order of addition.

    CodecError if the length or a scale of a body is invalid. Refers to the bodies, and copies the
    sections of a single tensor at a time: the bodies of a window are a tenth of the parameters.
    """

    def __init__(
        self, updates: Iterable[tuple[bytes | memoryview, Mapping[str, float]]], plan: Plan
    ) -> None:
        held = list(updates)
        self._plan = plan
        self._factors = [factors for _, factors in held]
        self._bodies = [checked_length(body, plan) for body, _ in held]
        for body in self._bodies:
            checked_scales(body, plan)

    def add_to(
        self,
        param: Tensor,
        name: str,
        num_threads: int | None = None,
        by_torch: bool | None = None,
    ) -> None:
        """param += float32(factor) * values of each body in turn: the bits of `aggregate`.

        A body without a factor for the tensor is left out.
        ValueError unless `param` is contiguous float32 of the plan's shape. `by_torch`: as there.
        """
        tensor = self._plan.names.index(name)
        layout = self._plan.layouts[tensor]
        check_param(param, name, layout)
        alone, start = section_plan(self._plan, tensor), self._plan.starts[tensor]
        if not alone.runs:
            return  # a tensor, or a band, of no elements
        holding = [
            (body[start : start + alone.num_bytes], factors)
            for body, factors in zip(self._bodies, self._factors, strict=True)
            if name in factors
        ]
        if not holding:
            return
        sections, held = [section for section, _ in holding], [factors for _, factors in holding]
        if by_torch or (by_torch is None and param.device.type != "cpu"):
            for section, factors in zip(sections, held, strict=True):
                found = checked_scales(section, alone)
                add_by_torch({name: param}, section, found, factors, alone)
            return
        section_HB = np.stack(sections)
        scales = [checked_scales(section, alone) for section in section_HB]
        add = partial(add_piece, {name: param}, alone, section_HB, scales, held)
        for_each(add, alone.pieces(), num_threads)


def section_plan(plan: Plan, tensor: int) -> Plan:
    """The plan of a tensor's section alone, of the same chunks: all of them, or a band's."""
    start, end = plan.starts[tensor], plan.starts[tensor + 1]
    first, last = plan.kept_at[tensor], plan.kept_at[tensor + 1]
    runs: list[Run] = []
    for run in plan.runs:
        if run.tensor == tensor:
            places = run.places
            moved = places._replace(
                scales=places.scales - start,
                lows=places.lows - start,
                uppers=places.uppers - start,
                codes=places.codes - start,
            )
            kept_at = run.kept_at - first
            runs.append(
                replace(run, number=len(runs), tensor=0, start=0, places=moved, kept_at=kept_at)
            )
    return replace(
        plan,
        names=(plan.names[tensor],),
        layouts=(plan.layouts[tensor],),
        num_bytes=end - start,
        starts=(0, end - start),
        kept_at=(0, last - first),
        runs=tuple(runs),
    )
