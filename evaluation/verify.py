"""Checking a verdict log: against the log's own losses, and against recomputed values.

Each difference is a sentence with window, uid, the recomputed figure and the logged figure.

Legend: S sequences of the window's pool.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluation.conclusion import Registered, reputations_and_weights
from evaluation.history import Histories, add_window, mark_pairs, past_of, select_windows
from evaluation.judge import Measured, judge
from evaluation.pace import PaceSample, add_pace, pace_of, pace_sample
from evaluation.rules import PayRules
from evaluation.verdict import FIGURES, MEASURED, NOT_SCORED, Verdict
from evaluation.verdict_log import WindowLog
from evaluation.work import HELD_OUT, Floats, Ints

MAX_LINES = 8
"""Differing pages of a window reported one by one; further pages are counted."""


def compare_with_losses(log: WindowLog, histories: Histories, rules: PayRules) -> list[str]:
    """Differences between a log and the values recomputed from the log's own losses, bit for bit.

    `histories`: the validator's memory before the window, from the logs of earlier windows.
    """
    expected = _expected_verdicts(log, histories, rules)
    found = _compare_verdicts(log, expected, ("status", "gain_log_ratio", *FIGURES))
    after = add_window(histories, log.window, expected.values(), rules.length)
    registered = Registered(uids=log.uids, burn_uid=log.burn_uid)
    reputations, shares = reputations_and_weights(after, log.window, registered, rules)
    window = f"window {log.window}"
    for hotkey in sorted(reputations.keys() | log.reputations.keys()):
        said, is_so = log.reputations.get(hotkey), reputations.get(hotkey)
        if said != is_so:
            found.append(f"{window}, {hotkey}: reputation is {is_so}, the log says {said}")
    for uid in sorted(shares.keys() | log.shares.keys()):
        said_share, share = log.shares.get(uid), shares.get(uid)
        if said_share != share:
            found.append(f"{window}, uid {uid}: weight is {share}, the log says {said_share}")
    return found


def compare_figures(log: WindowLog, rules: PayRules) -> list[str]:
    """The part of `compare_with_losses` without a need for earlier windows."""
    return _compare_verdicts(log, _expected_verdicts(log, {}, rules), FIGURES)


def _expected_verdicts(log: WindowLog, histories: Histories, rules: PayRules) -> dict[int, Verdict]:
    blanks = [_blank(verdict, log.measured) for verdict in log.verdicts]
    past = past_of(histories, rules.judge)
    return {v.uid: v for v in judge(blanks, log.measured, past, rules.judge)}


def _compare_verdicts(
    log: WindowLog, expected: Mapping[int, Verdict], names: Sequence[str]
) -> list[str]:
    found = []
    for verdict in log.verdicts:
        for name in names:
            said, is_so = getattr(verdict, name), getattr(expected[verdict.uid], name)
            if said != is_so and not (_is_infinite(is_so) and said is None):
                found.append(
                    f"window {log.window}, uid {verdict.uid}: {name} is {is_so}, the log says "
                    f"{said}"
                )
    return found


def _is_infinite(value: object) -> bool:
    return isinstance(value, float) and math.isinf(value)


def _blank(verdict: Verdict, measured: Measured) -> Verdict:
    """The verdict before `judge`: without measured figures."""
    of_measuring = verdict.uid in measured.after_KQ or verdict.status in MEASURED
    return Verdict(
        window=verdict.window,
        uid=verdict.uid,
        hotkey=verdict.hotkey,
        digest=verdict.digest,
        status=NOT_SCORED if of_measuring else verdict.status,
        detail=verdict.detail,
        pages_consumed=verdict.pages_consumed,
        base_window=verdict.base_window,
        width=verdict.width,
        part=verdict.part,
        parts=verdict.parts,
        model_share=verdict.model_share,
        alike=verdict.alike,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LogHistory:
    """Histories from the logs of earlier windows. `given`: the windows of these logs."""

    histories: Histories = field(default_factory=dict)
    paces: Mapping[int, PaceSample] = field(default_factory=dict)
    given: frozenset[int] = frozenset()

    def has_windows(self, windows: Iterable[int]) -> bool:
        return self.given.issuperset(windows)

    def compare(self, log: WindowLog, rules: PayRules) -> list[str]:
        """Differences in a log; in the figures alone if the log rests on unknown windows."""
        if not self.has_windows(log.known):
            return compare_figures(log, rules)
        histories = select_windows(self._with_undelivered(log), set(log.known))
        return compare_with_losses(log, histories, rules) + self._compare_pace(log, rules)

    def add_log(self, log: WindowLog, rules: PayRules) -> "LogHistory":
        """With another window."""
        histories = add_window(self._with_undelivered(log), log.window, log.verdicts, rules.length)
        sample = pace_sample(log.exponent, log.measured)
        paces = add_pace(self.paces, log.window, sample, rules.length)
        return LogHistory(histories=histories, paces=paces, given=self.given | {log.window})

    def _compare_pace(self, log: WindowLog, rules: PayRules) -> list[str]:
        known = {w: sample for w, sample in self.paces.items() if w in log.known}
        sample = pace_sample(log.exponent, log.measured)
        pace = pace_of(add_pace(known, log.window, sample, rules.length))
        if pace == log.pace:
            return []
        return [f"window {log.window}: the pace of alpha is {pace}, the log says {log.pace}"]

    def _with_undelivered(self, log: WindowLog) -> Histories:
        """With the payloads found undelivered since, as listed in the log."""
        return mark_pairs(self.histories, log.undelivered)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """Differences over several windows.

    `in_full`: fully compared windows; where earlier logs are missing, only the figures of the
    window were compared.
    """

    found: tuple[str, ...]
    in_full: tuple[int, ...]


def verify_logs(logs: Sequence[WindowLog], rules: PayRules | Callable[[int], PayRules]) -> Verified:
    """Compare several windows, in ascending order.

    `rules`: of all windows, or window -> rules where they change on the way.
    """
    past, found, in_full = LogHistory(), [], []
    for log in sorted(logs, key=lambda each: each.window):
        of_window = rules if isinstance(rules, PayRules) else rules(log.window)
        found += past.compare(log, of_window)
        in_full += [log.window] if past.has_windows(log.known) else []
        past = past.add_log(log, of_window)
    return Verified(found=tuple(found), in_full=tuple(in_full))


def compare_pages(log: WindowLog, ids_S: Ints, owners_S: Ints) -> list[str]:
    """Differences in page ids and owners of the pool."""
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
    return "no miner (held out)" if owner == HELD_OUT else f"uid {owner}"


def positions_outside(said_S: Floats, is_S: Floats, tolerance: float) -> Ints:
    """Positions with a difference above `tolerance`; two infinite losses are equal."""
    with np.errstate(invalid="ignore"):
        near_S = np.abs(said_S - is_S) <= tolerance
    both_infinite_S = ~np.isfinite(said_S) & ~np.isfinite(is_S)
    return np.flatnonzero(~(near_S | both_infinite_S))


def worst_difference(said_S: Floats, is_S: Floats) -> float:
    """The largest finite difference."""
    finite_S = np.isfinite(said_S) & np.isfinite(is_S)
    return float(np.abs(said_S[finite_S] - is_S[finite_S]).max(initial=0.0))


def compare_losses(
    place: str, ids_S: Ints, said_S: Floats, is_S: Floats, tolerance: float
) -> list[str]:
    """A sentence for a vector of losses: the worst difference, and the number of differences."""
    where = positions_outside(said_S, is_S, tolerance)
    if where.size == 0:
        return []
    differences = np.abs(said_S[where] - is_S[where])
    worst = int(where[np.argmax(np.nan_to_num(differences, nan=np.inf))])
    return [
        f"{place} on page {ids_S[worst]}, number {worst} of the pool, is {is_S[worst]}, the log "
        f"says {said_S[worst]}; {where.size} of {ids_S.size} differ by more than {tolerance:g}"
    ]


def compare_uids(log: WindowLog, registered: Registered) -> list[str]:
    """Differences in the burn uid, and in the uids of the registered hotkeys with a reputation."""
    found = []
    if log.burn_uid != registered.burn_uid:
        found.append(
            f"window {log.window}: the burn uid, that of the subnet owner's hotkey, is "
            f"{registered.burn_uid}, the log says {log.burn_uid}"
        )
    for hotkey in sorted(log.reputations.keys() | log.uids.keys()):
        said = log.uids.get(hotkey)
        is_so = registered.uids.get(hotkey) if hotkey in log.reputations else None
        if said != is_so:
            found.append(f"window {log.window}, {hotkey}: its uid is {is_so}, the log says {said}")
    return found


def uids_in_pool_order(owners_S: Ints) -> list[int]:
    """Uids in the order of first pages in the pool."""
    return list(dict.fromkeys(owners_S[owners_S != HELD_OUT].tolist()))


def find_skipped(order: Sequence[int], measured: Collection[int]) -> dict[int, int]:
    """Unmeasured uid -> a measured uid further back: lack of time cannot explain the gap."""
    last = max((order.index(uid) for uid in measured if uid in order), default=-1)
    return {uid: order[last] for uid in order[: last + 1] if uid not in measured}
