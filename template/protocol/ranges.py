"""Block ranges: the parts of a model that a machine too small for the whole model trains.

A model is a row of blocks: the embedding, the layers, and what comes after the last layer. `parts`
cuts the row into so many contiguous ranges of about equal numbers of parameters. A miner says into
how many parts it has to cut the model; the assignment seed says which part it trains in a window.

Pure, and the same on every node: integers alone decide.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from template.protocol.hashing import labelled_hash, uint_bytes

Shape = tuple[int, ...]

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_FIRST = re.compile(r"(?:^|\.)embed")


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockRange:
    """Part `part` (from 0) of a model cut into `parts`. ValueError outside [0, parts)."""

    part: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part {self.part} of {self.parts}: parts count from 0")

    @property
    def is_whole(self) -> bool:
        """Whether the range is the whole model."""
        return self.parts == 1

    def __str__(self) -> str:
        return "the whole model" if self.is_whole else f"part {self.part} of {self.parts}"


WHOLE = BlockRange()


def drawn_range(seed: bytes, parts: int) -> BlockRange:
    """The part that a miner trains; `seed`: of the miner's page list (`assignment_seed`)."""
    word = labelled_hash("block range", seed, uint_bytes(parts))
    # The modulo bias is below parts / 2^64.
    return BlockRange(part=int.from_bytes(word[:8], "little") % parts, parts=parts)


def cut_model(shapes: Mapping[str, Shape], parts: int) -> tuple[dict[str, Shape], ...]:
    """Name -> shape of the tensors of each part, in the order of the blocks.

    A block belongs to the part in which the middle of its parameters lies. ValueError if a part
    would be empty: a block is never cut.
    """
    if parts < 1:
        raise ValueError(f"parts is {parts}, must be at least 1")
    sizes: dict[int, int] = {}
    last = 1 + max((_layer(name) for name in shapes), default=0)
    blocks = {name: _block(name, last) for name in shapes}
    for name, shape in shapes.items():
        sizes[blocks[name]] = sizes.get(blocks[name], 0) + math.prod(shape)
    total, before, part_of = sum(sizes.values()), 0, {}
    for block, size in sorted(sizes.items()):
        # A block without a parameter may lie at the very end of the row.
        part_of[block] = min((2 * before + size) * parts // (2 * total), parts - 1) if total else 0
        before += size
    cut: tuple[dict[str, Shape], ...] = tuple({} for _ in range(parts))
    for name in sorted(shapes):
        cut[part_of[blocks[name]]][name] = shapes[name]
    if empty := [part for part, held in enumerate(cut) if not held]:
        raise ValueError(
            f"cut into {parts} parts, the model's {len(sizes)} blocks leave part {empty[0]} empty: "
            f"take fewer parts"
        )
    return cut


def num_elements(shapes: Mapping[str, Shape]) -> int:
    """Parameters of tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes.values())


def _layer(name: str) -> int:
    """The number of the layer counted from 1; 0 for a tensor outside the layers."""
    found = _LAYER.search(name)
    return 1 + int(found.group(1)) if found else 0


def _block(name: str, last: int) -> int:
    """Place among the blocks: 0 the embedding, then the layers, `last` what follows them."""
    return _layer(name) or (0 if _FIRST.search(name) else last)
