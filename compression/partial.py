"""Bodies of some of a model's tensors: a miner that trains a part of the model sends no more.

A short body is the sections of the held tensors alone, in the order of their names. `widen` puts
the sections where a body of the whole model has them; the sections of all other tensors are zeros,
are never read and take no memory, since nothing touches them. So whoever adds bodies to a model
knows bodies of one length only, and a tensor without a factor is left alone.
"""

from collections.abc import Collection
from itertools import pairwise

import numpy as np

from compression.plan import Plan
from compression.quantize import MIN_RATIO_BYTE
from compression.sparse import CodecError


def short_bytes(plan: Plan, names: Collection[str]) -> int:
    """Exact length of a short body."""
    sections = zip(plan.names, pairwise(plan.starts), strict=True)
    return sum(end - start for name, (start, end) in sections if name in names)


def widen(body: bytes | memoryview, plan: Plan, names: Collection[str]) -> memoryview:
    """The body of the whole model with these sections. CodecError for a wrong length.

    `plan`: of the whole model.
    """
    expected = short_bytes(plan, names)
    if len(body) != expected:
        raise CodecError("length", f"{len(body)} bytes, not {expected}")
    short, at = np.frombuffer(body, dtype=np.uint8), 0
    wide = np.zeros(plan.num_bytes, dtype=np.uint8)
    for name, (start, end) in zip(plan.names, pairwise(plan.starts), strict=True):
        if name in names:
            wide[start:end] = short[at : at + end - start]
            at += end - start
        elif start < end:
            wide[start + 1] = MIN_RATIO_BYTE  # every reader looks at all scales first
    wide.flags.writeable = False
    return wide.data
