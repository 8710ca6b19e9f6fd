"""Share of a text repeated byte for byte in a reference: the leak check of a held-out set.

Pure. The caller sets the bound, because a harmless share depends on the texts.
"""

import numpy as np
import numpy.typing as npt

SHINGLE_BYTES = 40
"""About a line of verse: too long for stock phrases to count as a leak."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_TABLE_BITS = 24
_TABLE_SHIFT = np.uint64(64 - _TABLE_BITS)


def shingle_overlap(text: bytes, reference: bytes, num_bytes: int = SHINGLE_BYTES) -> float:
    """Share in [0, 1] of the `num_bytes`-byte windows of `text` found in `reference`.

    Every offset of `text` counts once. Windows are compared by a 64-bit hash, so the share is
    exact up to collisions (about 1e-6 of the windows at 10 MB). Raises ValueError if `text`
    is shorter than a window.
    """
    if len(text) < num_bytes:
        raise ValueError(f"text of {len(text)} bytes is shorter than a window of {num_bytes}")
    wanted = _shingles(text, num_bytes)
    candidates = _shingles(reference, num_bytes)
    # Sorting 10 million hashes takes most of the time; a table of their top bits lets most go.
    seen = np.zeros(2**_TABLE_BITS, dtype=np.bool_)
    seen[wanted >> _TABLE_SHIFT] = True
    candidates = candidates[seen[candidates >> _TABLE_SHIFT]]
    return float(np.isin(wanted, candidates).mean())


def _shingles(text: bytes, num_bytes: int) -> npt.NDArray[np.uint64]:
    """Polynomial hash (mod 2**64) of the window at every offset."""
    values = np.frombuffer(text, dtype=np.uint8).astype(np.uint64) + np.uint64(1)
    num_windows = max(0, len(text) - num_bytes + 1)
    hashes = np.zeros(num_windows, dtype=np.uint64)
    for offset in range(num_bytes):
        hashes *= _MULTIPLIER
        hashes += values[offset : offset + num_windows]
    return hashes
