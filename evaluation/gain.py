"""Held-out gain of a payload: the drop of the loss, paired per sequence.

    d_s  = loss_s(theta) - loss_s(theta - step)          s = 1 .. n held-out sequences
    gain = mean(d),   standard error = stdev(d) / sqrt(n)
    relative gain = max(gain / scale, -1),   scale = sqrt(mean of g^2 over positive gains g)

All payloads of a window share a pool of pages and the parameters theta, with loss(theta) taken
once. Pairing removes the variance between sequences, far larger than the effect.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BEST_RELATIVE_GAIN = 16.0
"""A gain over the root mean square of 256 gains, its own among them, is no larger; more is cut."""
WORST_RELATIVE_GAIN = -1.0
"""Smallest relative gain: a bad window must not outweigh many good windows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """Mean of loss(theta) - loss(theta - step) in nats per token, and its standard error."""

    mean: float
    standard_error: float
    num_sequences: int

    def lower_bound(self, z: float) -> float:
        return self.mean - z * self.standard_error


def paired_gain(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> Gain:
    """The gain from the losses of the same sequences before and after a step.

    `before`, `after`: float64 [n], nats per token. An infinite or NaN difference makes the gain
    minus infinity. ValueError on fewer than two sequences or unequal lengths.
    """
    if before.shape != after.shape or before.ndim != 1 or before.size < 2:
        raise ValueError(f"two equal vectors of 2 or more losses: {before.shape}, {after.shape}")
    with np.errstate(invalid="ignore"):  # infinity less infinity, which counts as not finite
        difference = before - after
    if not np.isfinite(difference).all():
        return Gain(mean=-math.inf, standard_error=0.0, num_sequences=before.size)
    return Gain(
        mean=math.fsum(difference) / difference.size,
        standard_error=float(difference.std(ddof=1)) / math.sqrt(difference.size),
        num_sequences=before.size,
    )


def half_gap(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> float | None:
    """The gain on the first half of the sequences less the gain on the second half; float64 [n].

    In nats per token; of an odd number the second half has one more. None if a loss is not finite.
    The sequences are drawn after all payloads are committed, so the gap is as often above zero as
    below, whatever a payload holds.
    """
    with np.errstate(invalid="ignore"):  # infinity less infinity, which counts as not finite
        difference = before - after
    if not np.isfinite(difference).all():
        return None
    first, second = difference[: difference.size // 2], difference[difference.size // 2 :]
    return math.fsum(first) / first.size - math.fsum(second) / second.size


def gain_scale(gains: Iterable[float]) -> float:
    """Root mean square of a window's positive gains; 0 without positive gains.

    Harmful payloads are left out: an arbitrarily large negative gain must not make the useful
    payloads look small.
    """
    positive = [gain for gain in gains if gain > 0 and math.isfinite(gain)]
    return math.sqrt(math.fsum(g * g for g in positive) / len(positive)) if positive else 0.0


def relative_gains(
    gains: Mapping[int, float | None], of_scale: Collection[int] | None = None
) -> dict[int, float]:
    """Each uid's mean gain over the scale of the window's gains, at least -1 and at most 16.

    `of_scale`: the uids whose gains make the scale; None: all.

    None marks a payload without delivery or with a refusal: relative gain -1, so withholding a bad
    draw cannot pay. In a window without a positive gain every measured payload gets 0: the window
    carries no evidence on work. Absolute gains fall a hundredfold over a run; relative gains make
    early and late windows comparable.
    """
    counted = gains if of_scale is None else {uid: gains[uid] for uid in of_scale if uid in gains}
    scale = gain_scale(gain for gain in counted.values() if gain is not None)
    relative = {}
    for uid, gain in gains.items():
        if gain is None or math.isnan(gain):
            relative[uid] = WORST_RELATIVE_GAIN
        elif scale == 0.0:
            relative[uid] = 0.0
        else:
            relative[uid] = min(max(gain / scale, WORST_RELATIVE_GAIN), BEST_RELATIVE_GAIN)
    return relative
