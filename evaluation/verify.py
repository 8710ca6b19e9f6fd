"""What a verdict log says beside what is so: one line for each figure that differs.

Legend: S sequences of the window's pool.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from evaluation.verdict_log import WindowLog
from evaluation.work import HELD_OUT, Floats, Ints

MAX_LINES = 8
"""Pages of one window that are named; of more, how many."""


def different_pages(log: WindowLog, ids_S: Ints, owners_S: Ints) -> list[str]:
    """Page ids and owners of the pool."""
    if log.ids_S.size != ids_S.size:
        return [
            f"window {log.window}: the pool has {ids_S.size} pages, the log says {log.ids_S.size}"
        ]
    found = []
    said_owners_S = log.measured.owners_S
    for place in np.flatnonzero((log.ids_S != ids_S) | (said_owners_S != owners_S)).tolist():
        where = f"window {log.window}, page {place} of the pool"
        if log.ids_S[place] != ids_S[place]:
            found.append(f"{where}: its id is {ids_S[place]}, the log says {log.ids_S[place]}")
        if said_owners_S[place] != owners_S[place]:
            owner, said = _owner(int(owners_S[place])), _owner(int(said_owners_S[place]))
            found.append(f"{where}: its owner is {owner}, the log says {said}")
    more = len(found) - MAX_LINES
    if more > 0:
        found[MAX_LINES:] = [f"window {log.window}: {more} more ids and owners of the pool differ"]
    return found


def _owner(owner: int) -> str:
    return "nobody (held out)" if owner == HELD_OUT else f"uid {owner}"


def outside(said_S: Floats, is_S: Floats, tolerance: float) -> Ints:
    """Where two vectors of losses differ by more; infinite ones are alike."""
    with np.errstate(invalid="ignore"):
        near_S = np.abs(said_S - is_S) <= tolerance
    both_infinite_S = ~np.isfinite(said_S) & ~np.isfinite(is_S)
    return np.flatnonzero(~(near_S | both_infinite_S))


def worst_difference(said_S: Floats, is_S: Floats) -> float:
    """The largest of those that are finite."""
    finite_S = np.isfinite(said_S) & np.isfinite(is_S)
    return float(np.abs(said_S[finite_S] - is_S[finite_S]).max(initial=0.0))


def different_losses(
    place: str, ids_S: Ints, said_S: Floats, is_S: Floats, tolerance: float
) -> list[str]:
    """One line for one vector of losses: the worst of those that differ, and how many do."""
    where = outside(said_S, is_S, tolerance)
    if where.size == 0:
        return []
    differences = np.abs(said_S[where] - is_S[where])
    worst = int(where[np.argmax(np.nan_to_num(differences, nan=np.inf))])
    return [
        f"{place} on page {ids_S[worst]}, number {worst} of the pool, is {is_S[worst]}, the log "
        f"says {said_S[worst]}; {where.size} of {ids_S.size} differ by more than {tolerance:g}"
    ]


def different_uids(log: WindowLog, registered: Mapping[str, int]) -> list[str]:
    """Uids of the hotkeys that weights are for: those of reputation that are registered."""
    found = []
    for hotkey in sorted(log.reputations.keys() | log.uids.keys()):
        said = log.uids.get(hotkey)
        is_so = registered.get(hotkey) if hotkey in log.reputations else None
        if said != is_so:
            found.append(f"window {log.window}, {hotkey}: its uid is {is_so}, the log says {said}")
    return found


def order_of(owners_S: Ints) -> list[int]:
    """Uids in the order in which their pages come."""
    return list(dict.fromkeys(owners_S[owners_S != HELD_OUT].tolist()))


def skipped(order: Sequence[int], measured: Collection[int]) -> dict[int, int]:
    """uid that was not measured -> one behind it in the order that was: time cannot explain it."""
    last = max((order.index(uid) for uid in measured if uid in order), default=-1)
    return {uid: order[last] for uid in order[: last + 1] if uid not in measured}
