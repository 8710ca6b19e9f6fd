"""Chain weights from relative gains: one pure function.

For a miner i with a passed work test, over the counted windows:

    bound_i  = mean(relative gains) - confidence_z * standard error      0 if <= min_relative_gain
    rate_i   = bound_i / sqrt(work_i),       work_i = mean claimed pages * evenness
    credit_i = min(bound_i, credit_share * lower median of rates * sqrt(work_i))
    merit_i  = credit_i ^ gain_power * windows present / windows counted * mean model share
    share_i  = min(merit_i / sum of merits, max_share);     the rest goes to the burn uid

Gain pays; the rating only orders. Configured shares are paid shares: a cap or an absence is burned
and never redistributed. The burn uid is the uid of the subnet owner's hotkey, whose incentive the
chain burns; without such a uid the rest has no receiver, and the shares add up to less than 1.

Credit is capped by work. A payload with little fresh work, sent without error feedback and scaled
up to an honest length, gains as much as honest payloads in a window, and would leave rivals with
the residual. Gains grow about with the square root of the steps, hence the root; around the median
luck decides, hence `credit_share`. Evenness: a miner with a claim of twice the trained pages shows
twice the effect on one half of the claim and zero effect on the other half.

A slow miner sends a payload in one of several windows, and is present in this one alone. Its
account reaches back until `min_windows` payloads were scored, `most_windows` at most, so that pay
follows the pace. Of a payload of a part of the model, the part's share of the parameters is paid.

In a window with too many payloads only a sample is scored. Such a window counts by the drawn share
of payloads, and an undrawn miner counts as present. So the counted windows reach back until a
payload was drawn `history_windows` times on average.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from evaluation.history import Entry
from evaluation.work import evenness

History = Mapping[int, Entry]
"""window -> entry of a hotkey."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightRules:
    """Rules of pay.

    `confidence_z`: standard errors subtracted from a mean. `min_relative_gain`: smallest paid
    bound, because a random direction gains a little by luck. `history_windows`: counted windows
    with every payload scored; `most_windows`: upper limit with samples, and for slow miners.
    `min_windows`: scored windows before the first pay. `gain_power`: a multiple of a half.
    `credit_share`: cap of credit as a share of the median rate.
    """

    history_windows: int
    most_windows: int
    min_windows: int
    confidence_z: float
    min_relative_gain: float
    gain_power: float
    credit_share: float
    max_share: float


def lower_bound(gains: Sequence[float], z: float) -> float:
    """Mean less z standard errors over windows; minus infinity for fewer than two."""
    if len(gains) < 2 or not all(math.isfinite(g) for g in gains):
        return -math.inf
    return statistics.fmean(gains) - z * statistics.stdev(gains) / math.sqrt(len(gains))


def chain_weights(
    histories: Mapping[int, History],
    holding: Collection[int],
    window: int,
    rules: WeightRules,
    burn_uid: int | None,
) -> dict[int, float]:
    """Shares by uid with sum 1; a smaller sum without a burn uid.

    `histories`: by uid; `holding`: uids with a passed work test. Only gains of windows from
    `first_window` to `window` count. Without a miner to pay, the burn uid gets everything.
    """
    first = first_window(histories, window, rules)
    firsts = {
        uid: first_of(history, first, window, rules)
        for uid, history in histories.items()
        if uid in holding and uid != burn_uid
    }
    there = {
        uid: [histories[uid][w] for w in sorted(histories[uid]) if since <= w <= window]
        for uid, since in firsts.items()
    }
    bounds = {}
    for uid, entries in there.items():
        gains = [entry.relative_gain for entry in entries if entry.relative_gain is not None]
        bound = lower_bound(gains, rules.confidence_z)
        if len(gains) >= rules.min_windows and bound > rules.min_relative_gain:
            bounds[uid] = bound
    works = {uid: work_done(there[uid], histories[uid]) for uid in bounds}
    merits = {}
    for uid, credit in cap_credit(bounds, works, rules.credit_share).items():
        length = window - firsts[uid] + 1
        share = mean_share(there[uid])
        merit = power(credit, rules.gain_power) * len(there[uid]) / length * share
        # A power of a tiny credit may underflow to 0, which is no share.
        if merit > 0:
            merits[uid] = merit
    total = math.fsum(merits.values())
    shares = {uid: min(merit / total, rules.max_share) for uid, merit in sorted(merits.items())}
    burned = max(0.0, 1.0 - math.fsum(shares.values()))
    return shares if burn_uid is None or burned == 0 else {**shares, burn_uid: burned}


def first_of(history: History, first: int, window: int, rules: WeightRules) -> int:
    """The oldest window of a miner's account: `first`, or the one back to which `min_windows`
    payloads were scored, if one of them was since `first`; 0 and `most_windows` are the limits.
    """
    scored = sorted(
        (w for w, entry in history.items() if w <= window and entry.relative_gain is not None),
        reverse=True,
    )[: rules.min_windows]
    if len(scored) < rules.min_windows or scored[0] < first:
        return first  # not paid yet, or no more
    return max(min(first, scored[-1]), window + 1 - rules.most_windows, 0)


def work_done(recent: Sequence[Entry], history: History) -> float:
    """Credible pages behind a payload: mean recent claim times evenness over the history; >= 1."""
    claims = [entry.pages for entry in recent if entry.pages]
    pages = statistics.fmean(claims) if claims else 1.0
    samples = [entry.work for _, entry in sorted(history.items()) if entry.work is not None]
    return max(1.0, pages * evenness(samples))


def mean_share(recent: Sequence[Entry]) -> float:
    """Mean share of the model, of the payloads that were opened: of the rest nobody knows it."""
    shares = [entry.model_share for entry in recent if entry.pages]
    return statistics.fmean(shares) if shares else 1.0


def cap_credit(
    bounds: Mapping[int, float], works: Mapping[int, float], share: float
) -> dict[int, float]:
    """Each uid's bound, capped at `share` x median rate x sqrt(work); see the module."""
    if not bounds:
        return {}
    rates = [bound / math.sqrt(works[uid]) for uid, bound in bounds.items()]
    rate = share * statistics.median_low(rates)
    return {uid: min(bound, rate * math.sqrt(works[uid])) for uid, bound in bounds.items()}


def power(base: float, exponent: float) -> float:
    """base ** exponent for multiples of a half."""
    # Products and square roots give the same double on every platform; `pow` does not.
    result = math.sqrt(base) if exponent % 1 else 1.0
    for _ in range(int(exponent)):
        result *= base
    return result


def first_window(histories: Mapping[int, History], window: int, rules: WeightRules) -> int:
    """The oldest counted window: the drawn shares up to `window` add up to `history_windows`.

    A window without payloads counts in full.
    """
    drawn, first = 0.0, window + 1
    while drawn < rules.history_windows and first > max(0, window + 1 - rules.most_windows):
        first -= 1
        entries = [history[first] for history in histories.values() if first in history]
        scored = sum(entry.relative_gain is not None for entry in entries)
        drawn += scored / len(entries) if entries else 1.0
    return first
