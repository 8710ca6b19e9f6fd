"""The work test: did a miner train on the claimed pages?

A payload lowers the loss on its own training pages more than other payloads do. With g_is the gain
of payload i on sequence s of the window's pool, H the held-out sequences and O_i the sequences
claimed by i:

    row       r_is = g_is - mean over H of g_i          removes the payload's general strength
    column    m_s  = lower median over useful others of r_js;    c_s = m_s - mean over H of m
    slope     b_i  = sum over H of r_is c_s / sum over H of c_s^2
    residual  e_is = r_is - b_i c_s                      removes the sequence's difficulty
    deviation d_i  = sqrt(sum over H of e_is^2 / f),     f = |H| - 2 (|H| - 1 without a column)
    effect    x_i  = mean over O_i of clip(e_is / d_i, -WINSOR, WINSOR)
    variance  v_i  = (1/|O_i| + 1/|H| + (mean over O_i of c)^2 / sum over H of c^2) * f / (f - 2)

The effect is above zero for a miner trained on the claimed pages, and about zero for a copied or
fabricated payload, however useful the payload is. The variance is the variance of a prediction:
deviation and slope are estimates from the held-out sequences alone.

A rival with training on the same pages raises the column there: moving a median takes half of the
others, and fewer than `MIN_OTHERS` others give no column. Payloads alike to i are no others: copies
of a payload would otherwise take its own effect off its pages.

The test is sequential (Wald, Ann. Math. Stat. 1945). With a = `effect` the log-likelihood ratio of
a window is (a x - a^2 / 2) / v, summed over windows and kept within +-log((1 - error) / error).
At the upper bound the gate opens, at the lower bound the payload is refused; the first
decision errs with a probability of at most error / (1 - error) under the normal model.

Legend: I payloads, U useful payloads, S sequences.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HELD_OUT = -1
"""Owner of a sequence without a claimant."""

MIN_OTHERS = 3
WINSOR = 4.0
"""Largest weight of a single sequence, in standard deviations."""

EVENNESS_Z = 1.5
"""Standard errors in the miner's favour in `evenness`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkSample:
    """A window's evidence on a payload.

    `effect`: x_i, in standard deviations of a sequence; `variance`: v_i, of the effect by chance
    alone; `square`: mean squared effect over the own sequences, 1 + effect^2 for an even effect.
    """

    effect: float
    variance: float
    square: float

    def log_likelihood_ratio(self, effect: float) -> float:
        """Log-likelihood ratio of a true effect of `effect` against an effect of zero."""
        return (effect * self.effect - effect * effect / 2) / self.variance


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkRules:
    """`effect`: smallest assumed effect of honest work. `error`: probability of either error."""

    effect: float
    error: float

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
        total = self.log_ratio + sample.log_likelihood_ratio(rules.effect)
        bounded = min(max(total, -rules.bound), rules.bound)
        return WorkState(
            log_ratio=bounded, holds=total >= rules.bound or (self.holds and total > 0)
        )


def evenness(samples: Collection[WorkSample]) -> float:
    """Evenness of work over the claimed pages, from 0 to 1: mean(effect)^2 / mean(effect^2).

    Training on a share s of the claimed pages gives s. The mean square is reduced by the part due
    to chance, 1 plus `EVENNESS_Z` standard errors. 1 without samples.
    """
    if not samples:
        return 1.0
    # A negative mean effect is no work at all, however even.
    mean = max(0.0, math.fsum(sample.effect for sample in samples) / len(samples))
    square = math.fsum(sample.square for sample in samples) / len(samples)
    num_sequences = math.fsum(1 / sample.variance for sample in samples)
    # A unit normal adds 1 to the mean square; the mean of n such squares has variance 2 / n.
    chance = 1 + EVENNESS_Z * math.sqrt(2 / num_sequences)
    return mean * mean / max(mean * mean, square - chance) if mean > 0 else 0.0


def work_samples(
    gains_IS: Floats, uids: Ints, owners_S: Ints, alike: Mapping[int, Collection[int]] | None = None
) -> dict[int, WorkSample]:
    """uid -> the window's evidence, for payloads with own sequences in the pool.

    `gains_IS`: loss(theta) - loss(theta - step), nats per token; a row with an infinite or NaN
    value is left out. `uids`: int64 [I]. `owners_S`: HELD_OUT or a uid. `alike`: uid -> uids whose
    payloads are no others for it. A payload without any change of the losses has effect 0.
    ValueError with fewer than two held-out sequences.
    """
    held_S = owners_S == HELD_OUT
    num_held = int(held_S.sum())
    if num_held < 2:
        raise ValueError(f"{num_held} held-out sequences, 2 or more are needed")
    # A payload with an infinite loss must not poison the median of the honest payloads.
    finite_I = np.isfinite(gains_IS).all(axis=1)
    gains_IS, uids = gains_IS[finite_I], uids[finite_I]
    rows_IS = gains_IS - gains_IS[:, held_S].mean(axis=1, keepdims=True)
    # Harmful payloads would drag the column towards noise: only useful payloads vote in it.
    useful_I = gains_IS[:, held_S].mean(axis=1) > 0
    # Sorted once: the median without one row then takes a comparison, not another sort.
    sorted_US = np.sort(rows_IS[useful_I], axis=0)
    columns: dict[frozenset[int], Floats] = {}
    samples = {}
    for row, uid in enumerate(uids.tolist()):
        own_S = owners_S == uid
        num_own = int(own_S.sum())
        if num_own == 0:
            continue
        twins = {uid}.union((alike or {}).get(uid, ())).intersection(uids.tolist())
        if len(twins) > 1:
            key = frozenset(twins)  # a crowd of equal payloads has one key, and one sort
            if key not in columns:
                others_I = useful_I & ~np.isin(uids, sorted(twins))
                columns[key] = _median_of_others(np.sort(rows_IS[others_I], axis=0), None)
            median_S = columns[key]
        else:
            median_S = _median_of_others(sorted_US, rows_IS[row] if useful_I[row] else None)
        column_S = median_S - median_S[held_S].mean()
        samples[uid] = _sample(rows_IS[row], column_S, held_S, own_S)
    return samples


def _median_of_others(sorted_US: Floats, without_S: Floats | None) -> Floats:
    """Lower median of the useful rows without the payload's own row; zeros below `MIN_OTHERS`.

    `sorted_US`: useful rows, sorted per sequence. `without_S`: the row to leave out, or None.
    """
    num_others = len(sorted_US) - (without_S is not None)
    if num_others < MIN_OTHERS:
        return np.zeros(sorted_US.shape[1])
    middle = (num_others - 1) // 2
    # Leaving out a row at or below the middle shifts the median up by one row.
    if without_S is None:
        median_S: Floats = sorted_US[middle]
    else:
        # Taking out a value at or below the middle moves every later rank down by one.
        median_S = np.where(
            without_S <= sorted_US[middle], sorted_US[middle + 1], sorted_US[middle]
        )
    return median_S


def _sample(
    row_S: Floats,
    column_S: Floats,
    held_S: npt.NDArray[np.bool_],
    own_S: npt.NDArray[np.bool_],
) -> WorkSample:
    """The evidence of a row against the prediction from the held-out sequences; see the module."""
    num_held, num_own = int(held_S.sum()), int(own_S.sum())
    spread = float(column_S[held_S] @ column_S[held_S])
    slope = float(row_S[held_S] @ column_S[held_S]) / spread if spread > 0.0 else 0.0
    left_S = row_S - slope * column_S
    # The mean takes one degree of freedom, the slope another where there is a column.
    freedom = max(1, num_held - (2 if spread > 0.0 else 1))
    deviation = math.sqrt(float(left_S[held_S] @ left_S[held_S]) / freedom)
    # A row of zeros has deviation 0: divided by infinity, the payload shows no effect.
    shown = np.clip(left_S[own_S] / (deviation or math.inf), -WINSOR, WINSOR)
    leverage = float(column_S[own_S].mean()) ** 2 / spread if spread > 0.0 else 0.0
    chance = 1 / num_own + 1 / num_held + leverage
    return WorkSample(
        effect=math.fsum(shown) / num_own,
        square=math.fsum(shown * shown) / num_own,
        # Student's t with these degrees of freedom is wider than a normal by f / (f - 2).
        variance=chance * freedom / max(1, freedom - 2),
    )
