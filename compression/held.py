"""Updates that are held as bodies, and added to one tensor at a time, as often as needed."""

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
from torch import Tensor

from compression.decoder import add_piece, check_param, checked_length, checked_scales
from compression.plan import Plan, plan_of
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

    def add_to(self, param: Tensor, name: str, num_threads: int | None = None) -> None:
        """param += float32(factor) * values of each body in turn: the bits of `aggregate`.

        ValueError unless `param` is contiguous float32 of the plan's shape, on the CPU.
        """
        tensor = self._plan.names.index(name)
        layout = self._plan.layouts[tensor]
        check_param(param, name, layout)
        starts = [run.start for run in self._plan.runs if run.tensor == tensor]
        if not starts:
            return  # a tensor of no elements
        alone, start = plan_of((name,), (layout,)), starts[0]
        section_HB = np.stack([body[start : start + alone.num_bytes] for body in self._bodies])
        scales = [checked_scales(section, alone) for section in section_HB]
        add = partial(add_piece, {name: param}, alone, section_HB, scales, self._factors)
        for_each(add, alone.pieces(), num_threads)
