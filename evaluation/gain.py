"""Held-out gain of one payload: how much it lowers the loss, paired per sequence.

All payloads of a window are measured on one common pool of pages, at the same parameters,
with `loss(theta)` taken once. Pairing removes the variance between sequences, which is
much larger than the effect.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WORST_RELATIVE_GAIN = -1.0
"""Below this a gain is not counted: one bad window must not outweigh many good ones."""


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

    A loss that is not finite after the step counts as a loss of every nat there is: the
    gain is minus infinity. ValueError on fewer than two sequences or unequal lengths.
    """
    if before.shape != after.shape or before.ndim != 1 or before.size < 2:
        raise ValueError(f"two equal vectors of 2 or more losses: {before.shape}, {after.shape}")
    difference = before - after
    if not np.isfinite(difference).all():
        return Gain(mean=-math.inf, standard_error=0.0, num_sequences=before.size)
    return Gain(
        mean=math.fsum(difference) / difference.size,
        standard_error=float(difference.std(ddof=1)) / math.sqrt(difference.size),
        num_sequences=before.size,
    )


def gain_scale(gains: Iterable[float]) -> float:
    """Root mean square of a window's positive gains; 0 if there are none.

    Only positive ones: a harmful payload, as large as its sender likes, must not make the
    useful ones look small.
    """
    positive = [gain for gain in gains if gain > 0 and math.isfinite(gain)]
    return math.sqrt(math.fsum(g * g for g in positive) / len(positive)) if positive else 0.0


def relative_gains(gains: Mapping[int, float | None]) -> dict[int, float]:
    """Each uid's mean gain over the scale of the window's gains, at least -1.

    None stands for a payload that was committed and not delivered, or was refused: it gets
    -1, the worst there is, so that withholding a bad draw cannot pay. Where no payload gained
    anything the window says nothing about who worked: all that were measured get 0. Relative
    gains compare windows early and late in a run, whose absolute gains differ a hundredfold.
    """
    scale = gain_scale(gain for gain in gains.values() if gain is not None)
    relative = {}
    for uid, gain in gains.items():
        if gain is None or math.isnan(gain):
            relative[uid] = WORST_RELATIVE_GAIN
        elif scale == 0.0:
            relative[uid] = 0.0
        else:
            relative[uid] = max(gain / scale, WORST_RELATIVE_GAIN)
    return relative
