"""Neurons in the clients' form, a record per uid, with or without weights and bonds."""

from typing import Any

from localnet.chain.config import U16_MAX
from localnet.chain.pallets import neurons, staking
from localnet.chain.state import State

_NO_PROMETHEUS = {"block": 0, "version": 0, "ip": 0, "port": 0, "ip_type": 0}
_NO_AXON = {**_NO_PROMETHEUS, "protocol": 0, "placeholder1": 0, "placeholder2": 0}
# Constants of the runtime since it dropped these scores.
_NO_LONGER_COMPUTED = {"rank": 0, "trust": 0, "pruning_score": U16_MAX}


def axon(state: State, netuid: int, hotkey: str) -> dict[str, int]:
    """The hotkey's published endpoint; all zeros without an endpoint, as in the runtime."""
    return state.subtensor.get("Axons", netuid, hotkey) or _NO_AXON


def neuron_lite(state: State, netuid: int, uid: int) -> dict[str, Any] | None:
    """NeuronInfoRuntimeApi.get_neuron_lite; `stake` is the alpha on the hotkey, unweighted."""
    if uid >= neurons.num_uids(state, netuid):
        return None
    storage = state.subtensor
    hotkey = storage.get("Keys", netuid, uid)
    coldkey = storage.get("Owner", hotkey)
    return {
        "hotkey": hotkey,
        "coldkey": coldkey,
        "uid": uid,
        "netuid": netuid,
        "axon_info": axon(state, netuid, hotkey),
        "prometheus_info": storage.get("Prometheus", netuid, hotkey) or _NO_PROMETHEUS,
        "stake": [(coldkey, staking.alpha_rao(state, netuid, hotkey))],
        **_NO_LONGER_COMPUTED,
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
    """NeuronInfoRuntimeApi.get_neuron: the lite record with weights and bonds above 0."""
    lite = neuron_lite(state, netuid, uid)
    if lite is None:
        return None
    rows = {"weights": "Weights", "bonds": "Bonds"}
    return {**lite, **{field: _row(state, item, netuid, uid) for field, item in rows.items()}}


def neurons_full(state: State, netuid: int) -> list[dict[str, Any] | None]:
    """NeuronInfoRuntimeApi.get_neurons."""
    return [neuron(state, netuid, uid) for uid in range(neurons.num_uids(state, netuid))]


def _row(state: State, item: str, netuid: int, uid: int) -> list[tuple[int, int]]:
    return [(dest, value) for dest, value in state.subtensor.get(item, netuid, uid) if value > 0]
