"""The work test: did this miner train on the pages that it says it trained on?

A payload lowers the loss of the pages it was made from more than other payloads do. Of every
payload's gain on a common pool of sequences, its mean on the held-out ones is taken off (the
row), and the median of what the others gain on the same sequence (the column), times the
payload's slope on it over the held-out ones: a short or stale payload gains less everywhere.
What is left on its own pages, in standard deviations, is its effect: above zero for who trained
on them, around zero for who copied or made up a payload, whatever it is worth otherwise. Its
variance is that of a prediction: standard deviation and slope are themselves estimates, from the
held-out sequences alone.

A rival who trains on somebody's pages raises the column there: it takes half of the others to
move the median, and fewer than `MIN_OTHERS` others make no column.

The test is sequential (Wald, Ann. Math. Stat. 1945): the log-likelihood ratio of an effect of
`effect` against one of zero, added up over windows, until it is beyond log((1 - error) / error)
on either side. Each decision is wrong with a probability of at most `error`.

Legend: I payloads, S sequences.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HELD_OUT = -1
"""Owner of a sequence that nobody claims."""

MIN_OTHERS = 3
WINSOR = 4.0
"""A single sequence counts as no more than so many standard deviations."""

EVENNESS_Z = 1.5
"""Standard errors in favour of who may have worked evenly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkSample:
    """One window's evidence on one payload: `effect` in standard deviations of a sequence, the
    `variance` of that figure if nothing but chance is in it, and the mean `square` of its
    sequences' effects, which is 1 beyond the effect's own if all of them have the same.
    """

    effect: float
    variance: float
    square: float

    def log_likelihood_ratio(self, effect: float) -> float:
        """Of a true effect of `effect` against none."""
        return (effect * self.effect - effect * effect / 2) / self.variance


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkRules:
    """`effect`: the least that honest work is taken to have. `error`: of either kind."""

    effect: float
    error: float

    @property
    def bound(self) -> float:
        return math.log((1 - self.error) / self.error)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkState:
    """`log_ratio`: of work against none, within the bounds. `holds`: the gate is open."""

    log_ratio: float = 0.0
    holds: bool = False

    def after(self, sample: WorkSample, rules: WorkRules) -> "WorkState":
        """With one more window. Opened by enough evidence for work, closed once the evidence is
        gone: evidence of the past is worth no more than it takes to open the gate.
        """
        total = self.log_ratio + sample.log_likelihood_ratio(rules.effect)
        bounded = min(max(total, -rules.bound), rules.bound)
        return WorkState(
            log_ratio=bounded, holds=total >= rules.bound or (self.holds and total > 0)
        )


def work_state(samples: Iterable[WorkSample], rules: WorkRules) -> WorkState:
    """After the samples of several windows, oldest first."""
    state = WorkState()
    for sample in samples:
        state = state.after(sample, rules)
    return state


def evenness(samples: Collection[WorkSample]) -> float:
    """How evenly the claimed pages were worked on, from 0 to 1: the square of their mean effect
    over the mean of its square. A share of s of them trained on and the others not gives s. Off
    that mean goes what chance has in it, 1, and `EVENNESS_Z` standard errors of the mean. 1 without
    samples.
    """
    if not samples:
        return 1.0
    mean = max(0.0, math.fsum(sample.effect for sample in samples) / len(samples))
    square = math.fsum(sample.square for sample in samples) / len(samples)
    num_sequences = math.fsum(1 / sample.variance for sample in samples)
    chance = 1 + EVENNESS_Z * math.sqrt(2 / num_sequences)
    return mean * mean / max(mean * mean, square - chance) if mean > 0 else 0.0


def work_samples(gains_IS: Floats, uids: Ints, owners_S: Ints) -> dict[int, WorkSample]:
    """uid -> the window's evidence, of those payloads that own sequences of the pool. One that
    changes no loss shows no effect.

    `gains_IS`: loss(theta) less loss(theta less the payload's step), nats per token; rows with
    a value that is not finite are left out. `owners_S`: HELD_OUT or a uid. ValueError with
    fewer than two held-out sequences.
    """
    held_S = owners_S == HELD_OUT
    num_held = int(held_S.sum())
    if num_held < 2:
        raise ValueError(f"{num_held} held-out sequences, 2 or more are needed")
    finite_I = np.isfinite(gains_IS).all(axis=1)
    gains_IS, uids = gains_IS[finite_I], uids[finite_I]
    rows_IS = gains_IS - gains_IS[:, held_S].mean(axis=1, keepdims=True)
    useful_I = gains_IS[:, held_S].mean(axis=1) > 0
    sorted_US = np.sort(rows_IS[useful_I], axis=0)
    samples = {}
    for row, uid in enumerate(uids.tolist()):
        own_S = owners_S == uid
        num_own = int(own_S.sum())
        if num_own == 0:
            continue
        median_S = _median_of_others(sorted_US, rows_IS[row] if useful_I[row] else None)
        column_S = median_S - median_S[held_S].mean()
        samples[uid] = _sample(rows_IS[row], column_S, held_S, own_S)
    return samples


def _median_of_others(sorted_US: Floats, without_S: Floats | None) -> Floats:
    """Lower median of the useful rows, sorted per sequence, less one of them if it is given; zeros
    of fewer than `MIN_OTHERS`.
    """
    num_others = len(sorted_US) - (without_S is not None)
    if num_others < MIN_OTHERS:
        return np.zeros(sorted_US.shape[1])
    middle = (num_others - 1) // 2
    if without_S is None:
        median_S: Floats = sorted_US[middle]
    else:
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
    """The row's mean on its own sequences as predicted from the held-out ones: by the column, with
    the row's slope on it. The error of the slope adds to the variance, and Student's t with the
    freedom left is wider than a normal by freedom / (freedom - 2).
    """
    num_held, num_own = int(held_S.sum()), int(own_S.sum())
    spread = float(column_S[held_S] @ column_S[held_S])
    slope = float(row_S[held_S] @ column_S[held_S]) / spread if spread > 0.0 else 0.0
    left_S = row_S - slope * column_S
    freedom = max(1, num_held - (2 if spread > 0.0 else 1))
    deviation = math.sqrt(float(left_S[held_S] @ left_S[held_S]) / freedom)
    shown = np.clip(left_S[own_S] / (deviation or math.inf), -WINSOR, WINSOR)
    leverage = float(column_S[own_S].mean()) ** 2 / spread if spread > 0.0 else 0.0
    chance = 1 / num_own + 1 / num_held + leverage
    return WorkSample(
        effect=math.fsum(shown) / num_own,
        square=math.fsum(shown * shown) / num_own,
        variance=chance * freedom / max(1, freedom - 2),
    )
