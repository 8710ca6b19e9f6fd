"""Delegates: hotkeys with other coldkeys' stake, the stakes, and the pay.

Source: subtensor, rpc_info/delegate_info.rs. Delegates are the keys of the `Delegates` item.
"""

from typing import Any

from localnet.chain.config import RAO_PER_TAO, U16_MAX
from localnet.chain.pallets import neurons, staking
from localnet.chain.state import State
from localnet.chain.views import subnets

_BLOCKS_PER_DAY = 7200
"""Blocks of 12 s at every pace of this chain, as the runtime assumes."""


def delegate(state: State, hotkey: str) -> dict[str, Any] | None:
    """DelegateInfoRuntimeApi.get_delegate."""
    if not state.subtensor.contains("Delegates", hotkey):
        return None
    return {**_delegate(state, hotkey), "nominators": _nominators(state, hotkey)}


def delegates(state: State) -> list[dict[str, Any] | None]:
    """DelegateInfoRuntimeApi.get_delegates."""
    return [delegate(state, hotkey) for hotkey, _ in state.subtensor.entries("Delegates")]


def delegated(state: State, coldkey: str) -> list[tuple[dict[str, Any], tuple[int, int]]]:
    """DelegateInfoRuntimeApi.get_delegated: (delegate, (netuid, alpha)) for each stake of one
    coldkey; nominators are left out."""
    found = []
    for hotkey, _ in state.subtensor.entries("Delegates"):
        info = {**_delegate(state, hotkey), "nominators": []}
        for netuid in subnets.netuids(state):
            rao = staking.coldkey_alpha_rao(state, netuid, hotkey, coldkey)
            if rao:
                found.append((info, (netuid, rao)))
    return found


def _delegate(state: State, hotkey: str) -> dict[str, Any]:
    uids = {netuid: neurons.uid_of(state, netuid, hotkey) for netuid in subnets.netuids(state)}
    registered = {netuid: uid for netuid, uid in uids.items() if uid is not None}
    permits = [n for n, u in registered.items() if state.subtensor.get("ValidatorPermit", n)[u]]
    daily_rao = sum(_daily_rao(state, netuid, uid) for netuid, uid in registered.items())
    take = int(state.subtensor.get("Delegates", hotkey))
    root_rao = staking.alpha_rao(state, staking.ROOT_NETUID, hotkey)
    kept_rao = daily_rao * (U16_MAX - take) // U16_MAX
    return {
        "delegate_ss58": hotkey,
        "take": take,
        "owner_ss58": state.subtensor.get("Owner", hotkey),
        "registrations": list(registered),
        "validator_permits": permits,
        "return_per_1000": kept_rao * 1000 * RAO_PER_TAO // root_rao if root_rao else 0,
        "total_daily_return": daily_rao,
    }


def _daily_rao(state: State, netuid: int, uid: int) -> int:
    """A uid's pay per day if each epoch pays like the last epoch."""
    tempo = int(state.subtensor.get("Tempo", netuid))
    emission_rao = int(state.subtensor.get("Emission", netuid)[uid])
    return emission_rao * _BLOCKS_PER_DAY // tempo if tempo else 0


def _nominators(state: State, hotkey: str) -> list[tuple[str, list[tuple[int, int]]]]:
    """Every coldkey with stake on the hotkey, and the alpha by netuid."""
    stakes: dict[str, list[tuple[int, int]]] = {}
    for (coldkey, netuid), _ in state.subtensor.entries("Alpha", hotkey):
        rao = staking.coldkey_alpha_rao(state, netuid, hotkey, coldkey)
        if rao:
            stakes.setdefault(coldkey, []).append((netuid, rao))
    return sorted(stakes.items())
