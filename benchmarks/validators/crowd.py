"""Miners as a validator measures them, window by window, and the weights that follow.

A model: a miner's share of a window is its work times a log-normal factor with mean 1, shared out
to 1; factors of windows and miners are independent. An account is the mean of the last windows'
shares. Duels (`evaluation.duels`) move parts of it between the miners of drawn pairs.

Legend: W windows, M miners.
"""

from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from evaluation.duels import duelled

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

WINDOWS_PER_EPOCH: Final = 4
"""The public plans' tempo of 360 blocks over their windows of 100, rounded up."""
MAX_SHARE: Final = 0.5
"""`weights.max_share` of the shipped plans."""
GUESS_WINDOWS: Final = 64
"""Known windows whose mean stands for an unknown one."""
LEAST_WORK: Final = 0.25
"""Of the largest, with unequal work; the rest at equal distances between."""
SHARE_ERROR: Final = 1e-5
"""Relative difference of what two honest validators measure, of a window's shares."""
TILT_ERROR: Final = 1e-3
"""Difference of two honest validators' tilts, of the tilts' spread."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """From windows to weights. `account`: windows of the mean. `duel`: part of the smaller share
    that a duel moves, 0 for no duels.
    """

    account: int
    duel: float = 0.0

    def __post_init__(self) -> None:
        if self.account < 1 or not 0 <= self.duel <= 1:
            raise ValueError(f"an account of 1 window or more, a duel in [0, 1]: {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Crowd:
    """`shares_WM`: float64, a row of sum 1 for each window. `tilts_WM`: of each payload, the gain
    on one half of the held-out pages less that on the other half. `seed`: of the model's draws.
    """

    shares_WM: Floats
    tilts_WM: Floats
    seed: int

    @property
    def num_windows(self) -> int:
        return len(self.shares_WM)

    @property
    def num_miners(self) -> int:
        return self.shares_WM.shape[1]

    @property
    def num_epochs(self) -> int:
        return self.num_windows // WINDOWS_PER_EPOCH

    def account(self, length: int, window: int, known_W: Flags) -> Floats:
        """Shares [M], sum 1, over the known ones of the last `length` windows up to `window`.

        Without one of these the newest known windows stand for them, without any all get alike.
        """
        counted_W = up_to(window, known_W)
        recent_W = counted_W.copy()
        recent_W[: max(0, window + 1 - length)] = False
        if not recent_W.any():
            recent_W = _newest(counted_W, GUESS_WINDOWS)
        if not recent_W.any():
            return np.full(self.num_miners, 1.0 / self.num_miners)
        mean_M: Floats = self.shares_WM[recent_W].mean(axis=0)
        return mean_M

    def guessed_account(self, length: int, window: int, known_W: Flags) -> Floats:
        """`account` with the mean of the newest known windows in the place of unknown ones."""
        counted_W = up_to(window, known_W)
        usual_W = _newest(counted_W, GUESS_WINDOWS)
        if not usual_W.any():
            return np.full(self.num_miners, 1.0 / self.num_miners)
        usual_M = self.shares_WM[usual_W].mean(axis=0)
        filled_WM = np.where(counted_W[:, None], self.shares_WM, usual_M)
        mean_M: Floats = filled_WM[max(0, window + 1 - length) : window + 1].mean(axis=0)
        return mean_M

    def measured_by(self, validator: int) -> Self:
        """The crowd in the eyes of one of several honest validators."""
        rng = np.random.default_rng((self.seed, 1, validator))
        factors_WM = 1.0 + SHARE_ERROR * rng.standard_normal(self.shares_WM.shape)
        errors_WM = TILT_ERROR * rng.standard_normal(self.tilts_WM.shape)
        return replace(
            self,
            shares_WM=rows_of_sum_1(self.shares_WM * factors_WM),
            tilts_WM=self.tilts_WM + errors_WM,
        )


def modelled_crowd(
    num_miners: int, *, is_equal: bool, noise: float, num_windows: int, seed: int
) -> Crowd:
    """A crowd of the model. `noise`: standard deviation of a window's factor, of its mean."""
    rng = np.random.default_rng((seed, 0))
    least = 1.0 if is_equal else LEAST_WORK
    work_M = np.linspace(least, 1.0, num_miners)
    sigma = np.sqrt(np.log1p(noise**2))
    factors_WM = np.exp(sigma * rng.standard_normal((num_windows, num_miners)) - sigma**2 / 2)
    return Crowd(
        shares_WM=rows_of_sum_1(work_M * factors_WM),
        tilts_WM=rng.standard_normal((num_windows, num_miners)),
        seed=seed,
    )


def rows_of_sum_1(values_WM: Floats) -> Floats:
    """Each row over its sum; ValueError for a row without a positive sum."""
    sums_W1 = values_WM.sum(axis=1, keepdims=True)
    if not (sums_W1 > 0).all():
        raise ValueError("every row needs a share above 0")
    divided_WM: Floats = values_WM / sums_W1
    return divided_WM


def last_window(epoch: int) -> int:
    """The newest window behind the weights of an epoch."""
    return WINDOWS_PER_EPOCH * (epoch + 1) - 1


def weights(crowd: Crowd, rule: Rule, window: int, known_W: Flags) -> Floats:
    """Weights [M], sum 1, by who measured the windows `known_W` up to `window`."""
    account_M = crowd.account(rule.account, window, known_W)
    return _with_duels(crowd, rule, window, known_W, account_M)


def guessed_weights(crowd: Crowd, rule: Rule, window: int, known_W: Flags) -> Floats:
    """`weights` by who fills unknown windows of the account with the mean of known ones."""
    account_M = crowd.guessed_account(rule.account, window, known_W)
    return _with_duels(crowd, rule, window, known_W, account_M)


def up_to(window: int, known_W: Flags) -> Flags:
    """The known windows up to `window`."""
    counted_W = known_W.copy()
    counted_W[window + 1 :] = False
    return counted_W


def _newest(known_W: Flags, count: int) -> Flags:
    newest_W = np.zeros_like(known_W)
    newest_W[np.flatnonzero(known_W)[-count:]] = True
    return newest_W


def _with_duels(crowd: Crowd, rule: Rule, window: int, known_W: Flags, account_M: Floats) -> Floats:
    """The account after the duels of the epoch that holds `window`."""
    own_W = up_to(window, known_W)
    own_W[: window // WINDOWS_PER_EPOCH * WINDOWS_PER_EPOCH] = False
    gaps_M = crowd.tilts_WM[own_W].sum(axis=0)
    shares = dict(enumerate(account_M.tolist()))
    after = duelled(shares, dict(enumerate(gaps_M.tolist())), window, rule.duel, MAX_SHARE)
    return np.array(list(after.values()))
