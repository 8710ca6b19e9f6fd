"""Neurons as clients see them, one record per uid, with or without weights and bonds."""

from typing import Any

from template.localnet.chain.pallets import neurons, staking
from template.localnet.chain.state import State

NO_AXON = {
    "block": 0,
    "version": 0,
    "ip": 0,
    "port": 0,
    "ip_type": 4,
    "protocol": 4,
    "placeholder1": 0,
    "placeholder2": 0,
}
_NO_PROMETHEUS = {"block": 0, "version": 0, "ip": 0, "port": 0, "ip_type": 4}


def neuron_lite(state: State, netuid: int, uid: int) -> dict[str, Any] | None:
    """NeuronInfoRuntimeApi.get_neuron_lite."""
    if uid >= neurons.num_uids(state, netuid):
        return None
    storage = state.subtensor
    hotkey = storage.get("Keys", netuid, uid)
    coldkey = storage.get("Owner", hotkey)
    stake_rao = staking.stake_weight_rao(state, netuid, hotkey)
    return {
        "hotkey": hotkey,
        "coldkey": coldkey,
        "uid": uid,
        "netuid": netuid,
        "axon_info": NO_AXON,
        "prometheus_info": _NO_PROMETHEUS,
        "stake": [(coldkey, stake_rao)],
        "rank": 0,
        "trust": 0,
        "pruning_score": 0,
        "incentive": storage.get("Incentive", netuid)[uid],
        "active": storage.get("Active", netuid)[uid],
        "emission": storage.get("Emission", netuid)[uid],
        "consensus": storage.get("Consensus", netuid)[uid],
        "validator_trust": storage.get("ValidatorTrust", netuid)[uid],
        "dividends": storage.get("Dividends", netuid)[uid],
        "last_update": storage.get("LastUpdate", netuid)[uid],
        "validator_permit": storage.get("ValidatorPermit", netuid)[uid],
    }


def neurons_lite(state: State, netuid: int) -> list[dict[str, Any] | None]:
    """NeuronInfoRuntimeApi.get_neurons_lite."""
    uids = range(neurons.num_uids(state, netuid))
    return [neuron_lite(state, netuid, uid) for uid in uids]


def neuron(state: State, netuid: int, uid: int) -> dict[str, Any] | None:
    """NeuronInfoRuntimeApi.get_neuron: the lite record with weights and bonds."""
    lite = neuron_lite(state, netuid, uid)
    if lite is None:
        return None
    weights = state.subtensor.get("Weights", netuid, uid)
    return {**lite, "weights": weights, "bonds": state.subtensor.get("Bonds", netuid, uid)}


def neurons_full(state: State, netuid: int) -> list[dict[str, Any] | None]:
    """NeuronInfoRuntimeApi.get_neurons."""
    return [neuron(state, netuid, uid) for uid in range(neurons.num_uids(state, netuid))]
