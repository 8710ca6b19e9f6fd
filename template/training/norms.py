"""The norms that a state carries, as one block of doubles.

As JSON, the norms of 16 windows of 20 payloads on 722 tensors outgrew the header of a checkpoint.
A row for theta_0, then a row for each accepted payload, oldest window first; in a row, the
tensors' norms in the order of their names, little endian. A tensor outside the payload's part of
the model has the norm -1.
"""

import base64
import binascii
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from template.protocol.strangers import text_of, whole
from template.training.energy import Norms

History = tuple[tuple[int, tuple[Norms, ...]], ...]
"""(window, norms of each payload accepted in the window), as in `OuterState.accepted_norms`."""

NORM_BYTES = 8
_DTYPE = np.dtype("<f8")
_ABSENT = -1.0
_WINDOW_LIMIT = 2**32
_COUNT_LIMIT = 2**16


def pack_norms(initial: Norms, accepted: History) -> bytes:
    """The block."""
    names = sorted(initial)
    rows = [initial, *(norms for _, members in accepted for norms in members)]
    table = [[row.get(name, _ABSENT) for name in names] for row in rows]
    return np.array(table, dtype=_DTYPE).tobytes()


def norms_text(initial: Norms, accepted: History) -> str:
    """The block as text, for JSON."""
    return base64.b64encode(pack_norms(initial, accepted)).decode("ascii")


def count_accepted(accepted: History) -> list[list[int]]:
    """[window, number of payloads] of each window, for JSON."""
    return [[window, len(members)] for window, members in accepted]


def parse_norms(text: object, counts: Any, names: Collection[str]) -> tuple[Norms, History]:
    """The inverse of `norms_text` and `count_accepted`; ValueError or TypeError if malformed."""
    windows = [
        (whole(w, "window of norms", _WINDOW_LIMIT), whole(n, "number of norms", _COUNT_LIMIT))
        for w, n in counts
    ]
    rows = _parse_rows(text_of(text, "norms"), 1 + sum(n for _, n in windows), sorted(names))
    accepted, start = [], 1
    for window, count in windows:
        accepted.append((window, tuple(rows[start : start + count])))
        start += count
    return rows[0], tuple(accepted)


def _parse_rows(text: str, num_rows: int, names: Sequence[str]) -> list[dict[str, float]]:
    try:
        block = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"norms are not base64: {error}") from error
    if len(block) != NORM_BYTES * num_rows * len(names):
        raise ValueError(f"norms have {len(block)} bytes for {num_rows} x {len(names)} numbers")
    values = np.frombuffer(block, dtype=_DTYPE).reshape(num_rows, len(names))
    is_absent = values == _ABSENT
    if not (is_absent | (np.isfinite(values) & (values >= 0))).all() or is_absent[0].any():
        raise ValueError("norms are negative or not finite")
    return [
        {name: norm for name, norm in zip(names, row, strict=True) if norm != _ABSENT}
        for row in values.tolist()
    ]
