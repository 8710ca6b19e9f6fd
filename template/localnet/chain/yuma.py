"""Yuma consensus: one epoch of one subnet, from stake and weights to incentive and dividends.

Owns the arithmetic of the chain's epoch. It does not own storage, the schedule of epochs or
the payment of emission: values in, values out.

Source: subtensor `pallets/subtensor/src/epoch/run_epoch/epoch_mechanism.rs`,
`bonds_ema_liquid_alpha.rs` and `epoch/math/` (https://github.com/RaoFoundation/subtensor).
Departures: the chain computes in 32.32 fixed point and truncates at every step, this module in
float64, so a result may differ by 2 of 65535 units (measured on a vector of the real runtime);
the mask for pending timelocked commits and the opt-in null consensus are left out.

Shape suffixes: N uids of the subnet. In a `_NN` matrix the row is the uid that speaks
(validator) and the column the uid that is spoken of (server).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

U16_MAX = 65_535
BONDS_MOVING_AVERAGE_UNIT = 1_000_000
STEEPNESS_UNIT = 100.0
# Float noise may leave 1.0 just under its value; far below half a unit of u16.
FLOOR_SLACK = 1e-6


@dataclass(frozen=True, kw_only=True)
class YumaParams:
    """The subnet's hyperparameters that an epoch reads, in the chain's integer units.

    u16 shares of 65535: kappa, bonds_penalty, alpha_low, alpha_high. `bonds_moving_average`
    is in millionths, `alpha_steepness` in hundredths. The defaults are the chain's.
    """

    kappa: int = 32_767
    bonds_penalty: int = U16_MAX
    bonds_moving_average: int = 900_000
    activity_cutoff_blocks: int = 5_000
    max_allowed_validators: int = 128
    yuma3: bool = False
    liquid_alpha: bool = False
    alpha_low: int = 45_875
    alpha_high: int = 58_982
    alpha_steepness: int = 1_000
    stake_threshold_rao: int = 0


@dataclass(frozen=True, kw_only=True)
class EpochInputs:
    """What the chain holds when an epoch starts; every list is indexed by uid.

    `weights` and `bonds` are rows of {uid spoken of: u16}, as stored. `last_epoch_block` is
    the block of the epoch before: bonds to a uid registered after it belong to its predecessor.
    """

    stake_rao: list[int]
    weights: list[dict[int, int]]
    bonds: list[dict[int, int]]
    last_update: list[int]
    block_at_registration: list[int]
    validator_permit: list[bool]
    owner_uid: int | None
    block: int
    last_epoch_block: int
    params: YumaParams


@dataclass(frozen=True, kw_only=True)
class EpochOutputs:
    """What an epoch writes back; u16 values are floor(share * 65535).

    `server_share` divides the miners' half of the emission and `validator_share` the
    validators' half; each sums to 1 or is all zero. Without any consensus the validators'
    half follows active stake (or all stake, when nobody is active) and nobody serves.
    `pruning_score` orders uids for replacement; bonds exist for holders of a new permit only.
    """

    consensus: list[int]
    incentive: list[int]
    dividends: list[int]
    validator_trust: list[int]
    pruning_score: list[int]
    bonds: list[dict[int, int]]
    new_permits: list[bool]
    server_share: list[float]
    validator_share: list[float]
    active: list[bool]


@dataclass(frozen=True, kw_only=True)
class _Votes:
    """Stake and weights after every mask, and the consensus over them."""

    active_stake_N: Array
    weights_NN: Array
    clipped_NN: Array
    consensus_N: Array
    incentive_N: Array


def run_epoch(inputs: EpochInputs) -> EpochOutputs:
    """One epoch of Yuma. Pure; raises ValueError if the lists differ in length."""
    _check_lengths(inputs)
    stake_N = _stake_shares(inputs)
    active_N = _active(inputs)
    votes = _consensus(inputs, stake_N, active_N)
    bonds_NN, dividends_N = _bonds_and_dividends(inputs, votes)
    new_permits_N = _new_permits(inputs, stake_N)
    fallback_N = votes.active_stake_N if votes.active_stake_N.any() else stake_N
    nobody_earns = not (votes.incentive_N.any() or dividends_N.any())
    combined_N = fallback_N if nobody_earns else votes.incentive_N + dividends_N
    return EpochOutputs(
        consensus=_to_u16(votes.consensus_N),
        incentive=_to_u16(votes.incentive_N),
        dividends=_to_u16(dividends_N),
        validator_trust=_to_u16(votes.clipped_NN.sum(axis=1)),
        pruning_score=_to_u16(_normalized(combined_N)),
        bonds=_sparse(bonds_NN * new_permits_N[:, None]),
        new_permits=new_permits_N.tolist(),
        server_share=votes.incentive_N.tolist(),
        validator_share=(fallback_N if nobody_earns else dividends_N).tolist(),
        active=active_N.tolist(),
    )


def weighted_median(score_NN: Array, stake_N: Array, kappa: float) -> Array:
    """Per column, the largest score that uids with at least `kappa` of the stake reach or exceed.

    `stake_N` sums to 1 or is all zero (then the result is zero); uids without stake do not
    vote. Precisely: the first score, ascending, whose cumulative stake exceeds 1 - kappa.
    """
    voting_N = stake_N > 0
    if not voting_N.any():
        return np.zeros(score_NN.shape[1])
    score_VN, stake_V = score_NN[voting_N], stake_N[voting_N]
    order_VN = np.argsort(score_VN, axis=0, kind="stable")
    cumulative_VN = np.cumsum(stake_V[order_VN], axis=0)
    pivot_N = (cumulative_VN <= 1.0 - kappa).sum(axis=0)
    pivot_N = np.minimum(pivot_N, len(stake_V) - 1)
    columns_N = np.arange(score_NN.shape[1])
    median_N: Array = score_VN[order_VN[pivot_N, columns_N], columns_N]
    return median_N


def _consensus(inputs: EpochInputs, stake_N: Array, active_N: Mask) -> _Votes:
    permit_N = _current_permits(inputs)
    active_stake_N = _normalized(stake_N * active_N * permit_N)
    weights_NN = _masked_weights(inputs, permit_N)
    consensus_N = weighted_median(weights_NN, active_stake_N, inputs.params.kappa / U16_MAX)
    clipped_NN = np.minimum(weights_NN, consensus_N)
    return _Votes(
        active_stake_N=active_stake_N,
        weights_NN=weights_NN,
        clipped_NN=clipped_NN,
        consensus_N=consensus_N,
        incentive_N=_normalized(active_stake_N @ clipped_NN),
    )


def _bonds_and_dividends(inputs: EpochInputs, votes: _Votes) -> tuple[Array, Array]:
    """New bonds in their stored form (shares of 1, not yet u16) and dividends that sum to 1."""
    penalty = inputs.params.bonds_penalty / U16_MAX
    weights_NN = (1.0 - penalty) * votes.weights_NN + penalty * votes.clipped_NN
    old_NN = _masked_bonds(inputs)
    if inputs.params.yuma3:
        return _yuma3(inputs.params, votes, weights_NN, old_NN)
    return _yuma2(inputs.params, votes, weights_NN, old_NN)


def _yuma2(
    params: YumaParams, votes: _Votes, weights_NN: Array, old_NN: Array
) -> tuple[Array, Array]:
    """Bonds are shares of a column, smoothed; stored with the column's largest at 1."""
    alpha = 1.0 - params.bonds_moving_average / BONDS_MOVING_AVERAGE_UNIT
    delta_NN = _columns_normalized(weights_NN * votes.active_stake_N[:, None])
    bonds_NN = _columns_normalized(alpha * delta_NN + (1.0 - alpha) * _columns_normalized(old_NN))
    dividends_N = _normalized(bonds_NN @ votes.incentive_N)
    return _divided(bonds_NN, bonds_NN.max(axis=0, initial=0.0)), dividends_N


def _yuma3(
    params: YumaParams, votes: _Votes, weights_NN: Array, old_NN: Array
) -> tuple[Array, Array]:
    """Bonds follow each validator's own weights; stake enters only the dividends."""
    alpha: Array | float = 1.0 - params.bonds_moving_average / BONDS_MOVING_AVERAGE_UNIT
    if params.liquid_alpha and votes.consensus_N.any():
        alpha = _liquid_alpha(params, weights_NN, old_NN, votes.consensus_N)
    bonds_NN = alpha * weights_NN + (1.0 - alpha) * old_NN
    owned_N = _columns_normalized(bonds_NN) @ votes.incentive_N
    return bonds_NN, _normalized(owned_N * votes.active_stake_N)


def _liquid_alpha(
    params: YumaParams, weights_NN: Array, old_NN: Array, consensus_N: Array
) -> Array:
    """Smoothing per pair: fast where a validator buys above consensus or sells its bond."""
    low, high = params.alpha_low / U16_MAX, params.alpha_high / U16_MAX
    buys_NN = weights_NN - consensus_N
    sells_NN = old_NN - weights_NN
    change_NN = np.clip(np.where(weights_NN >= old_NN, buys_NN, sells_NN), 0.0, 1.0)
    steepness = params.alpha_steepness / STEEPNESS_UNIT
    sigmoid_NN = 1.0 / (1.0 + np.exp(-steepness * (change_NN - 0.5)))
    alpha_NN: Array = np.clip(low + sigmoid_NN * (high - low), low, high)
    return alpha_NN


def _stake_shares(inputs: EpochInputs) -> Array:
    """Each uid's share of the stake; below the threshold counts as none, the owner excepted."""
    threshold_rao = inputs.params.stake_threshold_rao
    kept = [
        stake_rao if stake_rao >= threshold_rao or uid == inputs.owner_uid else 0
        for uid, stake_rao in enumerate(inputs.stake_rao)
    ]
    return _normalized(np.array(kept, dtype=np.float64))


def _active(inputs: EpochInputs) -> Mask:
    cutoff_blocks = inputs.params.activity_cutoff_blocks
    active = [updated + cutoff_blocks >= inputs.block for updated in inputs.last_update]
    return np.array(active, dtype=np.bool_)


def _current_permits(inputs: EpochInputs) -> Mask:
    permit_N = np.array(inputs.validator_permit, dtype=np.bool_)
    if inputs.owner_uid is not None:
        permit_N[inputs.owner_uid] = True
    return permit_N


def _new_permits(inputs: EpochInputs, stake_N: Array) -> Mask:
    """The largest stakes above zero, ties to the higher uid as on chain, and the owner."""
    permit_N = stake_N > 0
    num_dropped = max(0, len(stake_N) - inputs.params.max_allowed_validators)
    permit_N[np.argsort(stake_N, kind="stable")[:num_dropped]] = False
    if inputs.owner_uid is not None:
        permit_N[inputs.owner_uid] = True
    return permit_N


def _masked_weights(inputs: EpochInputs, permit_N: Mask) -> Array:
    """Rows of permit holders, each summing to 1, without self-weights and stale weights.

    The owner's self-weight stays (it is how a subnet burns). A weight is stale if the uid it
    speaks of was registered in or after the block in which it was set.
    """
    weights_NN = _dense(inputs.weights)
    self_weights_N = weights_NN.diagonal().copy()
    np.fill_diagonal(weights_NN, 0.0)
    if inputs.owner_uid is not None:
        weights_NN[inputs.owner_uid, inputs.owner_uid] = self_weights_N[inputs.owner_uid]
    updated_N = np.array(inputs.last_update, dtype=np.int64)
    registered_N = np.array(inputs.block_at_registration, dtype=np.int64)
    weights_NN *= permit_N[:, None] & (updated_N[:, None] > registered_N)
    return _divided(weights_NN, weights_NN.sum(axis=1, keepdims=True))


def _masked_bonds(inputs: EpochInputs) -> Array:
    registered_N = np.array(inputs.block_at_registration, dtype=np.int64)
    return _dense(inputs.bonds) / U16_MAX * (registered_N <= inputs.last_epoch_block)


def _check_lengths(inputs: EpochInputs) -> None:
    num_uids = len(inputs.stake_rao)
    for name in (
        "weights",
        "bonds",
        "last_update",
        "block_at_registration",
        "validator_permit",
    ):
        if len(getattr(inputs, name)) != num_uids:
            raise ValueError(f"{name} must have one item per uid, as stake_rao has ({num_uids})")
    if inputs.owner_uid is not None and not 0 <= inputs.owner_uid < num_uids:
        raise ValueError(f"owner_uid {inputs.owner_uid} is not one of the {num_uids} uids")


def _dense(rows: list[dict[int, int]]) -> Array:
    """A square matrix; what is said of a uid that does not exist is ignored."""
    matrix_NN = np.zeros((len(rows), len(rows)))
    for uid, row in enumerate(rows):
        for other, value in row.items():
            if other < len(rows):
                matrix_NN[uid, other] = value
    return matrix_NN


def _sparse(matrix_NN: Array) -> list[dict[int, int]]:
    rows = (_to_u16(row_N) for row_N in matrix_NN)
    return [{uid: value for uid, value in enumerate(row) if value} for row in rows]


def _normalized(values_N: Array) -> Array:
    return _divided(values_N, values_N.sum())


def _columns_normalized(matrix_NN: Array) -> Array:
    return _divided(matrix_NN, matrix_NN.sum(axis=0))


def _divided(values: Array, by: Array | np.float64) -> Array:
    """`values / by`, and zero where `by` is zero."""
    by_broadcast = np.broadcast_to(by, values.shape)
    return np.divide(values, by_broadcast, out=np.zeros_like(values), where=by_broadcast != 0)


def _to_u16(shares_N: Array) -> list[int]:
    units_N = np.floor(np.clip(shares_N, 0.0, 1.0) * U16_MAX + FLOOR_SLACK)
    return [int(unit) for unit in units_N]
