"""Chain weights from relative gains: one pure function.

Gain pays; the rating only orders. The share of a miner that holds the gate of the work test
grows with the lower bound of its mean relative gain over the last windows, to the power
`gain_power`, times the share of those windows in which it was scored. Nobody gets more than
`max_share`; what nobody earns is burned. The configured shares are the paid shares: nothing is
scaled up again.

No gain is credited beyond what the work behind it can bring. A payload of little fresh work, sent
without error feedback and scaled up to the length that honest ones have, gains as much as theirs
and more in its window, and would leave the others the part that only error feedback sends. So a
miner's bound counts up to `credit_share` of the median rate of those that hold the gate, times the
square root of its work: gains grow about so with the steps, and below the median itself luck
decides. Work is the number of pages claimed, times how evenly
they were trained on: who claims twice what it trained on shows twice the effect on one half of it
and none on the other.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from evaluation.history import Entry
from evaluation.work import evenness

History = Mapping[int, Entry]
"""window -> what was found of one hotkey."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightRules:
    """`confidence_z`: standard errors taken off a mean. `min_relative_gain`: what is left must
    exceed this, since a random direction gains a little by luck. `history_windows`: windows
    that count. `min_windows`: scored windows before anything is paid. `gain_power`: a multiple of
    a half. `credit_share`: of the median rate, beyond which gain is not credited.
    """

    history_windows: int
    min_windows: int
    confidence_z: float
    min_relative_gain: float
    gain_power: float
    credit_share: float
    max_share: float
    burn_uid: int


def lower_bound(gains: Sequence[float], z: float) -> float:
    """Mean less z standard errors over windows; minus infinity for fewer than two."""
    if len(gains) < 2 or not all(math.isfinite(g) for g in gains):
        return -math.inf
    return statistics.fmean(gains) - z * statistics.stdev(gains) / math.sqrt(len(gains))


def chain_weights(
    histories: Mapping[int, History], holding: Collection[int], window: int, rules: WeightRules
) -> dict[int, float]:
    """Shares by uid that add up to 1. `histories`: by uid; `holding`: uids that hold the gate of
    the work test.

    Only gains of windows in (window - history_windows, window] count. With nobody to pay, all goes
    to the burn uid.
    """
    first = max(0, window - rules.history_windows + 1)
    length = window - first + 1
    recent = {
        uid: [history[w] for w in sorted(history) if first <= w <= window]
        for uid, history in histories.items()
        if uid in holding and uid != rules.burn_uid
    }
    bounds = {}
    for uid, entries in recent.items():
        bound = lower_bound([entry.relative_gain for entry in entries], rules.confidence_z)
        if len(entries) >= rules.min_windows and bound > rules.min_relative_gain:
            bounds[uid] = bound
    works = {uid: work_done(recent[uid], histories[uid]) for uid in bounds}
    merits = {}
    for uid, credit in credited(bounds, works, rules.credit_share).items():
        merit = power(credit, rules.gain_power) * len(recent[uid]) / length
        if merit > 0:  # a power may underflow
            merits[uid] = merit
    total = math.fsum(merits.values())
    shares = {uid: min(merit / total, rules.max_share) for uid, merit in sorted(merits.items())}
    burned = max(0.0, 1.0 - math.fsum(shares.values()))
    return {**shares, rules.burn_uid: burned} if burned > 0 else shares


def work_done(recent: Sequence[Entry], history: History) -> float:
    """Pages behind a payload, as far as can be believed: the mean of those claimed lately, times
    the evenness of all that is remembered. 1 or more.
    """
    pages = statistics.fmean(entry.pages for entry in recent)
    samples = [entry.work for _, entry in sorted(history.items()) if entry.work is not None]
    return max(1.0, pages * evenness(samples))


def credited(
    bounds: Mapping[int, float], works: Mapping[int, float], share: float
) -> dict[int, float]:
    """Each uid's bound, at most `share` of the root of its work times the lower median of all
    bounds over the roots of theirs.
    """
    if not bounds:
        return {}
    rates = [bound / math.sqrt(works[uid]) for uid, bound in bounds.items()]
    rate = share * statistics.median_low(rates)
    return {uid: min(bound, rate * math.sqrt(works[uid])) for uid, bound in bounds.items()}


def power(base: float, exponent: float) -> float:
    """base ** exponent for multiples of a half, by products and square roots: the same double on
    every platform.
    """
    result = math.sqrt(base) if exponent % 1 else 1.0
    for _ in range(int(exponent)):
        result *= base
    return result
