"""Updates that are held as bodies, and added to one tensor at a time, as often as needed."""

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
from torch import Tensor

from compression.decoder import add_piece, check_param, checked_length, checked_scales
from compression.plan import Plan
from compression.workers import for_each


class HeldUpdates:
    """Bodies with factors by tensor name, in the order of addition.

    CodecError if the length or a scale of a body is invalid. Holds a copy of each body: about a
    two-hundredth of the float32 parameters.
    """

    def __init__(
        self, updates: Iterable[tuple[bytes | memoryview, Mapping[str, float]]], plan: Plan
    ) -> None:
        held = list(updates)
        self._plan = plan
        self._factors = [factors for _, factors in held]
        self._body_HB = np.empty((len(held), plan.num_bytes), dtype=np.uint8)
        for row, (body, _) in zip(self._body_HB, held, strict=True):
            row[:] = checked_length(body, plan)
        self._scales = [checked_scales(row, plan) for row in self._body_HB]

    def add_to(self, param: Tensor, name: str, num_threads: int | None = None) -> None:
        """param += float32(factor) * values of each body in turn: the bits of `aggregate`.

        ValueError unless `param` is contiguous float32 of the plan's shape, on the CPU.
        """
        tensor = self._plan.names.index(name)
        check_param(param, name, self._plan.layouts[tensor])
        runs = [run for run in self._plan.runs if run.tensor == tensor]
        add = partial(
            add_piece, {name: param}, self._plan, self._body_HB, self._scales, self._factors
        )
        for_each(add, self._plan.pieces(runs), num_threads)
