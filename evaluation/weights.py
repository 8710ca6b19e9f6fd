"""Chain weights from relative gains: one pure function.

Gain pays; the rating only orders. The share of a miner that holds the gate of the work test
grows with the lower bound of its mean relative gain over the last windows, to the power
`gain_power`, times the share of those windows in which it was there. Nobody gets more than
`max_share`; what nobody earns is burned. The configured shares are the paid shares: nothing is
scaled up again.

Where a window's payloads are too many, a sample of them is scored: a window says as much as the
share of its payloads that was drawn, and who was not drawn counts as there. So the last windows
are as many as drew a payload `history_windows` times on the average.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightRules:
    """`confidence_z`: standard errors taken off a mean. `min_relative_gain`: what is left must
    exceed this, since a random direction gains a little by luck. `history_windows`: windows
    that count, were all payloads scored; `most_windows` at most where they are not. `min_windows`:
    scored windows before anything is paid.
    """

    history_windows: int
    most_windows: int
    min_windows: int
    confidence_z: float
    min_relative_gain: float
    gain_power: float
    max_share: float
    burn_uid: int


def lower_bound(gains: Sequence[float], z: float) -> float:
    """Mean less z standard errors over windows; minus infinity for fewer than two."""
    if len(gains) < 2 or not all(math.isfinite(g) for g in gains):
        return -math.inf
    return statistics.fmean(gains) - z * statistics.stdev(gains) / math.sqrt(len(gains))


def chain_weights(
    histories: Mapping[int, Mapping[int, float | None]],
    holding: Collection[int],
    window: int,
    rules: WeightRules,
) -> dict[int, float]:
    """Shares by uid that add up to 1. `histories`: uid -> window -> relative gain, or None where
    its payload was not drawn; `holding`: uids that hold the gate of the work test.

    Only windows from `first_window` to `window` count. With nobody to pay, all goes to the burn
    uid.
    """
    first = first_window(histories, window, rules)
    length = window - first + 1
    merits = {}
    for uid, history in histories.items():
        there = [gain for w, gain in sorted(history.items()) if first <= w <= window]
        recent = [gain for gain in there if gain is not None]
        bound = lower_bound(recent, rules.confidence_z)
        if uid == rules.burn_uid or uid not in holding or len(recent) < rules.min_windows:
            continue
        if bound <= rules.min_relative_gain:
            continue
        merit = bound**rules.gain_power * len(there) / length
        if merit > 0:  # a power may underflow
            merits[uid] = merit
    total = math.fsum(merits.values())
    shares = {uid: min(merit / total, rules.max_share) for uid, merit in sorted(merits.items())}
    burned = max(0.0, 1.0 - math.fsum(shares.values()))
    return {**shares, rules.burn_uid: burned} if burned > 0 else shares


def first_window(
    histories: Mapping[int, Mapping[int, float | None]], window: int, rules: WeightRules
) -> int:
    """The oldest window that counts: from it to `window`, the shares of the payloads that were
    drawn add up to `history_windows`; a window without any counts in full.
    """
    drawn, first = 0.0, window + 1
    while drawn < rules.history_windows and first > max(0, window + 1 - rules.most_windows):
        first -= 1
        gains = [history[first] for history in histories.values() if first in history]
        scored = sum(gain is not None for gain in gains)
        drawn += scored / len(gains) if gains else 1.0
    return first
