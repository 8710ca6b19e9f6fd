"""Where a payload keeps values: what the overlap rule compares.

The rule compares whole chunks, at most `MAX_CHUNKS`. A larger model's are drawn over all of it by
a block after the commitments: nobody knew, when the payload was made, where the rule would look.
The next window looks elsewhere, so a payload of a large model is remembered whole, on disk.
"""

import mmap
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from compression import chunk_places
from evaluation.overlap import Places
from template.errors import disk_trouble
from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.payload import Payload, PayloadFormat

MAX_CHUNKS = 1 << 13
"""Chunks compared at most, of 4096 elements each: places below 2^25."""
_WORDS_PER_HASH = 4

SampleSeed = Callable[[int], bytes]
"""Window -> hash of a block after the window's commitments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldBody:
    """The body of a payload of a model too large to be compared whole; `names`: its tensors."""

    body: bytes | memoryview
    names: frozenset[str]


Footprint = Places | HeldBody
"""What is remembered of a payload: its places, if the rule compares the whole model."""


def is_sampled(form: PayloadFormat) -> bool:
    """Whether the rule compares a part of the model."""
    return form.plan.num_chunks > MAX_CHUNKS


def footprint_of(payload: Payload, form: PayloadFormat) -> Footprint:
    """What to remember of a payload."""
    if is_sampled(form):
        return HeldBody(body=payload.body, names=frozenset(payload.norms))
    return chunk_places(payload.body, form.plan, np.arange(form.plan.num_chunks), payload.norms)


def places_in(
    footprint: Footprint, form: PayloadFormat, window: int, sample_seed: SampleSeed
) -> Places:
    """The kept places that the rule compares in `window`."""
    if isinstance(footprint, HeldBody):
        chunks = sampled_chunks(sample_seed(window), window, form.plan.num_chunks)
        return chunk_places(footprint.body, form.plan, chunks, footprint.names)
    return footprint


def sampled_chunks(seed: bytes, window: int, num_chunks: int) -> np.ndarray:
    """Ascending numbers of the chunks compared in a window, int64.

    `MAX_CHUNKS` draws with repeats: in a model of many chunks nearly as many chunks.
    """
    drawn: set[int] = set()
    for counter in range(MAX_CHUNKS // _WORDS_PER_HASH):
        word = labelled_hash("tessera/overlap", seed, uint_bytes(window), uint_bytes(counter))
        # The modulo bias is below num_chunks / 2^64.
        drawn |= {int.from_bytes(word[i : i + 8], "little") % num_chunks for i in range(0, 32, 8)}
    return np.array(sorted(drawn), dtype=np.int64)


class Shelf:
    """Bodies on disk, each for as long as something refers to it; nothing outlives the process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, footprint: Footprint) -> Footprint:
        """The same, with a body on disk; StateError if the disk refuses."""
        if not isinstance(footprint, HeldBody):
            return footprint
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Without a name in the folder: the system takes the disk back, after a kill too.
            with tempfile.TemporaryFile(dir=self._folder) as file:
                file.write(footprint.body)
                file.flush()
                held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise disk_trouble(self._folder, error) from error
        return replace(footprint, body=memoryview(held))


def in_memory(footprint: Footprint) -> Footprint:
    """The `Shelf.keep` of a caller without a disk."""
    return footprint
