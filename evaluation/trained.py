"""The share of a claim that was really trained, from the work test's samples over windows.

With x and v a window's effect and its variance by chance (`evaluation.work`), c and q the mean and
mean square of the cut effects of single pages, u the payload's width and s its share of the model,
and means taken over a miner's windows by claimed pages, so that windows of small claims say nothing
of large ones:

    level    z = mean(x sqrt(r))^2 less its part by chance,          r = u^(3/2) / s
    excess   t = (mean(r q) - z_c) / mean(r),                        z_c as z, of the cut effects
    pages    even_p = z_c / (z_c + max(0, mean(r) (t - t_u - e / 2)))
             t_u = 1 + (t_ref - 1) / max(1, mean(r))
    profile  b_p = mean(x_p sqrt(r)) of each quarter p over the usual miner's profile
    quarters even_b = mean(b)^2 / (mean(b)^2 + the spread of the b_p beyond chance)
    trained  = min(even_p, even_b) * min(1, z / (`LEVEL_SHARE` z_ref))

Of a claim that is trained in part, the trained pages show the usual effect a and the others none:
the mean is f a, the mean square f a^2 above its usual value, and `even_p` is f, however large the
payload was made. Whole pages tell that with less chance than quarters. Who trains on the same part
of every page shows it in the profile of the quarters, and within a few windows, since the profile
is a mean over all pages. Work that is even and less than usual, as on some tokens everywhere, shows
less than the usual level. The level counts squared, since who trains on fewer pages, or sends no
error feedback, shows more on each. The usual excess, shape and level are those of the miner in the
middle, by pages of one batch a step: neither a machine that splits itself over many hotkeys of a
few pages each moves them, nor one that claims wide steps. What is below them by chance alone costs
nothing, or small machines, which show more on each page, would be paid more for it: hence the
standard error e = sqrt(2 / pages looked at), and `LEVEL_SHARE`.

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

EVENNESS_Z = 0.5
"""Standard errors of the excess in the miner's favour: none costs wide honest miners a tenth, a
whole one pays narrow miners who turn to claims of four batches 1.31 of their work (D177).
"""
NO_EXCESS = 1.0
"""The excess of pages without work, by the unit of the cut effects."""
PROFILE_Z = 2.0
"""The same of the profile, which hangs on chance with few windows or miners."""
LEAST_SHAPE = 0.25
"""Of the mean of four quarters: one in which the usual miner shows less says nothing."""
LEAST_MEAN = 1e-6
"""A profile with a lower mean has no shape; a forged log could divide by next to nothing."""
LEVEL_SHARE = 0.9
"""Of the usual squared level: enough for all of the pay."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What a miner's samples show together: z, z_c, t and mean(r) of the module. A level below zero
    or within chance is 0. `profile`: of each quarter, empty where no sample has it;
    `profile_variance`: of one of its figures by chance.
    """

    level_square: float
    page_square: float
    excess: float
    excess_error: float
    scale: float
    profile: tuple[float, ...] = ()
    profile_variance: float = 0.0


def shown_by(entries: Sequence[Entry]) -> Shown | None:
    """The samples of some windows together; None without a sample."""
    rows = [_Row(e.work, _scale(e), float(max(1, e.pages))) for e in entries if e.work is not None]
    if not rows:
        return None
    level_square = _square(rows, [row.work.effect for row in rows])
    page_square = _square(rows, [row.work.page_effect for row in rows])
    scale = _mean(rows, [row.scale for row in rows])
    squares = [row.work.page_square - row.work.variance for row in rows]
    square = _mean(rows, [each * row.scale for each, row in zip(squares, rows, strict=True)])
    return Shown(
        level_square=max(0.0, level_square),
        page_square=max(0.0, page_square),
        excess=(square - page_square) / scale,
        # 1 / v is below the number of own pages.
        excess_error=math.sqrt(2 * _variance(rows, [row.work.variance for row in rows])),
        scale=scale,
        **_profile_of(rows),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """A window's sample, its r, and the pages that it claims, which weigh it in all means."""

    work: WorkSample
    scale: float
    pages: float

    @property
    def variance(self) -> float:
        """By chance alone, of an effect times sqrt(r)."""
        return self.work.variance * self.scale


def _mean(rows: Sequence[_Row], values: Sequence[float]) -> float:
    """The mean over windows, by claimed pages."""
    pages = math.fsum(row.pages for row in rows)
    return math.fsum(v * row.pages for v, row in zip(values, rows, strict=True)) / pages


def _variance(rows: Sequence[_Row], variances: Sequence[float]) -> float:
    """The variance of such a mean, of values with these variances."""
    pages = math.fsum(row.pages for row in rows)
    return math.fsum(v * (row.pages / pages) ** 2 for v, row in zip(variances, rows, strict=True))


def _square(rows: Sequence[_Row], effects: Sequence[float]) -> float:
    """The signed square of the mean effect, less the part by chance."""
    mean = _mean(rows, [x * math.sqrt(row.scale) for x, row in zip(effects, rows, strict=True)])
    return mean * abs(mean) - _variance(rows, [row.variance for row in rows])


def _profile_of(rows: Sequence[_Row]) -> dict[str, Any]:
    known = [row for row in rows if row.work.quarter_profile]
    if not known:
        return {}
    means = (
        _mean(known, [row.work.quarter_profile[q] * math.sqrt(row.scale) for row in known])
        for q in range(QUARTERS)
    )
    variance = _variance(known, [row.variance for row in known])
    return {"profile": tuple(means), "profile_variance": variance}


def _scale(entry: Entry) -> float:
    return entry.width * math.sqrt(entry.width) / entry.model_share


def trained_shares(
    shown: Mapping[int, Shown | None], pages: Mapping[int, float]
) -> dict[int, float]:
    """uid -> share of the claim that was trained, from 0 to 1; 1 where nothing was shown.

    `pages`: of each uid, the weights of the medians: those of one batch a step.
    """
    seen = {uid: each for uid, each in shown.items() if each is not None}
    usual_excess = weighted_median([(each.excess, pages[uid]) for uid, each in seen.items()])
    usual_square = weighted_median([(each.level_square, pages[uid]) for uid, each in seen.items()])
    shape = _usual_shape(seen, pages)
    return {
        uid: 1.0 if each is None else _trained(each, usual_excess, usual_square, shape)
        for uid, each in shown.items()
    }


def _usual_shape(seen: Mapping[int, Shown], pages: Mapping[int, float]) -> tuple[float, ...]:
    """The usual effect of each quarter over the mean of the four; empty without one above zero.

    Of each quarter that of the miner in the middle, by pages.
    """
    shapes = {
        uid: [each / mean for each in shown.profile]
        for uid, shown in seen.items()
        if (mean := math.fsum(shown.profile) / QUARTERS) > LEAST_MEAN
    }
    middle = [
        weighted_median([(row[q], pages[uid]) for uid, row in shapes.items()])
        for q in range(QUARTERS if shapes else 0)
    ]
    total = math.fsum(middle)
    return tuple(QUARTERS * each / total for each in middle) if total > 0 else ()


def _even_over_quarters(shown: Shown, shape: Sequence[float]) -> float:
    """The share of each page that was trained, as far as the profile says; 1 without a profile.

    Quarters in which the usual miner shows little say nothing.
    """
    if not shown.profile or not shape:
        return 1.0
    pairs = zip(shown.profile, shape, strict=True)
    over = [(each / usual, usual) for each, usual in pairs if usual >= LEAST_SHAPE]
    mean = math.fsum(each for each, _ in over) / len(over)
    spread = math.fsum((each - mean) ** 2 for each, _ in over) / len(over)
    variance = shown.profile_variance * math.fsum(1 / (u * u) for _, u in over) / len(over)
    # By chance alone, the mean of the spread of so many figures and its standard deviation.
    free = (len(over) - 1) / len(over)
    by_chance, error = free * variance, math.sqrt(2 * free / len(over)) * variance
    return _even(max(0.0, mean) ** 2, spread - by_chance - PROFILE_Z * error)


def _even(square: float, beyond: float) -> float:
    """The share of which the mean square is `square`, with a variance of `beyond`; 0 of nothing."""
    return square / (square + max(0.0, beyond)) if square > 0 else 0.0


def _trained(
    shown: Shown, usual_excess: float, usual_square: float, shape: Sequence[float]
) -> float:
    if shown.level_square == 0.0:
        return 0.0
    # What differs between the usual miner's pages differs less after wide steps.
    expected = NO_EXCESS + (usual_excess - NO_EXCESS) / max(1.0, shown.scale)
    uneven = shown.scale * (shown.excess - expected - EVENNESS_Z * shown.excess_error)
    enough = LEVEL_SHARE * usual_square
    level = min(1.0, shown.level_square / enough) if enough > 0 else 1.0
    return level * min(_even(shown.page_square, uneven), _even_over_quarters(shown, shape))


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
