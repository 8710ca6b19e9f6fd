"""Chain weights: pay for verified work; one pure function.

For a miner i with a passed work test, over the counted windows:

    bound_i  = mean(relative gains) - confidence_z * standard error    the gate: > min_relative_gain
    pages_i  = mean(claimed pages * share of the model), 0 for an absence or a refused payload
    work_i   = pages_i * trained share of the claims (`evaluation.trained`)
    share_i  = min(work_i / sum of works, max_share);     the rest goes to the burn uid

Between the miners of drawn pairs a duel then moves a part of the smaller share, whose winner only
a validator knows that measured (`evaluation.duels`).

Pay is linear in work: half of the pages are half of the pay, whatever the pace, and one machine
earns the same with one hotkey or with many. Gain is a gate: it says that the work is of use. Half
of the work of a window brings nine tenths of its gain, so gain cannot say how much was done.
Configured shares are paid shares: a cap or an absence is burned and never redistributed. The burn
uid is the uid of the subnet owner's hotkey, whose incentive the chain burns; without such a uid
the rest has no receiver, and the shares add up to less than 1.

A slow miner sends a payload in one of several windows, and is present in this one alone. Its
account reaches back until `min_windows` payloads were scored, `most_windows` at most, so that pay
follows the pace. What shows how much of the claims was trained are all samples of the history.

In a window with too many payloads only a sample is scored. Such a window counts by the drawn share
of payloads, and an undrawn payload counts as the mean of the drawn ones. So the counted windows
reach back until a payload was drawn `history_windows` times on average.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from evaluation.duels import duelled
from evaluation.gain import WORST_RELATIVE_GAIN
from evaluation.history import Entry
from evaluation.trained import shown_by, trained_shares

History = Mapping[int, Entry]
"""window -> entry of a hotkey."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightRules:
    """Rules of pay.

    `confidence_z`: standard errors subtracted from a mean. `min_relative_gain`: smallest paid
    bound, because a random direction gains a little by luck. `history_windows`: counted windows
    with every payload scored; `most_windows`: upper limit with samples, and for slow miners.
    `min_windows`: scored windows before the first pay. `duel_share`: part of the smaller share of
    two miners that a duel moves, in [0, 1); 0 for no duels. `period_windows`: windows behind the
    duels of one set of weights.
    """

    history_windows: int
    most_windows: int
    min_windows: int
    confidence_z: float
    min_relative_gain: float
    max_share: float
    duel_share: float = 0.0
    period_windows: int = 1

    def has_duels(self, window: int) -> bool:
        """Whether the weights after `window` include duels: the window ends a pay period."""
        return self.duel_share > 0 and (window + 1) % self.period_windows == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What a miner's pay is made of, over its counted windows.

    `first`: the oldest counted window. `num_scored`: scored payloads in them. `bound`: of the mean
    relative gain, minus infinity with fewer than two. `pages`: mean claimed pages a window, times
    the share of the model, 0 for an absence. `trained`: share of the claims that was trained, None
    where the gate is closed. `work`: pages times trained, 0 where the gate is closed.
    """

    first: int
    num_scored: int
    bound: float
    pages: float
    trained: float | None
    work: float


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
    found = accounts(histories, holding, window, rules, burn_uid)
    shares = _after_duels(shares_of_work(found, rules), histories, window, rules)
    burned = max(0.0, 1.0 - math.fsum(shares.values()))
    return shares if burn_uid is None or burned == 0 else {**shares, burn_uid: burned}


def shares_of_work(found: Mapping[int, Account], rules: WeightRules) -> dict[int, float]:
    """uid -> share, ascending, of the accounts with work; before the duels and without the burn."""
    works = {uid: account.work for uid, account in found.items() if account.work > 0}
    total = math.fsum(works.values())
    return {uid: min(work / total, rules.max_share) for uid, work in sorted(works.items())}


def accounts(
    histories: Mapping[int, History],
    holding: Collection[int],
    window: int,
    rules: WeightRules,
    burn_uid: int | None,
) -> dict[int, Account]:
    """The account of every uid with a history, as `chain_weights` pays it."""
    first = first_window(histories, window, rules)
    firsts = {uid: first_of(h, first, window, rules) for uid, h in histories.items()}
    there = {
        uid: [histories[uid][w] for w in sorted(histories[uid]) if since <= w <= window]
        for uid, since in firsts.items()
    }
    present = {uid: len(there[uid]) / (window - firsts[uid] + 1) for uid in there}
    pages = {uid: pages_done(entries) * present[uid] for uid, entries in there.items()}
    # What is usual is a matter of machines at work: by pages, a few wide claims would set it.
    narrow = {uid: narrow_pages(entries) * present[uid] for uid, entries in there.items()}
    paid = [uid for uid in pages if uid in holding and uid != burn_uid]
    paid = [uid for uid in paid if _is_of_use(there[uid], rules)]
    shown = {uid: shown_by([entry for _, entry in sorted(histories[uid].items())]) for uid in paid}
    trained = trained_shares(shown, narrow)
    return {
        uid: Account(
            first=firsts[uid],
            num_scored=len(_scored_gains(entries)),
            bound=lower_bound(_scored_gains(entries), rules.confidence_z),
            pages=pages[uid],
            trained=trained.get(uid),
            # A product may underflow to 0, which is no share.
            work=pages[uid] * trained.get(uid, 0.0),
        )
        for uid, entries in there.items()
    }


def _after_duels(
    shares: Mapping[int, float], histories: Mapping[int, History], window: int, rules: WeightRules
) -> dict[int, float]:
    """The shares after the duels of the period that ends with `window`; unchanged in others."""
    if not rules.has_duels(window):
        return dict(shares)
    period = range(window // rules.period_windows * rules.period_windows, window + 1)
    gaps = {
        uid: math.fsum(
            entry.half_gap
            for w in period
            if (entry := histories[uid].get(w)) is not None and entry.half_gap is not None
        )
        for uid in shares
    }
    return duelled(shares, gaps, window, rules.duel_share, rules.max_share)


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


def _is_of_use(entries: Sequence[Entry], rules: WeightRules) -> bool:
    """Whether enough windows were scored, and gained more than a random direction gains by luck."""
    gains = _scored_gains(entries)
    bound = lower_bound(gains, rules.confidence_z)
    return len(gains) >= rules.min_windows and bound > rules.min_relative_gain


def _scored_gains(entries: Sequence[Entry]) -> list[float]:
    return [entry.relative_gain for entry in entries if entry.relative_gain is not None]


def pages_done(entries: Sequence[Entry]) -> float:
    """Mean claimed pages of the scored payloads, times their share of the model; 0 without one.

    A payload that was refused, not delivered, or that harmed as much as counts, brings none.
    """
    return _mean_of_scored([(entry, entry.pages * entry.model_share) for entry in entries])


def narrow_pages(entries: Sequence[Entry]) -> float:
    """`pages_done` with one batch a step: the pages over the width."""
    return _mean_of_scored(
        [(entry, entry.pages * entry.model_share / entry.width) for entry in entries]
    )


def _mean_of_scored(values: Sequence[tuple[Entry, float]]) -> float:
    scored = [(entry, value) for entry, value in values if entry.relative_gain is not None]
    done = math.fsum(v for entry, v in scored if entry.relative_gain != WORST_RELATIVE_GAIN)
    return done / len(scored) if scored else 0.0


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
