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
    """Root mean square of a window's finite gains; 0 if there are none."""
    finite = [gain for gain in gains if math.isfinite(gain)]
    return math.sqrt(math.fsum(g * g for g in finite) / len(finite)) if finite else 0.0


def relative_gains(gains: Mapping[int, float | None]) -> dict[int, float]:
    """Each uid's mean gain over the scale of the window's gains.

    None stands for a payload that was committed and not delivered, or was refused: it takes
    the worst place, the lowest relative gain of the window and never more than -1, so that
    withholding a bad draw cannot pay. Relative gains compare windows early and late in a
    run, whose absolute gains differ a hundredfold. Gains of minus infinity count as the
    worst too.
    """
    finite = {uid: g for uid, g in gains.items() if g is not None and math.isfinite(g)}
    scale = gain_scale(finite.values())
    relative = {uid: g / scale if scale > 0 else 0.0 for uid, g in finite.items()}
    worst = min(-1.0, *relative.values()) if relative else -1.0
    return {uid: relative.get(uid, worst) for uid in gains}
