"""A subnet in the clients' form without uids: pool, price of entry, next epoch.

Source: subtensor, rpc_info/{dynamic_info,subnet_info}.rs.
"""

from typing import Any

from localnet.chain import schedule
from localnet.chain.pallets import networks, staking
from localnet.chain.schedule import ROOT_NETUID
from localnet.chain.state import State
from localnet.chain.views import names
from localnet.chain.views.hyperparameters import read_items

_POOL_ITEMS = {
    "network_registered_at": "NetworkRegisteredAt",
    "owner_hotkey": "SubnetOwnerHotkey",
    "owner_coldkey": "SubnetOwner",
    "last_step": "LastMechansimStepBlock",
    "alpha_in": "SubnetAlphaIn",
    "alpha_out": "SubnetAlphaOut",
    "tao_in": "SubnetTAO",
    "alpha_out_emission": "SubnetAlphaOutEmission",
    "alpha_in_emission": "SubnetAlphaInEmission",
    "tao_in_emission": "SubnetTaoInEmission",
    "subnet_volume": "SubnetVolume",
    "moving_price": "SubnetMovingPrice",
}
_INFO_ITEMS = {
    "rho": "Rho",
    "kappa": "Kappa",
    "difficulty": "Difficulty",
    "immunity_period": "ImmunityPeriod",
    "max_allowed_validators": "MaxAllowedValidators",
    "min_allowed_weights": "MinAllowedWeights",
    "max_weights_limit": "MaxWeightsLimit",
    "scaling_law_power": "ScalingLawPower",
    "subnetwork_n": "SubnetworkN",
    "max_allowed_uids": "MaxAllowedUids",
    "blocks_since_last_step": "BlocksSinceLastStep",
    "tempo": "Tempo",
    "burn": "Burn",
    "owner": "SubnetOwner",
}
_PENDING_ITEMS = ("PendingServerEmission", "PendingValidatorEmission")


def netuids(state: State) -> tuple[int, ...]:
    """Netuids of all subnets, including root, ascending."""
    return ROOT_NETUID, *schedule.subnets(state)


def pool_and_emission(state: State, netuid: int) -> dict[str, Any]:
    """The common fields of dynamic info and the metagraph."""
    values = read_items(state, netuid, _POOL_ITEMS)
    pending_rao = sum(int(state.subtensor.get(item, netuid)) for item in _PENDING_ITEMS)
    return {
        **values,
        "blocks_since_last_step": state.block_number - int(values["last_step"]),
        "pending_alpha_emission": pending_rao,
        "pending_root_emission": 0,
    }


def dynamic_info(state: State, netuid: int) -> dict[str, Any] | None:
    """SubnetInfoRuntimeApi.get_dynamic_info."""
    if not state.subtensor.get("NetworksAdded", netuid):
        return None
    return {
        **pool_and_emission(state, netuid),
        "netuid": netuid,
        "subnet_name": names.subnet_name(state, netuid),
        "token_symbol": names.subnet_symbol(state, netuid),
        "tempo": state.subtensor.get("Tempo", netuid),
        "emission": 0,
        "subnet_identity": names.subnet_identity(state, netuid),
    }


def all_dynamic_info(state: State) -> list[dict[str, Any] | None]:
    """SubnetInfoRuntimeApi.get_all_dynamic_info, root included."""
    return [dynamic_info(state, netuid) for netuid in netuids(state)]


def subnet_info(state: State, netuid: int) -> dict[str, Any] | None:
    """SubnetInfoRuntimeApi.get_subnet_info and, with the identity, get_subnet_info_v2."""
    if not state.subtensor.get("NetworksAdded", netuid):
        return None
    return {
        **read_items(state, netuid, _INFO_ITEMS),
        "netuid": netuid,
        "network_modality": 0,
        "network_connect": [],
        # The two shapes spell one deprecated field in two ways.
        "emission_values": 0,
        "emission_value": 0,
        "identity": names.subnet_identity(state, netuid),
    }


def subnets_info(state: State) -> list[dict[str, Any] | None]:
    """SubnetInfoRuntimeApi.get_subnets_info and get_subnets_info_v2, root included."""
    return [subnet_info(state, netuid) for netuid in netuids(state)]


def subnet_account(state: State, netuid: int) -> str | None:
    """SubnetInfoRuntimeApi.get_subnet_account_id: the account with the subnet's TAO."""
    exists = state.subtensor.get("NetworksAdded", netuid)
    return staking.subnet_account(netuid) if exists else None


def subnet_to_prune(state: State) -> None:
    """SubnetInfoRuntimeApi.get_subnet_to_prune: subnets are never removed here."""
    del state


def next_epoch_start_block(state: State, netuid: int) -> int | None:
    """SubnetInfoRuntimeApi.get_next_epoch_start_block; None without an epoch to come."""
    exists = state.subtensor.get("NetworksAdded", netuid) and netuid != ROOT_NETUID
    if not exists or state.subtensor.get("Tempo", netuid) == 0:
        return None
    return schedule.next_epoch_block(state, netuid)


def network_cost_rao(state: State) -> int:
    """SubnetRegistrationRuntimeApi.get_network_registration_cost."""
    return networks.cost_rao(state)
