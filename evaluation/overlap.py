"""Payloads that say the same: how many of their kept places two have in common.

Nobody can read a payload of a window before all are fixed, so two of one window that overlap far
beyond chance have one author, and one of them counts. One that overlaps with a payload of a
window before is a copy or a replay. Honest ones share 3 to 22 % of their places within a
window, most in the first, up to 12 % with those of others a window before, and next to nothing
with their own, since error feedback takes out what was sent.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint8]
"""One bit for each element of the model, or of its first so many."""

MAX_ELEMENTS = 1 << 25


def place_bits(places: Iterable[tuple[int, npt.NDArray[np.int64]]], num_elements: int) -> Bits:
    """Packed bits of the kept places. `places`: for each tensor where it begins among all
    elements, and its flat indices. Only the first `MAX_ELEMENTS` elements count.
    """
    kept = np.zeros(min(num_elements, MAX_ELEMENTS), dtype=np.bool_)
    for start, indices in places:
        absolute = indices + start
        kept[absolute[absolute < kept.size]] = True
    return np.packbits(kept)


def overlap(one: Bits, other: Bits) -> float:
    """Share of the places of the smaller that both have; 0 if either has none."""
    smaller = min(_count(one), _count(other))
    return _count(one & other) / smaller if smaller else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """A payload of a window before. `named`: it was to be applied."""

    window: int
    author: str
    bits: Bits
    named: bool


def repeats(
    bits: Mapping[int, Bits],
    authors: Mapping[int, str],
    earlier: Sequence[Earlier],
    limit: float,
) -> dict[int, str]:
    """uid -> what it repeats, in words. Within the window the lowest uid of those alike counts.

    An author's own payload that was not applied may come again: it went back into error feedback.
    """
    found: dict[int, str] = {}
    for uid in sorted(bits):
        same = {
            f"uid {u} in this window": bits[u] for u in sorted(bits) if u < uid and u not in found
        }
        before = {
            f"{e.author} in window {e.window}": e.bits
            for e in earlier
            if e.named or e.author != authors[uid]
        }
        for name, other in {**same, **before}.items():
            share = overlap(bits[uid], other)
            if share > limit:
                found[uid] = f"{share:.0%} of its places are those of {name}"
                break
    return found


def _count(bits: Bits) -> int:
    return int(np.bitwise_count(bits).sum())
