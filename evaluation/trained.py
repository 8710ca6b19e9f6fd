"""The share of a claim that was really trained, from the work test's samples over windows.

With x, q, v a window's effect, mean square and variance by chance (`evaluation.work`), u the
payload's width and s its share of the model, and means taken over a miner's windows:

    level    y = mean(x sqrt(u / s))
    scale    r = mean(u / s)
    excess   t = (mean(u / s * (q - v)) - z) / r,      z = y^2 - variance of y by chance
    even       = z / (z + r * max(0, t - t_ref - its standard error))
    trained    = even * min(1, z / z_ref)

Of a claim that is trained in part, the trained pages show the usual effect a and the others none:
the mean is f a, the mean square f a^2 above its usual value, and `even` is f, however large the
payload was made. Pages of which each was trained in part, or with less than usual, are even, and
show less than the usual level: its square counts, since who trains on fewer pages shows more on
each.
The usual excess and level are those of the miner in the middle, by pages: a machine that splits
itself over many hotkeys of a few pages each moves neither.

A step over u batches moves a page's loss less than a step over one: by the root of u at the least,
so that who claims u batches and trains on one is paid for one. The same goes for a part of the
model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.history import Entry

EVENNESS_Z = 1.0
"""Standard errors of the mean square in the miner's favour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What a miner's samples show together; `level_square` is z of the module, 0 for a level below
    zero or within chance.
    """

    level_square: float
    excess: float
    excess_error: float
    scale: float


def shown_by(entries: Sequence[Entry]) -> Shown | None:
    """The samples of some windows together; None without a sample."""
    rows = [(e.work, e.width / e.model_share) for e in entries if e.work is not None]
    if not rows:
        return None
    count = len(rows)
    level = math.fsum(work.effect * math.sqrt(scale) for work, scale in rows) / count
    chance = math.fsum(work.variance * scale for work, scale in rows) / count**2
    level_square = level * level - chance
    square = math.fsum((work.square - work.variance) * scale for work, scale in rows) / count
    scale = math.fsum(scale for _, scale in rows) / count
    # A unit normal's mean square over n sequences has variance 2 / n, and 1 / v is at most n.
    num_sequences = math.fsum(1 / work.variance for work, _ in rows)
    return Shown(
        level_square=max(0.0, level_square) if level > 0 else 0.0,
        excess=(square - level_square) / scale,
        excess_error=math.sqrt(2 / num_sequences),
        scale=scale,
    )


def trained_shares(
    shown: Mapping[int, Shown | None], pages: Mapping[int, float]
) -> dict[int, float]:
    """uid -> share of the claim that was trained, from 0 to 1; 1 where nothing was shown.

    `pages`: claimed pages of each uid, the weights of the medians.
    """
    seen = {uid: each for uid, each in shown.items() if each is not None}
    usual_excess = weighted_median([(each.excess, pages[uid]) for uid, each in seen.items()])
    usual_square = weighted_median([(each.level_square, pages[uid]) for uid, each in seen.items()])
    return {
        uid: 1.0 if each is None else _trained(each, usual_excess, usual_square)
        for uid, each in shown.items()
    }


def _trained(shown: Shown, usual_excess: float, usual_square: float) -> float:
    square = shown.level_square
    if square == 0.0:
        return 0.0
    uneven = max(0.0, shown.excess - usual_excess - EVENNESS_Z * shown.excess_error)
    level = min(1.0, square / usual_square) if usual_square > 0 else 1.0
    return level * square / (square + shown.scale * uneven)


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
