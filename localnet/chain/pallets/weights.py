"""Setting weights in the clear, and the rules of a row, also valid for revealed weights.

Source: subtensor, subnets/weights.rs `internal_set_weights` and guards/, checks in their
order. Departures: a real node's pool refuses a call at once by the guards (stake, rate limit);
here the call fails in the block with the module's error. Only mechanism 0 exists. With
`commit_reveal` "modelled" a row is accepted in the clear and waits like a commit.
"""

from dataclasses import dataclass
from typing import Any

from localnet.chain.config import U16_MAX
from localnet.chain.pallets import neurons, staking, weight_commits
from localnet.chain.state import DispatchFailed, State

_PALLET = "SubtensorModule"
_FIXED_ONE = 1 << 32
_HALF_SCALE = 32_768


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightRow:
    """A validator's weights on the uids `dests`: a u16 each, as given by the caller."""

    netuid: int
    dests: list[int]
    weights: list[int]
    version_key: int


def set_weights(
    state: State,
    origin: str,
    *,
    netuid: int,
    dests: list[int],
    weights: list[int],
    version_key: int,
) -> None:
    """SubtensorModule.set_weights, signed by the weights' hotkey."""
    row = WeightRow(netuid=netuid, dests=dests, weights=weights, version_key=version_key)
    check_stake(state, netuid, origin)
    if not state.subtensor.get("CommitRevealWeightsEnabled", netuid):
        check_rate(state, netuid, origin, "SettingWeightsTooFast")
    _set_plain(state, origin, row)


def set_mechanism_weights(state: State, origin: str, *, mecid: int, **row: Any) -> None:
    """SubtensorModule.set_mechanism_weights: `set_weights`; only mechanism 0 exists here."""
    check_mechanism(state, mecid)
    set_weights(state, origin, **row)


def batch_set_weights(
    state: State,
    origin: str,
    *,
    netuids: list[int],
    weights: list[list[tuple[int, int]]],
    version_keys: list[int],
) -> None:
    """SubtensorModule.batch_set_weights: a row per subnet; a bad row does not stop the rest."""
    if not len(netuids) == len(weights) == len(version_keys):
        raise state.fail(_PALLET, "InputLengthsUnequal")
    for netuid in netuids:
        check_stake(state, netuid, origin)
    failures = []
    for netuid, pairs, version_key in zip(netuids, weights, version_keys, strict=True):
        dests, values = [dest for dest, _ in pairs], [value for _, value in pairs]
        row = WeightRow(netuid=netuid, dests=dests, weights=values, version_key=version_key)
        try:
            _set_plain(state, origin, row)
        except DispatchFailed as failed:
            failures.append((netuid, failed.dispatch_error))
    if failures:
        state.emit(_PALLET, "BatchCompletedWithErrors", None)
    for failure in failures:
        state.emit(_PALLET, "BatchWeightItemFailed", failure)
    state.emit(_PALLET, "BatchWeightsCompleted", (netuids, origin))


def _set_plain(state: State, origin: str, row: WeightRow) -> None:
    """Set or, if commits are modelled, queue a row; all checks come before any write."""
    if state.subtensor.get("CommitRevealWeightsEnabled", row.netuid):
        raise state.fail(_PALLET, "CommitRevealEnabled")
    uid, upscaled = _checked(state, origin, row, is_reveal=False)
    if state.defaults.commit_reveal == "modelled":
        weight_commits.add_modelled(
            state,
            row.netuid,
            hotkey=origin,
            row=(row.dests, row.weights, row.version_key),
        )
    else:
        _store(state, row, uid, upscaled)
    neurons.set_last_update(state, row.netuid, uid)


def set_revealed(state: State, hotkey: str, row: WeightRow) -> None:
    """Set a row whose commit was accepted before: no rate limit, and `LastUpdate` stays there."""
    uid, upscaled = _checked(state, hotkey, row, is_reveal=True)
    _store(state, row, uid, upscaled)


def check_mechanism(state: State, mecid: int) -> None:
    if mecid != 0:
        raise state.fail(_PALLET, "MechanismDoesNotExist")


def check_stake(state: State, netuid: int, hotkey: str) -> None:
    if staking.stake_weight_rao(state, netuid, hotkey) < state.subtensor.get("StakeThreshold"):
        raise state.fail(_PALLET, "NotEnoughStakeToSetWeights")


def check_rate(state: State, netuid: int, hotkey: str, error: str) -> None:
    """Fail with `error` if a registered hotkey's last update is too recent; 0 stands for never."""
    uid = neurons.uid_of(state, netuid, hotkey)
    if uid is None:
        return
    last_update = state.subtensor.get("LastUpdate", netuid)[uid]
    elapsed = state.block_number - last_update
    if last_update and elapsed < state.subtensor.get("WeightsSetRateLimit", netuid):
        raise state.fail(_PALLET, error)


def _checked(
    state: State, hotkey: str, row: WeightRow, *, is_reveal: bool
) -> tuple[int, list[int]]:
    """(the setter's uid, the row max-upscaled to u16); raises on a bad row."""
    if row.netuid == staking.ROOT_NETUID:
        raise state.fail(_PALLET, "CanNotSetRootNetworkWeights")
    if len(row.dests) != len(row.weights):
        raise state.fail(_PALLET, "WeightVecNotEqualSize")
    if not state.subtensor.get("NetworksAdded", row.netuid):
        raise state.fail(_PALLET, "MechanismDoesNotExist")
    if len(row.dests) > neurons.num_uids(state, row.netuid):
        raise state.fail(_PALLET, "UidsLengthExceedUidsInSubNet")
    uid = neurons.uid_of(state, row.netuid, hotkey)
    if uid is None:
        raise state.fail(_PALLET, "HotKeyNotRegisteredInSubNet")
    check_stake(state, row.netuid, hotkey)
    if row.version_key < state.subtensor.get("WeightsVersionKey", row.netuid):
        raise state.fail(_PALLET, "IncorrectWeightVersionKey")
    if not is_reveal:
        check_rate(state, row.netuid, hotkey, "SettingWeightsTooFast")
    is_self_weight = row.dests == [uid]
    if not is_self_weight:
        _check_permit(state, row.netuid, uid)
    return uid, _check_values(state, row, is_self_weight)


def _check_permit(state: State, netuid: int, uid: int) -> None:
    if uid == neurons.owner_uid(state, netuid):
        return
    if not state.subtensor.get("ValidatorPermit", netuid)[uid]:
        raise state.fail(_PALLET, "NeuronNoValidatorPermit")


def _check_values(state: State, row: WeightRow, is_self_weight: bool) -> list[int]:
    """The row's weights max-upscaled to u16; raises on bad weights."""
    if len(set(row.dests)) != len(row.dests):
        raise state.fail(_PALLET, "DuplicateUids")
    num_uids = neurons.num_uids(state, row.netuid)
    if any(dest >= num_uids for dest in row.dests):
        raise state.fail(_PALLET, "UidVecContainInvalidOne")
    min_length = min(num_uids, state.subtensor.get("MinAllowedWeights", row.netuid))
    if not is_self_weight and len(row.weights) < min_length:
        raise state.fail(_PALLET, "WeightVecLengthIsLow")
    upscaled = max_upscale(row.weights)
    if not is_self_weight and _is_too_heavy(
        upscaled, state.subtensor.get("MaxWeightsLimit", row.netuid)
    ):
        raise state.fail(_PALLET, "MaxWeightExceeded")
    return upscaled


def _is_too_heavy(weights: list[int], limit: int) -> bool:
    """Whether the largest share of the row exceeds limit/65535, both truncated as on chain."""
    if limit == U16_MAX or not any(weights):
        return False
    return max(weights) * _FIXED_ONE // sum(weights) > limit * _FIXED_ONE // U16_MAX


def _store(state: State, row: WeightRow, uid: int, upscaled: list[int]) -> None:
    value = list(zip(row.dests, upscaled, strict=True))
    state.subtensor.put("Weights", row.netuid, uid, value=value)
    state.emit(_PALLET, "WeightsSet", (row.netuid, uid))


def max_upscale(weights: list[int]) -> list[int]:
    """Scale the largest weight to 65535, rounded to nearest; zeros stay zeros.

    In the chain's 32.32 fixed point: the factor is truncated first if the largest is above
    half, and an exact half then rounds down.
    """
    largest = max(weights, default=0)
    if largest == 0:
        return weights
    if largest > _HALF_SCALE:
        factor = U16_MAX * _FIXED_ONE // largest
        scaled = [weight * factor for weight in weights]
    else:
        scaled = [weight * U16_MAX * _FIXED_ONE // largest for weight in weights]
    return [(value + _FIXED_ONE // 2) // _FIXED_ONE for value in scaled]
