"""A hotkey's published records on a subnet, removed together with the uid.

Source: subtensor, subnets/uids.rs `replace_neuron` and pallets/commitments `purge_neuron`. Owns
the index of timelocked commitments, a single value for the whole chain.
"""

import bittensor_core

from localnet.chain.state import State

_ENDPOINTS = ("Axons", "NeuronCertificates", "Prometheus")
_COMMITMENTS = (
    "CommitmentOf",
    "LastBondsReset",
    "LastCommitment",
    "RevealedCommitments",
    "UsedSpaceOf",
)


def forget(state: State, netuid: int, hotkey: str) -> None:
    """Remove the endpoints and the commitments of a hotkey losing the uid."""
    for item in _ENDPOINTS:
        state.subtensor.remove(item, netuid, hotkey)
    for item in _COMMITMENTS:
        state.commitments.remove(item, netuid, hotkey)
    if (netuid, hotkey) in timelocked(state):
        index(state, netuid, hotkey, is_locked=False)


def timelocked(state: State) -> list[tuple[int, str]]:
    """(netuid, hotkey) of every commitment with a locked field, in order."""
    return [(int(netuid), str(who)) for netuid, who in state.commitments.get("TimelockedIndex")]


def index(state: State, netuid: int, hotkey: str, *, is_locked: bool) -> None:
    """Put a commitment into the index or remove the commitment."""
    entries = set(timelocked(state)) - {(netuid, hotkey)}
    if is_locked:
        entries.add((netuid, hotkey))
    # A BTreeSet is in the order of its keys.
    ordered = sorted(entries, key=lambda e: (e[0], bytes(bittensor_core.ss58_decode(e[1]))))
    state.commitments.put("TimelockedIndex", value=[ordered])
