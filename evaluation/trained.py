"""The share of a claim that was really trained, from the work test's samples over windows.

With x and v a window's effect and its variance by chance (`evaluation.work`), x_q and q_q the mean
effect and mean square of the quarters, u the payload's width and s its share of the model, and
means taken over a miner's windows:

    level    z = mean(x sqrt(r))^2 less its part by chance,          r = u^(3/2) / s
    excess   t = (mean(r q_q) - z_q) / mean(r),                      z_q as z, of the quarters
    profile  b_p = mean(x_p sqrt(r)) of each quarter p over the usual miner's profile
    spread   = mean over p of (b_p - mean b)^2, less its part by chance
    even       = z_q / (z_q + max(0, mean(r) * (t - t_ref) - e, spread))
    trained    = even * min(1, z / (`LEVEL_SHARE` z_ref))

Of a claim that is trained in part, the trained quarters show the usual effect a and the others
none: the mean is f a, the mean square f a^2 above its usual value, and `even` is f, however large
the payload was made. Who trains on the same part of every page shows it in the profile of the
quarters, and within a few windows, since the profile is a mean over all pages. Work that is even
and less than usual, as on some tokens everywhere, shows less than the usual level. The level counts
squared, since who trains on fewer pages, or sends no error feedback, shows more on each. The usual
excess, shape and level are those of the miner in the middle, by pages: a machine that splits itself
over many hotkeys of a few pages each moves none. What is below them by chance alone costs nothing,
or small machines, which show more on each page, would be paid more for it: hence the standard error
e = sqrt(2 / pages looked at), and `LEVEL_SHARE`.

A step over u batches moves a page's loss less than a step over one, measured by u^(-3/4); a part of
the model moves it by about the root of its share (D163). So who claims u batches and trains on one
shows u^(-1/4) of the level and is uneven, and is paid for one at most.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.history import Entry
from evaluation.work import QUARTERS, WorkSample

EVENNESS_Z = 1.0
"""Standard errors of the excess in the miner's favour: fewer cost honest miners a fifth by chance,
more pay for claims not trained. A wide payload has no more of it: its claim is larger.
"""
PROFILE_Z = 2.0
"""The same of the profile, which hangs on chance with few windows or miners."""
LEAST_SHAPE = 0.25
"""Of the mean of four quarters: one in which the usual miner shows less says nothing."""
LEVEL_SHARE = 0.9
"""Of the usual squared level: enough for all of the pay."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What a miner's samples show together: z, z_q, t and mean(r) of the module. A level below zero
    or within chance is 0. `profile`: of each quarter, empty where no sample has it;
    `profile_variance`: of one of its figures by chance.
    """

    level_square: float
    quarter_square: float
    excess: float
    excess_error: float
    scale: float
    profile: tuple[float, ...] = ()
    profile_variance: float = 0.0


def shown_by(entries: Sequence[Entry]) -> Shown | None:
    """The samples of some windows together; None without a sample."""
    rows = [(e.work, _scale(e)) for e in entries if e.work is not None]
    if not rows:
        return None
    variances = [work.variance * scale for work, scale in rows]
    level_square = _square([work.effect * math.sqrt(scale) for work, scale in rows], variances)
    quarter_square = _square(
        [work.quarter_effect * math.sqrt(scale) for work, scale in rows],
        [variance / QUARTERS for variance in variances],
    )
    scale = math.fsum(scale for _, scale in rows) / len(rows)
    square = math.fsum(
        (work.quarter_square - work.variance / QUARTERS) * scale for work, scale in rows
    )
    return Shown(
        level_square=max(0.0, level_square),
        quarter_square=max(0.0, quarter_square),
        excess=(square / len(rows) - quarter_square) / scale,
        # The quarters of a page are not independent; 1 / v is below the number of own pages.
        excess_error=math.sqrt(2 / math.fsum(1 / work.variance for work, _ in rows)),
        scale=scale,
        **_profile_of(rows),
    )


def _profile_of(rows: Sequence[tuple[WorkSample, float]]) -> dict[str, Any]:
    known = [(work, scale) for work, scale in rows if work.quarter_profile]
    if not known:
        return {}
    columns = zip(*(work.quarter_profile for work, _ in known), strict=True)
    roots = [math.sqrt(scale) for _, scale in known]
    means = (
        math.fsum(x * root for x, root in zip(column, roots, strict=True)) / len(known)
        for column in columns
    )
    variance = math.fsum(work.variance * scale for work, scale in known) / len(known) ** 2
    return {"profile": tuple(means), "profile_variance": variance}


def _scale(entry: Entry) -> float:
    return entry.width * math.sqrt(entry.width) / entry.model_share


def _square(effects: Sequence[float], variances: Sequence[float]) -> float:
    """The signed square of the mean effect, less the part by chance."""
    mean = math.fsum(effects) / len(effects)
    return mean * abs(mean) - math.fsum(variances) / len(effects) ** 2


def trained_shares(
    shown: Mapping[int, Shown | None], pages: Mapping[int, float]
) -> dict[int, float]:
    """uid -> share of the claim that was trained, from 0 to 1; 1 where nothing was shown.

    `pages`: claimed pages of each uid, the weights of the medians.
    """
    seen = {uid: each for uid, each in shown.items() if each is not None}
    usual_excess = weighted_median([(each.excess, pages[uid]) for uid, each in seen.items()])
    usual_square = weighted_median([(each.level_square, pages[uid]) for uid, each in seen.items()])
    shape = _usual_shape(seen, pages)
    return {
        uid: 1.0
        if each is None
        else _trained(each, usual_excess, usual_square, _spread(each, shape))
        for uid, each in shown.items()
    }


def _usual_shape(seen: Mapping[int, Shown], pages: Mapping[int, float]) -> tuple[float, ...]:
    """The usual effect of each quarter over the mean of the four; empty without one above zero.

    Of each quarter that of the miner in the middle, by pages.
    """
    shapes = {
        uid: [each / mean for each in shown.profile]
        for uid, shown in seen.items()
        if (mean := math.fsum(shown.profile) / QUARTERS) > 0
    }
    middle = [
        weighted_median([(row[q], pages[uid]) for uid, row in shapes.items()])
        for q in range(QUARTERS if shapes else 0)
    ]
    total = math.fsum(middle)
    return tuple(QUARTERS * each / total for each in middle) if total > 0 else ()


def _spread(shown: Shown, shape: Sequence[float]) -> float:
    """The spread of the profile over the usual shape, beyond chance; 0 without a profile.

    Quarters in which the usual miner shows little say nothing.
    """
    if not shown.profile or not shape:
        return 0.0
    pairs = zip(shown.profile, shape, strict=True)
    over = [(each / usual, usual) for each, usual in pairs if usual >= LEAST_SHAPE]
    mean = math.fsum(each for each, _ in over) / len(over)
    spread = math.fsum((each - mean) ** 2 for each, _ in over) / len(over)
    variance = shown.profile_variance * math.fsum(1 / (u * u) for _, u in over) / len(over)
    # By chance alone, the mean of the spread of so many figures and its standard deviation.
    free = (len(over) - 1) / len(over)
    by_chance, error = free * variance, math.sqrt(2 * free / len(over)) * variance
    return spread - by_chance - PROFILE_Z * error


def _trained(shown: Shown, usual_excess: float, usual_square: float, spread: float) -> float:
    square = shown.quarter_square
    if square == 0.0 or shown.level_square == 0.0:
        return 0.0
    uneven = shown.scale * (shown.excess - usual_excess) - EVENNESS_Z * shown.excess_error
    enough = LEVEL_SHARE * usual_square
    level = min(1.0, shown.level_square / enough) if enough > 0 else 1.0
    return level * (square / (square + max(0.0, uneven, spread)))


def weighted_median(pairs: Sequence[tuple[float, float]]) -> float:
    """The lowest value with half of the weight at or below it; 0 without weight.

    `pairs`: value and weight.
    """
    half = math.fsum(weight for _, weight in pairs) / 2
    so_far = 0.0
    for value, weight in sorted(pairs):
        so_far += weight
        if weight > 0 and so_far >= half:
            return value
    return 0.0
