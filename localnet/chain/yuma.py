"""Yuma consensus: one epoch of one subnet, from stake and weights to incentive and dividends.

Owns the arithmetic of the chain's epoch, as pure functions. `epoch.py` owns storage and payment,
`schedule.py` the schedule.

Source: subtensor `pallets/subtensor/src/epoch/run_epoch/epoch_mechanism.rs`,
`bonds_ema_liquid_alpha.rs` and `epoch/math/` (https://github.com/RaoFoundation/subtensor).
Departures: shares of stake, and so permits and medians, are in the chain's 32.32 fixed
point; the rest is in float64 where the chain truncates at every step, so a result may differ by
2 of 65535 units (measured on a vector of the real runtime). The opt-in null consensus is left
out.

Shape suffixes: N uids of the subnet. A `_NN` matrix has the weight setter (validator) in the row
and the weighted uid (server) in the column.
"""

from dataclasses import dataclass

import numpy as np

from localnet.chain.yuma_math import (
    U16_MAX,
    Array,
    Mask,
    columns_normalized,
    dense,
    divided,
    fixed_shares,
    normalized,
    sparse,
    to_u16,
    weighted_median,
)

BONDS_MOVING_AVERAGE_UNIT = 1_000_000
STEEPNESS_UNIT = 100.0


@dataclass(frozen=True, kw_only=True)
class YumaParams:
    """The subnet's hyperparameters for an epoch, in the chain's integer units.

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
    """The chain's values at the start of an epoch; every list is indexed by uid.

    `weights` and `bonds` are rows of {weighted uid: u16}, as stored. `last_epoch_block`: the
    block of the epoch before; bonds to a uid registered later belong to the predecessor.
    `commit_block`: the block of a uid's earliest commit, neither revealed nor expired, or None;
    the uid's weights on later registrations do not count.
    """

    stake_rao: list[int]
    weights: list[dict[int, int]]
    bonds: list[dict[int, int]]
    last_update: list[int]
    block_at_registration: list[int]
    commit_block: list[int | None]
    validator_permit: list[bool]
    owner_uid: int | None
    block: int
    last_epoch_block: int
    params: YumaParams


@dataclass(frozen=True, kw_only=True)
class EpochOutputs:
    """The results of an epoch; u16 values are floor(share * 65535).

    `server_share` divides the miners' half of the emission and `validator_share` the
    validators' half; each sums to 1 or is all zero. Without any consensus the validators'
    half follows active stake (or all stake without active uids), and server shares are 0.
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
    """Stake and weights after every mask, and the consensus.

    `spoken_NN` marks weights set and not masked, including weights of zero.
    """

    active_stake_N: Array
    weights_NN: Array
    spoken_NN: Mask
    clipped_NN: Array
    consensus_N: Array
    incentive_N: Array


def run_epoch(inputs: EpochInputs) -> EpochOutputs:
    """Run an epoch of Yuma. Pure; raises ValueError if the lists differ in length."""
    _check_lengths(inputs)
    stake_units = _stake_units(inputs)
    stake_N = normalized(np.array(stake_units, dtype=np.float64))
    active_N = _active(inputs)
    votes = _consensus(inputs, stake_units, active_N)
    bonds_NN, dividends_N = _bonds_and_dividends(inputs, votes)
    new_permits_N = _new_permits(inputs, stake_units)
    fallback_N = votes.active_stake_N if votes.active_stake_N.any() else stake_N
    nobody_earns = not (votes.incentive_N.any() or dividends_N.any())
    combined_N = fallback_N if nobody_earns else votes.incentive_N + dividends_N
    return EpochOutputs(
        consensus=to_u16(votes.consensus_N),
        incentive=to_u16(votes.incentive_N),
        dividends=to_u16(dividends_N),
        validator_trust=to_u16(votes.clipped_NN.sum(axis=1)),
        pruning_score=to_u16(normalized(combined_N)),
        bonds=sparse(bonds_NN * new_permits_N[:, None]),
        new_permits=new_permits_N.tolist(),
        server_share=votes.incentive_N.tolist(),
        validator_share=(fallback_N if nobody_earns else dividends_N).tolist(),
        active=active_N.tolist(),
    )


def _consensus(inputs: EpochInputs, stake_units: list[int], active_N: Mask) -> _Votes:
    permit_N = _current_permits(inputs)
    votes_N = active_N & permit_N
    voting = [units if votes_N[uid] else 0 for uid, units in enumerate(stake_units)]
    active_units = fixed_shares(voting)
    active_stake_N = normalized(np.array(active_units, dtype=np.float64))
    allowed_NN = _allowed(inputs, permit_N)
    weights_NN = dense(inputs.weights) * allowed_NN
    weights_NN = divided(weights_NN, weights_NN.sum(axis=1, keepdims=True))
    consensus_N = weighted_median(weights_NN, active_units, inputs.params.kappa)
    clipped_NN = np.minimum(weights_NN, consensus_N)
    return _Votes(
        active_stake_N=active_stake_N,
        weights_NN=weights_NN,
        spoken_NN=allowed_NN & (dense([dict.fromkeys(row, 1) for row in inputs.weights]) > 0),
        clipped_NN=clipped_NN,
        consensus_N=consensus_N,
        incentive_N=normalized(active_stake_N @ clipped_NN),
    )


def _bonds_and_dividends(inputs: EpochInputs, votes: _Votes) -> tuple[Array, Array]:
    """New bonds (shares of 1, not yet u16), and dividends with sum 1."""
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
    delta_NN = columns_normalized(weights_NN * votes.active_stake_N[:, None])
    bonds_NN = columns_normalized(alpha * delta_NN + (1.0 - alpha) * columns_normalized(old_NN))
    dividends_N = normalized(bonds_NN @ votes.incentive_N)
    return divided(bonds_NN, bonds_NN.max(axis=0, initial=0.0)), dividends_N


def _yuma3(
    params: YumaParams, votes: _Votes, weights_NN: Array, old_NN: Array
) -> tuple[Array, Array]:
    """Bonds follow each validator's own weights; stake enters only the dividends."""
    alpha: Array | float = 1.0 - params.bonds_moving_average / BONDS_MOVING_AVERAGE_UNIT
    kept_NN = np.ones_like(votes.spoken_NN)
    if params.liquid_alpha and votes.consensus_N.any():
        alpha = _liquid_alpha(params, weights_NN, old_NN, votes.consensus_N)
        kept_NN = _kept_bonds(params, votes, weights_NN)
    bonds_NN = (alpha * weights_NN + (1.0 - alpha) * old_NN) * kept_NN
    owned_N = columns_normalized(bonds_NN) @ votes.incentive_N
    return bonds_NN, normalized(owned_N * votes.active_stake_N)


def _liquid_alpha(
    params: YumaParams, weights_NN: Array, old_NN: Array, consensus_N: Array
) -> Array:
    """Smoothing per pair: fast for a validator buying above consensus or selling a bond."""
    low, high = params.alpha_low / U16_MAX, params.alpha_high / U16_MAX
    buys_NN = weights_NN - consensus_N
    sells_NN = old_NN - weights_NN
    change_NN = np.clip(np.where(weights_NN >= old_NN, buys_NN, sells_NN), 0.0, 1.0)
    steepness = params.alpha_steepness / STEEPNESS_UNIT
    sigmoid_NN = 1.0 / (1.0 + np.exp(-steepness * (change_NN - 0.5)))
    alpha_NN: Array = np.clip(low + sigmoid_NN * (high - low), low, high)
    return alpha_NN


def _kept_bonds(params: YumaParams, votes: _Votes, weights_NN: Array) -> Mask:
    """The entries with a bond under liquid alpha: the sparse loop visits only present weights.

    A weight set to zero is present. A weight never set, masked, or clipped to zero by consensus
    is absent. With a bonds' penalty between both ends, zeros are absent too.
    """
    if params.bonds_penalty == 0:
        return votes.spoken_NN
    if params.bonds_penalty < U16_MAX:
        return weights_NN > 0
    return votes.spoken_NN & ~((votes.weights_NN > 0) & (votes.consensus_N == 0))


def _stake_units(inputs: EpochInputs) -> list[int]:
    """Shares of the stake; stake below the threshold counts as 0, except the owner's."""
    threshold_rao = inputs.params.stake_threshold_rao
    return fixed_shares(
        [
            stake_rao if stake_rao >= threshold_rao or uid == inputs.owner_uid else 0
            for uid, stake_rao in enumerate(inputs.stake_rao)
        ]
    )


def _active(inputs: EpochInputs) -> Mask:
    cutoff_blocks = inputs.params.activity_cutoff_blocks
    active = [updated + cutoff_blocks >= inputs.block for updated in inputs.last_update]
    return np.array(active, dtype=np.bool_)


def _current_permits(inputs: EpochInputs) -> Mask:
    permit_N = np.array(inputs.validator_permit, dtype=np.bool_)
    if inputs.owner_uid is not None:
        permit_N[inputs.owner_uid] = True
    return permit_N


def _new_permits(inputs: EpochInputs, stake_units: list[int]) -> Mask:
    """The largest stakes above zero, ties to the higher uid as on chain, and the owner."""
    stake_N = np.array(stake_units, dtype=np.int64)
    permit_N = stake_N > 0
    num_dropped = max(0, len(stake_N) - inputs.params.max_allowed_validators)
    permit_N[np.argsort(stake_N, kind="stable")[:num_dropped]] = False
    if inputs.owner_uid is not None:
        permit_N[inputs.owner_uid] = True
    return permit_N


def _allowed(inputs: EpochInputs, permit_N: Mask) -> Mask:
    """The mask of counted weights: set by permit holders, on another uid, and not stale.

    The owner's self-weight counts, since a subnet burns by this weight. A weight is stale if the
    weighted uid was registered in or after the block of the setting, or after the block of the
    validator's earliest pending commit.
    """
    self_N = np.zeros_like(permit_N)
    if inputs.owner_uid is not None:
        self_N[inputs.owner_uid] = True
    updated_N = np.array(inputs.last_update, dtype=np.int64)
    registered_N = np.array(inputs.block_at_registration, dtype=np.int64)
    latest = np.iinfo(np.int64).max
    commits = [latest if block is None else block for block in inputs.commit_block]
    committed_N = np.array(commits, dtype=np.int64)
    fresh_NN = (updated_N[:, None] > registered_N) & (committed_N[:, None] >= registered_N)
    not_self_NN = ~np.eye(len(permit_N), dtype=np.bool_) | self_N
    allowed_NN: Mask = permit_N[:, None] & not_self_NN & fresh_NN
    return allowed_NN


def _masked_bonds(inputs: EpochInputs) -> Array:
    registered_N = np.array(inputs.block_at_registration, dtype=np.int64)
    return dense(inputs.bonds) / U16_MAX * (registered_N <= inputs.last_epoch_block)


def _check_lengths(inputs: EpochInputs) -> None:
    num_uids = len(inputs.stake_rao)
    for name in (
        "weights",
        "bonds",
        "last_update",
        "block_at_registration",
        "commit_block",
        "validator_permit",
    ):
        if len(getattr(inputs, name)) != num_uids:
            raise ValueError(f"{name} must have one item per uid, as stake_rao has ({num_uids})")
    if inputs.owner_uid is not None and not 0 <= inputs.owner_uid < num_uids:
        raise ValueError(f"owner_uid {inputs.owner_uid} is not one of the {num_uids} uids")
