"""A validator's opinion of alpha: is the last outer step too long, or too short?

    d_s = loss_s(half-way) - loss_s(theta)          s = 1 .. n held-out sequences

half-way lies in the middle between the theta before the step and theta. d > 0 on average: the
whole step gained more than its half, and alpha may grow; d < 0: alpha is too large. A line search
for the greatest gain of a single step would end at a smaller alpha than a long run needs.
Means and squared standard errors add up over the windows since alpha changed last; the opinion
is +1 or -1 once the sum of means exceeds `PACE_Z` standard errors, else 0; without a measurement in
the newest window 0.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from evaluation.gain import paired_gain
from evaluation.judge import Measured

PACE_Z = 2.0
"""Standard errors of the sum before a validator speaks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaceSample:
    """One window. `exponent`: of alpha, in the state scored. `mean` and `standard_error` of d in
    nats per token; None in a window without a measurement half-way.
    """

    exponent: int
    mean: float | None = None
    standard_error: float | None = None


Paces = Mapping[int, PaceSample]
"""Window -> sample, for the windows remembered."""


def pace_sample(exponent: int, measured: Measured) -> PaceSample:
    """The sample of a window; empty where a loss has no finite value."""
    if measured.half_way_H is None:
        return PaceSample(exponent=exponent)
    gain = paired_gain(measured.half_way_H, measured.held_out_H)
    if not math.isfinite(gain.mean):
        return PaceSample(exponent=exponent)
    return PaceSample(exponent=exponent, mean=gain.mean, standard_error=gain.standard_error)


def add_pace(paces: Paces, window: int, sample: PaceSample, length: int) -> dict[int, PaceSample]:
    """With another window, cut to the last `length` windows."""
    grown = {**paces, window: sample}
    return {w: grown[w] for w in sorted(grown) if window - length < w <= window}


def pace_of(paces: Paces) -> int:
    """The opinion after the newest window: -1, 0 or 1."""
    samples = [sample for _, sample in sorted(paces.items(), reverse=True)]
    if not samples or samples[0].mean is None:
        return 0
    means, squares = [], []
    for sample in samples:
        if sample.exponent != samples[0].exponent:
            break
        if sample.mean is not None and sample.standard_error is not None:
            means.append(sample.mean)
            squares.append(sample.standard_error**2)
    total, error = math.fsum(means), math.sqrt(math.fsum(squares))
    if total == 0.0 or abs(total) < PACE_Z * error:
        return 0
    return 1 if total > 0 else -1
