"""Setting weights in the clear.

Source: subtensor, subnets/weights.rs `internal_set_weights`; checks in its order.
Commit-reveal needs a drand beacon and is not offered: subnets are created without it.
"""

from typing import Any

from template.localnet.chain.config import U16_MAX
from template.localnet.chain.pallets import neurons, staking
from template.localnet.chain.state import State

_PALLET = "SubtensorModule"


def set_weights(
    state: State,
    origin: str,
    *,
    netuid: int,
    dests: list[int],
    weights: list[int],
    version_key: int,
) -> None:
    """SubtensorModule.set_weights, signed by the hotkey whose weights these are."""
    if netuid == staking.ROOT_NETUID:
        raise state.fail(_PALLET, "CanNotSetRootNetworkWeights")
    if len(dests) != len(weights):
        raise state.fail(_PALLET, "WeightVecNotEqualSize")
    if not state.subtensor.get("NetworksAdded", netuid):
        raise state.fail(_PALLET, "MechanismDoesNotExist")
    if len(dests) > neurons.num_uids(state, netuid):
        raise state.fail(_PALLET, "UidsLengthExceedUidsInSubNet")
    uid = neurons.uid_of(state, netuid, origin)
    if uid is None:
        raise state.fail(_PALLET, "HotKeyNotRegisteredInSubNet")
    _check_setter(state, netuid, uid, origin, version_key)
    is_self_weight = dests == [uid]
    if not is_self_weight:
        _check_permit(state, netuid, uid)
    upscaled = _check_row(state, netuid, dests, weights, is_self_weight)
    state.subtensor.put("Weights", netuid, uid, value=list(zip(dests, upscaled, strict=True)))
    neurons.set_last_update(state, netuid, uid)
    state.emit(_PALLET, "WeightsSet", (netuid, uid))


def set_mechanism_weights(state: State, origin: str, *, mecid: int, **row: Any) -> None:
    """SubtensorModule.set_mechanism_weights: `set_weights`; mechanism 0 is the only one here."""
    if mecid != 0:
        raise state.fail(_PALLET, "MechanismDoesNotExist")
    set_weights(state, origin, **row)


def _check_setter(state: State, netuid: int, uid: int, hotkey: str, version_key: int) -> None:
    storage = state.subtensor
    if staking.stake_weight_rao(state, netuid, hotkey) < storage.get("StakeThreshold"):
        raise state.fail(_PALLET, "NotEnoughStakeToSetWeights")
    if version_key < storage.get("WeightsVersionKey", netuid):
        raise state.fail(_PALLET, "IncorrectWeightVersionKey")
    last_update = storage.get("LastUpdate", netuid)[uid]
    elapsed = state.block_number - last_update
    if last_update and elapsed < storage.get("WeightsSetRateLimit", netuid):
        raise state.fail(_PALLET, "SettingWeightsTooFast")


def _check_permit(state: State, netuid: int, uid: int) -> None:
    if uid == neurons.owner_uid(state, netuid):
        return
    if not state.subtensor.get("ValidatorPermit", netuid)[uid]:
        raise state.fail(_PALLET, "NeuronNoValidatorPermit")


def _check_row(
    state: State, netuid: int, dests: list[int], weights: list[int], is_self_weight: bool
) -> list[int]:
    """The row max-upscaled to u16, or the error that it deserves."""
    if len(set(dests)) != len(dests):
        raise state.fail(_PALLET, "DuplicateUids")
    num_uids = neurons.num_uids(state, netuid)
    if any(dest >= num_uids for dest in dests):
        raise state.fail(_PALLET, "UidVecContainInvalidOne")
    min_length = min(num_uids, state.subtensor.get("MinAllowedWeights", netuid))
    if not is_self_weight and len(weights) < min_length:
        raise state.fail(_PALLET, "WeightVecLengthIsLow")
    upscaled = _max_upscale(weights)
    limit = state.subtensor.get("MaxWeightsLimit", netuid)
    too_heavy = limit < U16_MAX and max(upscaled, default=0) * U16_MAX > limit * sum(upscaled)
    if not is_self_weight and too_heavy:
        raise state.fail(_PALLET, "MaxWeightExceeded")
    return upscaled


def _max_upscale(weights: list[int]) -> list[int]:
    """Scale so that the largest is 65535, rounded to nearest; zeros stay zeros."""
    largest = max(weights, default=0)
    if largest == 0:
        return weights
    return [(weight * U16_MAX * 2 + largest) // (2 * largest) for weight in weights]
