"""The uids of a subnet: holders, and how a uid is appended, replaced or pruned.

Owns the per-uid vectors' length. `registration.py` owns prices, balances and permissions.
"""

from typing import Any

from localnet.chain.pallets import published
from localnet.chain.state import State

# Per-uid vectors of a subnet and what a new uid has in each.
_VECTORS: dict[str, Any] = {
    "Active": True,
    "Emission": 0,
    "Consensus": 0,
    "Incentive": 0,
    "Dividends": 0,
    "ValidatorTrust": 0,
    "ValidatorPermit": False,
    "StakeWeight": 0,
}


def num_uids(state: State, netuid: int) -> int:
    return int(state.subtensor.get("SubnetworkN", netuid))


def uid_of(state: State, netuid: int, hotkey: str) -> int | None:
    uid = state.subtensor.get("Uids", netuid, hotkey)
    return None if uid is None else int(uid)


def hotkeys(state: State, netuid: int) -> list[str]:
    """Hotkeys in uid order."""
    return [state.subtensor.get("Keys", netuid, uid) for uid in range(num_uids(state, netuid))]


def owner_uid(state: State, netuid: int) -> int | None:
    return uid_of(state, netuid, state.subtensor.get("SubnetOwnerHotkey", netuid))


def register(state: State, netuid: int, hotkey: str) -> int | None:
    """Give a hotkey the next free uid or a pruned uid; None without either."""
    uid = num_uids(state, netuid)
    if uid < state.subtensor.get("MaxAllowedUids", netuid):
        state.subtensor.put("SubnetworkN", netuid, value=uid + 1)
    else:
        pruned = uid_to_prune(state, netuid)
        if pruned is None:
            return None
        uid = pruned
        _forget(state, netuid, uid)
    _occupy(state, netuid, uid, hotkey)
    return uid


def uid_to_prune(state: State, netuid: int) -> int | None:
    """The uid with the least emission, the oldest first, outside `immortal_uids`.

    Uids outside immunity go first while more than `MinNonImmuneUids` of this kind exist;
    else immune uids go. None without a candidate. Source: subtensor,
    subnets/registration.rs `get_neuron_to_prune`.
    """
    immune: list[tuple[int, int, int]] = []
    mortal: list[tuple[int, int, int]] = []
    emission = state.subtensor.get("Emission", netuid)
    immunity_blocks = state.subtensor.get("ImmunityPeriod", netuid)
    immortal = immortal_uids(state, netuid)
    for uid in range(num_uids(state, netuid)):
        if uid in immortal:
            continue
        registered = state.subtensor.get("BlockAtRegistration", netuid, uid)
        is_immune = state.block_number - registered < immunity_blocks
        (immune if is_immune else mortal).append((emission[uid], registered, uid))
    if len(mortal) > state.subtensor.get("MinNonImmuneUids", netuid):
        return min(mortal)[2]
    return min(immune)[2] if immune else None


def immortal_uids(state: State, netuid: int) -> list[int]:
    """Uids of the owner's coldkey safe from pruning: `ImmuneOwnerUidsLimit` uids.

    The owner's hotkey comes first if not among the oldest. Source: subtensor,
    subnets/registration.rs `immune_owner_uid_hotkey_pairs`.
    """
    storage = state.subtensor
    owned = storage.get("OwnedHotkeys", storage.get("SubnetOwner", netuid))
    uids = [uid for hotkey in owned if (uid := uid_of(state, netuid, hotkey)) is not None]
    uids.sort(key=lambda uid: (storage.get("BlockAtRegistration", netuid, uid), uid))
    limit = int(storage.get("ImmuneOwnerUidsLimit", netuid))
    oldest = uids[:limit]
    owner = owner_uid(state, netuid)
    if owner is None or owner in oldest:
        return oldest
    return [owner, *oldest][:limit]


def _occupy(state: State, netuid: int, uid: int, hotkey: str) -> None:
    storage = state.subtensor
    for item, fresh in _VECTORS.items():
        _set_element(state, item, netuid, uid, fresh)
    _set_element(state, "LastUpdate", netuid, uid, state.block_number)
    storage.put("Keys", netuid, uid, value=hotkey)
    storage.put("Uids", netuid, hotkey, value=uid)
    storage.put("BlockAtRegistration", netuid, uid, value=state.block_number)
    storage.put("IsNetworkMember", hotkey, netuid, value=True)


def _forget(state: State, netuid: int, uid: int) -> None:
    """Remove the uid's holder with published records, weights, bonds and all weights on the uid.

    Bonds to the uid stay until the next epoch: an epoch ignores bonds to uids younger than the
    epoch before.
    """
    storage = state.subtensor
    hotkey = storage.get("Keys", netuid, uid)
    storage.remove("Uids", netuid, hotkey)
    storage.remove("IsNetworkMember", hotkey, netuid)
    published.forget(state, netuid, hotkey)
    storage.remove("Weights", netuid, uid)
    storage.remove("Bonds", netuid, uid)
    for other, row in storage.entries("Weights", netuid):
        if any(dest == uid for dest, _ in row):
            cleared = [(dest, 0 if dest == uid else weight) for dest, weight in row]
            storage.put("Weights", netuid, other, value=cleared)


def _set_element(state: State, item: str, netuid: int, uid: int, value: Any) -> None:
    vector = list(state.subtensor.get(item, netuid))
    vector += [0 if item == "LastUpdate" else _VECTORS[item]] * (uid + 1 - len(vector))
    vector[uid] = value
    state.subtensor.put(item, netuid, value=vector)


def set_last_update(state: State, netuid: int, uid: int) -> None:
    """Date the uid's weights to the open block."""
    _set_element(state, "LastUpdate", netuid, uid, state.block_number)
