"""Stake: TAO into a subnet's alpha, alpha on hotkeys, and the stake weight of a hotkey.

Subnets run the runtime's *stable* mechanism (`SubnetMechanism` 0): one TAO buys one alpha,
without slippage or fee, and the TAO rests on the subnet's account. Subnets of the public
networks run the dynamic mechanism, a constant-product pool; no neuron's logic depends on
the price. Unstaking, nominators' shares of dividends and parent hotkeys are not modelled.
"""

from typing import Any

import bittensor_core

from template.localnet.chain.config import RAO_PER_TAO
from template.localnet.chain.metadata import SS58_FORMAT
from template.localnet.chain.pallets import balances
from template.localnet.chain.state import State

MIN_STAKE_RAO = 2_000_000
ALPHA_PRICE_RAO = RAO_PER_TAO
ROOT_NETUID = 0
_FIXED_ONE = 1 << 64
_PALLET = "SubtensorModule"


def subnet_account(netuid: int) -> str:
    """The account that holds a subnet's TAO: derived from the pallet id, nobody's key."""
    seed = b"modl" + b"subtensr" + netuid.to_bytes(2, "little")
    return str(bittensor_core.ss58_encode(seed.ljust(32, b"\0"), SS58_FORMAT))


def add_stake(state: State, origin: str, *, hotkey: str, netuid: int, amount_staked: int) -> None:
    """SubtensorModule.add_stake: the coldkey's TAO becomes alpha on the hotkey, 1 : 1."""
    if not state.subtensor.get("NetworksAdded", netuid):
        raise state.fail(_PALLET, "SubnetNotExists")
    if netuid != ROOT_NETUID and not state.subtensor.get("SubtokenEnabled", netuid):
        raise state.fail(_PALLET, "SubtokenDisabled")
    if not state.subtensor.contains("Owner", hotkey):
        raise state.fail(_PALLET, "HotKeyAccountNotExists")
    if amount_staked < MIN_STAKE_RAO:
        raise state.fail(_PALLET, "AmountTooLow")
    if balances.spendable_rao(state, origin) < amount_staked:
        raise state.fail(_PALLET, "NotEnoughBalanceToStake")
    balances.move(state, origin, subnet_account(netuid), amount_staked)
    state.subtensor.add("TotalStake", amount=amount_staked)
    create_alpha(state, netuid, amount_staked)
    credit_alpha(state, netuid, hotkey=hotkey, coldkey=origin, amount_rao=amount_staked)
    event = (origin, hotkey, amount_staked, amount_staked, netuid, 0)
    state.emit(_PALLET, "StakeAdded", event)


def add_stake_limit(
    state: State, origin: str, *, limit_price: int, allow_partial: bool, **stake: Any
) -> None:
    """SubtensorModule.add_stake_limit: `add_stake` if the price, always 1, is within the limit.

    A constant price fills all or nothing, so `allow_partial` changes nothing.
    """
    del allow_partial
    if limit_price < ALPHA_PRICE_RAO:
        raise state.fail(_PALLET, "SlippageTooHigh")
    add_stake(state, origin, **stake)


def associate(state: State, coldkey: str, hotkey: str) -> None:
    """Make `coldkey` the owner of a hotkey; NonAssociatedColdKey if another one is."""
    if not state.subtensor.contains("Owner", hotkey):
        state.subtensor.put("Owner", hotkey, value=coldkey)
        owned = state.subtensor.get("OwnedHotkeys", coldkey)
        state.subtensor.put("OwnedHotkeys", coldkey, value=[*owned, hotkey])
    elif state.subtensor.get("Owner", hotkey) != coldkey:
        raise state.fail(_PALLET, "NonAssociatedColdKey")


def create_alpha(state: State, netuid: int, amount_rao: int) -> None:
    """Bring new alpha of a subnet into being; who holds it is another step."""
    state.subtensor.add("SubnetAlphaOut", netuid, amount=amount_rao)
    state.alpha_assets.add("TotalAlphaIssuance", netuid, amount=amount_rao)


def credit_alpha(state: State, netuid: int, *, hotkey: str, coldkey: str, amount_rao: int) -> None:
    """Add alpha to the stake of a coldkey on a hotkey. One share is always one rao of alpha."""
    if amount_rao == 0:
        return
    storage = state.subtensor
    shares = storage.get("Alpha", hotkey, coldkey, netuid)["bits"] + amount_rao * _FIXED_ONE
    storage.put("Alpha", hotkey, coldkey, netuid, value={"bits": shares})
    total = storage.get("TotalHotkeyAlpha", hotkey, netuid) + amount_rao
    storage.put("TotalHotkeyAlpha", hotkey, netuid, value=total)
    storage.put("TotalHotkeyShares", hotkey, netuid, value={"bits": total * _FIXED_ONE})
    storage.add("TotalAlphaStaked", netuid, amount=amount_rao)
    staking = storage.get("StakingHotkeys", coldkey)
    if hotkey not in staking:
        storage.put("StakingHotkeys", coldkey, value=[*staking, hotkey])


def alpha_rao(state: State, netuid: int, hotkey: str) -> int:
    """All alpha staked to a hotkey on one subnet, by whomever."""
    return int(state.subtensor.get("TotalHotkeyAlpha", hotkey, netuid))


def coldkey_alpha_rao(state: State, netuid: int, hotkey: str, coldkey: str) -> int:
    return int(state.subtensor.get("Alpha", hotkey, coldkey, netuid)["bits"]) // _FIXED_ONE


def stake_weight_rao(state: State, netuid: int, hotkey: str) -> int:
    """What counts in consensus and votes: alpha plus root TAO times `TaoWeight`, floored."""
    root_rao = alpha_rao(state, ROOT_NETUID, hotkey)
    weighted = root_rao * int(state.subtensor.get("TaoWeight")) // _FIXED_ONE if root_rao else 0
    return alpha_rao(state, netuid, hotkey) + weighted
