"""The work test: did a miner train on the claimed pages?

A payload lowers the loss on its own training pages more than on pages that nobody trained on. With
g_is the gain of payload i on sequence s of the window's pool, H the held-out sequences and O_i the
sequences claimed by i:

    deviation d_i  = stdev over H of g_i
    shown     e_is = clip((g_is - mean over H of g_i) / d_i, -WINSOR, WINSOR)
    effect    x_i  = mean over O_i of e_is
    variance  v_i  = (1/|O_i| + 1/|H|) * f / (f - 2),     f = |H| - 1

and, for how even the work is (`evaluation.trained`), the mean of the effects and of their squares,
and the mean effect of each quarter of the sequences beside the same quarter of those held out.
Squares of few sequences hang on the largest: those are cut at `CUT` deviations, and the unit is the
root mean square of what is left of the held-out ones.

The effect is above zero for a miner trained on the claimed pages, and about zero for a copied or
fabricated payload, however useful the payload is. A step over u batches moves each page's loss
less, measured by u^(-3/4), so the test expects `effect` / sqrt(u) of a payload of width u, and
looks at sqrt(u) times the pages (contrib/DECISIONS.md, D177). The variance is the variance of a
prediction: the deviation is an estimate from the held-out sequences alone. A payload is measured on
these and on its own sequences: what rivals gain on the same sequences would sharpen the effect by a
twentieth, and cost a pass over the claims of all (contrib/DECISIONS.md, D164).

The test is sequential (Wald, Ann. Math. Stat. 1945). With a = `effect` the log-likelihood ratio of
a window is (a x - a^2 / 2) / v, summed over windows and kept within +-log((1 - error) / error).
At the upper bound the gate opens, at the lower bound the payload is refused; the first
decision errs with a probability of at most error / (1 - error) under the normal model.

Legend: S sequences of the pool, K of them measured for one payload, in the pool's order; Q quarters
of a sequence.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HELD_OUT = -1
"""Owner of a sequence without a claimant."""

QUARTERS = 4
"""Parts of a sequence whose losses are known."""

WINSOR = 4.0
"""Largest weight of a single sequence, in standard deviations."""
CUT = 2.5
"""The same where squares count: with 4, equally honest miners differ by a half more."""
LEAST_UNIT = 0.5
"""Of the deviation: the least unit of a cut effect."""
MOST_SHOWN = CUT / LEAST_UNIT
"""Largest cut effect, in its unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkSample:
    """A window's evidence on a payload.

    `effect`: x_i, in standard deviations of a sequence; `variance`: v_i, of the effect by chance
    alone. `page_effect`, `page_square`: mean and mean square of the cut effects of own sequences,
    in their unit. `quarter_profile`: mean effect of the first, second, third and fourth quarters,
    cut and in units of a quarter; empty where it is not known. `width`: of the payload.
    """

    effect: float
    variance: float
    page_effect: float
    page_square: float
    quarter_profile: tuple[float, ...] = ()
    width: int = 1

    def log_likelihood_ratio(self, effect: float) -> float:
        """Log-likelihood ratio of a true effect of `effect` against an effect of zero."""
        return (effect * self.effect - effect * effect / 2) / self.variance


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkRules:
    """`effect`: smallest assumed effect of honest work at width 1. `error`: probability of either
    error.
    """

    effect: float
    error: float

    def effect_at(self, width: int) -> float:
        """Smallest assumed effect of a payload of this width."""
        return self.effect / math.sqrt(width)

    @property
    def bound(self) -> float:
        return math.log((1 - self.error) / self.error)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkState:
    """`log_ratio`: evidence for work, within the bounds. `holds`: the gate is open."""

    log_ratio: float = 0.0
    holds: bool = False

    def after(self, sample: WorkSample, rules: WorkRules) -> "WorkState":
        """The state after another window.

        The gate opens at the upper bound, and closes once the evidence is gone.
        """
        # Clamped on both sides: old evidence is worth no more than opening the gate takes, so a
        # miner that stops working loses the gate after a few windows.
        total = self.log_ratio + sample.log_likelihood_ratio(rules.effect_at(sample.width))
        bounded = min(max(total, -rules.bound), rules.bound)
        return WorkState(
            log_ratio=bounded, holds=total >= rules.bound or (self.holds and total > 0)
        )


def shown_to(owners_S: Ints, uid: int) -> npt.NDArray[np.bool_]:
    """The sequences on which the payload of `uid` is measured: held-out ones and its own; [S]."""
    mask_S: npt.NDArray[np.bool_] = (owners_S == HELD_OUT) | (owners_S == uid)
    return mask_S


def work_sample(gains_KQ: Floats, held_K: npt.NDArray[np.bool_]) -> WorkSample | None:
    """The window's evidence on a payload; None without own sequences, or with an infinite gain on
    a held-out one, which the gain test refuses.

    `gains_KQ`: loss(theta) - loss(theta - step), nats per token; `held_K`: true on held-out
    sequences. An infinite gain on an own sequence is the worst effect: a miner must not silence the
    test by a loss that is no number. A payload without any change of the losses has effect 0.
    ValueError with fewer than two held-out sequences.
    """
    num_held = int(held_K.sum())
    num_own = held_K.size - num_held
    if num_held < 2:
        raise ValueError(f"{num_held} held-out sequences, 2 or more are needed")
    if num_own == 0 or not np.isfinite(gains_KQ[held_K]).all():
        return None
    gains_KQ = np.where(np.isfinite(gains_KQ), gains_KQ, -np.finfo(np.float32).max)
    freedom = num_held - 1
    shown_K = _shown(gains_KQ.mean(axis=1)[:, None], held_K)
    (own,) = np.clip(shown_K[~held_K], -WINSOR, WINSOR).T
    (own_pages,) = _cut(shown_K, held_K).T
    own_quarters = _cut(_shown(gains_KQ, held_K), held_K)
    return WorkSample(
        effect=math.fsum(own) / num_own,
        # Student's t with these degrees of freedom is wider than a normal by f / (f - 2).
        variance=(1 / num_own + 1 / num_held) * freedom / max(1, freedom - 2),
        page_effect=math.fsum(own_pages) / num_own,
        page_square=math.fsum(own_pages * own_pages) / num_own,
        quarter_profile=tuple(math.fsum(column) / num_own for column in own_quarters.T),
    )


def _cut(shown_KP: Floats, held_K: npt.NDArray[np.bool_]) -> Floats:
    """Effects of own sequences, cut, over the root mean square of the held-out ones."""
    cut_KP = np.clip(shown_KP, -CUT, CUT)
    units_P = np.sqrt((cut_KP[held_K] ** 2).mean(axis=0))
    own_OP: Floats = cut_KP[~held_K] / np.maximum(units_P, LEAST_UNIT)
    return own_OP


def _shown(gains_KP: Floats, held_K: npt.NDArray[np.bool_]) -> Floats:
    """Effects, part by part, in deviations of that part of the held-out sequences."""
    left_KP = gains_KP - gains_KP[held_K].mean(axis=0)
    deviations_P = left_KP[held_K].std(axis=0, ddof=1)
    # A part of zeros has deviation 0: divided by infinity, the payload shows no effect.
    deviations_P[deviations_P == 0.0] = math.inf
    shown_KP: Floats = left_KP / deviations_P
    return shown_KP
