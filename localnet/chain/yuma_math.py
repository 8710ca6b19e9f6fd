"""The arithmetic of an epoch without any subnet: shares, medians, matrices.

Owns the step between stored integers and float64, and the exact parts: shares of stake are in
the chain's 32.32 fixed point with the chain's truncation, to break ties like the chain.
Source: subtensor, epoch/math/. Shape suffixes as in `yuma.py`; V voting uids.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

U16_MAX = 65_535
FIXED_ONE = 1 << 32
# Float noise may leave 1.0 just under its value; far below half a unit of u16.
_FLOOR_SLACK = 1e-6


def fixed_shares(values: list[int]) -> list[int]:
    """Each value's share of the sum in units of 2**-32, truncated; all zero if the sum is."""
    total = sum(values)
    return [value * FIXED_ONE // total for value in values] if total else values


def weighted_median(score_NN: Array, stake_units: list[int], kappa: int) -> Array:
    """Per column, the largest score reached by uids with at least `kappa` of the stake.

    `stake_units` are shares in units of 2**-32, `kappa` is of 65535. Uids without stake do not
    vote; without any vote the result is zero. Precisely: the first score, ascending, whose
    cumulative stake exceeds the whole less kappa.
    """
    voting = [uid for uid, units in enumerate(stake_units) if units > 0]
    if not voting:
        return np.zeros(score_NN.shape[1])
    stake_V = np.array(fixed_shares([stake_units[uid] for uid in voting]), dtype=np.int64)
    minority = stake_V.sum() - kappa * FIXED_ONE // U16_MAX
    score_VN = score_NN[voting]
    order_VN = np.argsort(score_VN, axis=0, kind="stable")
    cumulative_VN = np.cumsum(stake_V[order_VN], axis=0)
    pivot_N = np.minimum((cumulative_VN <= minority).sum(axis=0), len(voting) - 1)
    columns_N = np.arange(score_NN.shape[1])
    median_N: Array = score_VN[order_VN[pivot_N, columns_N], columns_N]
    return median_N


def dense(rows: list[dict[int, int]]) -> Array:
    """A square matrix; ignores entries of missing uids."""
    matrix_NN = np.zeros((len(rows), len(rows)))
    for uid, row in enumerate(rows):
        for other, value in row.items():
            if other < len(rows):
                matrix_NN[uid, other] = value
    return matrix_NN


def sparse(matrix_NN: Array) -> list[dict[int, int]]:
    rows = (to_u16(row_N) for row_N in matrix_NN)
    return [{uid: value for uid, value in enumerate(row) if value} for row in rows]


def normalized(values_N: Array) -> Array:
    return divided(values_N, values_N.sum())


def columns_normalized(matrix_NN: Array) -> Array:
    return divided(matrix_NN, matrix_NN.sum(axis=0))


def divided(values: Array, by: Array | np.float64) -> Array:
    """`values / by`, and zero where `by` is zero."""
    by_broadcast = np.broadcast_to(by, values.shape)
    return np.divide(values, by_broadcast, out=np.zeros_like(values), where=by_broadcast != 0)


def to_u16(shares_N: Array) -> list[int]:
    units_N = np.floor(np.clip(shares_N, 0.0, 1.0) * U16_MAX + _FLOOR_SLACK)
    return [int(unit) for unit in units_N]
