"""Kept places of some of a body's chunks, without reading the others."""

from collections.abc import Container

import numpy as np

from compression.chunking import CHUNK_ELEMENTS
from compression.decoder import checked_length, raise_for
from compression.kernels import read_places
from compression.plan import Plan


def chunk_places(
    body: bytes | memoryview, plan: Plan, chunks: np.ndarray, names: Container[str] | None = None
) -> np.ndarray:
    """Ascending places of kept values in `chunks`, int32: r * 4096 + index in the r-th chunk.

    `chunks`: ascending numbers, int64, in the order of the plan's groups. `names`: tensors whose
    chunks are read; None: all. CodecError if the body's length or a chunk read is invalid.
    """
    raw = checked_length(body, plan)
    found, first = [np.empty(0, dtype=np.int32)], 0
    for run in plan.runs:
        start, stop = np.searchsorted(chunks, [first, first + run.group.num_chunks])
        is_held = names is None or plan.names[run.tensor] in names
        if start < stop and is_held:
            place_NK = np.empty((stop - start, run.group.k), dtype=np.int32)
            kind = read_places(raw, run.places, chunks[start:stop] - first, place_NK)
            place = run.places.scales + int(chunks[start]) - first
            raise_for(kind, plan.names[run.tensor], place)
            place_NK += CHUNK_ELEMENTS * np.arange(start, stop, dtype=np.int32)[:, None]
            found.append(place_NK.reshape(-1))
        first += run.group.num_chunks
    return np.concatenate(found)
