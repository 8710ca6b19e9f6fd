"""A subnet as clients see it: metagraph, hyperparameters, dynamic info, next epoch."""

from typing import Any

from template.localnet.chain import epoch
from template.localnet.chain.pallets import neurons, staking
from template.localnet.chain.state import State
from template.localnet.chain.views.neurons import NO_AXON

_NAME = b"local"
# Metagraph and hyperparameter fields that are one storage item under another name.
_HYPERPARAMETERS = {
    "rho": "Rho",
    "kappa": "Kappa",
    "immunity_period": "ImmunityPeriod",
    "min_allowed_weights": "MinAllowedWeights",
    "max_weights_limit": "MaxWeightsLimit",
    "tempo": "Tempo",
    "min_difficulty": "MinDifficulty",
    "max_difficulty": "MaxDifficulty",
    "difficulty": "Difficulty",
    "weights_version": "WeightsVersionKey",
    "weights_rate_limit": "WeightsSetRateLimit",
    "adjustment_interval": "AdjustmentInterval",
    "adjustment_alpha": "AdjustmentAlpha",
    "registration_allowed": "NetworkRegistrationAllowed",
    "target_regs_per_interval": "TargetRegistrationsPerInterval",
    "max_regs_per_block": "MaxRegistrationsPerBlock",
    "min_burn": "MinBurn",
    "max_burn": "MaxBurn",
    "bonds_moving_avg": "BondsMovingAverage",
    "serving_rate_limit": "ServingRateLimit",
    "max_validators": "MaxAllowedValidators",
    "commit_reveal_period": "RevealPeriodEpochs",
    "commit_reveal_weights_enabled": "CommitRevealWeightsEnabled",
    "liquid_alpha_enabled": "LiquidAlphaOn",
}
_SUBNET_FIELDS = {
    "network_registered_at": "NetworkRegisteredAt",
    "owner_hotkey": "SubnetOwnerHotkey",
    "owner_coldkey": "SubnetOwner",
    "last_step": "LastMechansimStepBlock",
    "blocks_since_last_step": "BlocksSinceLastStep",
    "alpha_in": "SubnetAlphaIn",
    "alpha_out": "SubnetAlphaOut",
    "tao_in": "SubnetTAO",
    "alpha_out_emission": "SubnetAlphaOutEmission",
    "alpha_in_emission": "SubnetAlphaInEmission",
    "tao_in_emission": "SubnetTaoInEmission",
    "subnet_volume": "SubnetVolume",
    "moving_price": "SubnetMovingPrice",
}
_METAGRAPH_ONLY = {
    "num_uids": "SubnetworkN",
    "max_uids": "MaxAllowedUids",
    "burn": "Burn",
    "pow_registration_allowed": "NetworkPowRegistrationAllowed",
}
_UID_VECTORS = {
    "active": "Active",
    "validator_permit": "ValidatorPermit",
    "last_update": "LastUpdate",
    "emission": "Emission",
    "dividends": "Dividends",
    "incentives": "Incentive",
    "consensus": "Consensus",
}


def metagraph(state: State, netuid: int) -> dict[str, Any] | None:
    """SubnetInfoRuntimeApi.get_metagraph. `rank`, `trust` and `pruning_score` are empty, as
    the runtime no longer computes them."""
    if not state.subtensor.get("NetworksAdded", netuid):
        return None
    return {
        **_hyperparameter_values(state, netuid),
        **_read(state, netuid, _METAGRAPH_ONLY),
        **_subnet_values(state, netuid),
        **_read(state, netuid, _UID_VECTORS),
        **_uid_columns(state, netuid),
        "netuid": netuid,
        "name": list(_NAME),
        "symbol": list(_symbol(state, netuid)),
        "identity": None,
        "block": state.block_number,
        "subnet_emission": 0,
        "pending_alpha_emission": _pending_rao(state, netuid),
        "pending_root_emission": 0,
        "pruning_score": [],
        "trust": [],
        "rank": [],
        "tao_dividends_per_hotkey": [],
        "alpha_dividends_per_hotkey": [],
    }


def _uid_columns(state: State, netuid: int) -> dict[str, list[Any]]:
    hotkeys = neurons.hotkeys(state, netuid)
    registered = [
        state.subtensor.get("BlockAtRegistration", netuid, uid) for uid in range(len(hotkeys))
    ]
    alpha_rao = [staking.alpha_rao(state, netuid, hotkey) for hotkey in hotkeys]
    total_rao = [staking.stake_weight_rao(state, netuid, hotkey) for hotkey in hotkeys]
    nothing = [0] * len(hotkeys)
    return {
        "hotkeys": hotkeys,
        "coldkeys": [state.subtensor.get("Owner", hotkey) for hotkey in hotkeys],
        "identities": [None] * len(hotkeys),
        "axons": [NO_AXON] * len(hotkeys),
        "block_at_registration": registered,
        "alpha_stake": alpha_rao,
        "tao_stake": [t - a for t, a in zip(total_rao, alpha_rao, strict=True)],
        "total_stake": total_rao,
        "collateral_locked": nothing,
        "collateral_min": nothing,
        "collateral_earned": nothing,
    }


def mechagraph(state: State, netuid: int, mecid: int) -> dict[str, Any] | None:
    """SubnetInfoRuntimeApi.get_mechagraph: mechanism 0 is the subnet itself, no other exists."""
    return metagraph(state, netuid) if mecid == 0 else None


def hyperparameters(state: State, netuid: int) -> dict[str, Any] | None:
    """SubnetInfoRuntimeApi.get_subnet_hyperparams."""
    if not state.subtensor.get("NetworksAdded", netuid):
        return None
    return _hyperparameter_values(state, netuid)


def hyperparameter_entries(state: State, netuid: int) -> list[dict[str, Any]] | None:
    """SubnetInfoRuntimeApi.get_subnet_hyperparams_v3: name and tagged value, as bytes and enum."""
    if not state.subtensor.get("NetworksAdded", netuid):
        return None
    values = _hyperparameter_values(state, netuid)
    return [{"name": name.encode(), "value": _tagged(name, v)} for name, v in values.items()]


def _tagged(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"Bool": value}
    return {"TaoBalance" if name.endswith("_burn") else "U64": value}


def dynamic_info(state: State, netuid: int) -> dict[str, Any] | None:
    """SubnetInfoRuntimeApi.get_dynamic_info."""
    if not state.subtensor.get("NetworksAdded", netuid):
        return None
    return {
        **_subnet_values(state, netuid),
        "netuid": netuid,
        "subnet_name": list(_NAME),
        "token_symbol": list(_symbol(state, netuid)),
        "tempo": state.subtensor.get("Tempo", netuid),
        "emission": 0,
        "pending_alpha_emission": _pending_rao(state, netuid),
        "pending_root_emission": 0,
        "subnet_identity": None,
    }


def all_dynamic_info(state: State) -> list[dict[str, Any] | None]:
    """SubnetInfoRuntimeApi.get_all_dynamic_info, root included."""
    return [dynamic_info(state, netuid) for netuid in (staking.ROOT_NETUID, *epoch.subnets(state))]


def next_epoch_start_block(state: State, netuid: int) -> int | None:
    """SubnetInfoRuntimeApi.get_next_epoch_start_block; None if there is no such subnet."""
    if not state.subtensor.get("NetworksAdded", netuid) or netuid == staking.ROOT_NETUID:
        return None
    return epoch.next_epoch_block(state, netuid)


def network_cost_rao(state: State) -> int:
    """SubnetRegistrationRuntimeApi.get_network_registration_cost."""
    return state.defaults.network_cost_rao


def _hyperparameter_values(state: State, netuid: int) -> dict[str, Any]:
    alpha_low, alpha_high = state.subtensor.get("AlphaValues", netuid)
    values = _read(state, netuid, _HYPERPARAMETERS)
    cutoff = epoch.activity_cutoff_blocks(state, netuid)
    return {**values, "activity_cutoff": cutoff, "alpha_low": alpha_low, "alpha_high": alpha_high}


def _subnet_values(state: State, netuid: int) -> dict[str, Any]:
    return _read(state, netuid, _SUBNET_FIELDS)


def _read(state: State, netuid: int, fields: dict[str, str]) -> dict[str, Any]:
    return {field: state.subtensor.get(item, netuid) for field, item in fields.items()}


def _symbol(state: State, netuid: int) -> bytes:
    return str(state.subtensor.get("TokenSymbol", netuid)).encode()


def _pending_rao(state: State, netuid: int) -> int:
    items = ("PendingServerEmission", "PendingValidatorEmission", "PendingOwnerCut")
    return sum(int(state.subtensor.get(item, netuid)) for item in items)
