"""Metagraphs: everything of a subnet and its uids in one record, whole or in part.

Source: subtensor, rpc_info/{metagraph,show_subnet}.rs. `rank`, `trust` and `pruning_score`
are empty, as the runtime no longer computes them; there is no collateral here.
"""

from functools import lru_cache
from typing import Any

from localnet.chain.metadata import ChainMetadata
from localnet.chain.pallets import neurons, staking
from localnet.chain.state import State
from localnet.chain.views import hyperparameters, names, subnets
from localnet.chain.views.neurons import axon

_SUBNET_ITEMS = {
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
_NO_LONGER_COMPUTED: dict[str, list[int]] = {"pruning_score": [], "trust": [], "rank": []}


def metagraph(state: State, netuid: int) -> dict[str, Any] | None:
    """SubnetInfoRuntimeApi.get_metagraph."""
    if not state.subtensor.get("NetworksAdded", netuid):
        return None
    return {
        **hyperparameters.values(state, netuid),
        **hyperparameters.read_items(state, netuid, _SUBNET_ITEMS),
        **subnets.pool_and_emission(state, netuid),
        **_uid_columns(state, netuid),
        **_owners_and_dividends(state, netuid),
        "netuid": netuid,
        "name": names.subnet_name(state, netuid),
        "symbol": names.subnet_symbol(state, netuid),
        "identity": names.subnet_identity(state, netuid),
        "block": state.block_number,
        "subnet_emission": 0,
    }


def all_metagraphs(state: State) -> list[dict[str, Any] | None]:
    """SubnetInfoRuntimeApi.get_all_metagraphs and get_all_mechagraphs, root included."""
    return [metagraph(state, netuid) for netuid in subnets.netuids(state)]


def mechagraph(state: State, netuid: int, mecid: int) -> dict[str, Any] | None:
    """SubnetInfoRuntimeApi.get_mechagraph: mechanism 0 is the subnet itself, no other exists."""
    return metagraph(state, netuid) if mecid == 0 else None


def subnet_state(state: State, netuid: int) -> dict[str, Any] | None:
    """SubnetInfoRuntimeApi.get_subnet_state: the uids' columns alone, and who earned what where."""
    if not state.subtensor.get("NetworksAdded", netuid):
        return None
    columns = _uid_columns(state, netuid)
    history = [
        [
            state.subtensor.get("LastHotkeyEmissionOnNetuid", hotkey, n)
            for hotkey in columns["hotkeys"]
        ]
        for n in subnets.netuids(state)
    ]
    return {**columns, "netuid": netuid, "emission_history": history}


def selective_metagraph(state: State, netuid: int, indexes: list[int]) -> dict[str, Any] | None:
    """SubnetInfoRuntimeApi.get_selective_metagraph: the fields of these indexes, None elsewhere.

    An index past the last is ignored. One departure: a subnet without identity reads as
    None where the runtime says Some(None), which the codec cannot write.
    """
    graph = metagraph(state, netuid)
    if graph is None:
        return None
    fields = _selective_fields(state.metadata)
    graph["validators"] = _validators(state, netuid, graph)
    graph["commitments"] = _commitments(state, netuid)
    wanted = {fields[index] for index in indexes if index < len(fields)}
    return {field: _some(graph[field] if field in wanted else None) for field in fields} | {
        "netuid": netuid
    }


def selective_mechagraph(
    state: State, netuid: int, mecid: int, indexes: list[int]
) -> dict[str, Any] | None:
    """SubnetInfoRuntimeApi.get_selective_mechagraph."""
    return selective_metagraph(state, netuid, indexes) if mecid == 0 else None


def _uid_columns(state: State, netuid: int) -> dict[str, list[Any]]:
    """Keys, scores and stakes by uid. `tao_stake` is root stake as it is, `total_stake` counts
    it by `TaoWeight`."""
    hotkeys = neurons.hotkeys(state, netuid)
    storage = state.subtensor
    return {
        **hyperparameters.read_items(state, netuid, _UID_VECTORS),
        **_NO_LONGER_COMPUTED,
        "hotkeys": hotkeys,
        "coldkeys": [storage.get("Owner", hotkey) for hotkey in hotkeys],
        "block_at_registration": [
            storage.get("BlockAtRegistration", netuid, uid) for uid in range(len(hotkeys))
        ],
        "alpha_stake": [staking.alpha_rao(state, netuid, hotkey) for hotkey in hotkeys],
        "tao_stake": [staking.alpha_rao(state, staking.ROOT_NETUID, key) for key in hotkeys],
        "total_stake": [staking.stake_weight_rao(state, netuid, hotkey) for hotkey in hotkeys],
    }


def _owners_and_dividends(state: State, netuid: int) -> dict[str, list[Any]]:
    """What the metagraph says of each uid beyond the columns."""
    hotkeys = neurons.hotkeys(state, netuid)
    storage = state.subtensor
    coldkeys = [storage.get("Owner", hotkey) for hotkey in hotkeys]
    nothing = [0] * len(hotkeys)
    return {
        "identities": [names.coldkey_identity(state, coldkey) for coldkey in coldkeys],
        "axons": [axon(state, netuid, hotkey) for hotkey in hotkeys],
        "tao_dividends_per_hotkey": [(hotkey, 0) for hotkey in hotkeys],
        "alpha_dividends_per_hotkey": [
            (hotkey, storage.get("AlphaDividendsPerSubnet", netuid, hotkey)) for hotkey in hotkeys
        ],
        "collateral_locked": nothing,
        "collateral_min": nothing,
        "collateral_earned": nothing,
    }


def _some(value: Any) -> Any:
    """An optional value as the codec reads it right: of a list in a list it takes the inner one,
    which a list with one pair in it would be."""
    return [value] if isinstance(value, list) else value


@lru_cache(maxsize=1)
def _selective_fields(metadata: ChainMetadata) -> tuple[str, ...]:
    """Fields of the selective metagraph; a client asks for one by its index in this order."""
    paths = {
        tuple(entry["type"].get("path", ()))[-1:]: entry
        for entry in metadata.codec.registry_types()
    }
    definition = paths[("SelectiveMetagraph",)]["type"]["def"]
    return tuple(field["name"] for field in definition["composite"]["fields"])


def _validators(state: State, netuid: int, graph: dict[str, Any]) -> list[int]:
    """Uids with a permit and more than `StakeThreshold` of stake, least stake first."""
    threshold_rao = state.subtensor.get("StakeThreshold")
    stake_rao = graph["total_stake"]
    permitted = [uid for uid, permit in enumerate(graph["validator_permit"]) if permit]
    staked = [uid for uid in permitted if stake_rao[uid] > threshold_rao]
    return sorted(staked, key=lambda uid: stake_rao[uid])


def _commitments(state: State, netuid: int) -> list[tuple[str, list[int]]]:
    """(hotkey, SCALE bytes of its registration record) of every commitment on the subnet."""
    value_type = state.metadata.entry("Commitments", "CommitmentOf").value_type
    encode = state.metadata.codec.encode
    records = state.commitments.entries("CommitmentOf", netuid)
    return [(hotkey, list(bytes(encode(value_type, record)))) for hotkey, record in records]
