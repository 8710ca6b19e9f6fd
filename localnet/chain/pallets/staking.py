"""Stake: TAO into a subnet's alpha, alpha on hotkeys, and the stake weight of a hotkey.

Subnets run the runtime's *stable* mechanism (`SubnetMechanism` 0): one TAO buys one alpha,
without slippage or fee, and the TAO rests on the subnet's account. Subnets of the public
networks run the dynamic mechanism, a constant-product pool; no neuron's logic depends on
the price. `unstaking.py` has the way back, `moving.py` moves between positions. Source:
subtensor, staking/{add_stake,account}.rs and staking/stake_utils. Not modelled: nominators'
shares of dividends, parent hotkeys, locks and collateral.
"""

from dataclasses import dataclass
from typing import Any

import bittensor_core

from localnet.chain.config import RAO_PER_TAO
from localnet.chain.metadata import SS58_FORMAT
from localnet.chain.pallets import balances
from localnet.chain.state import State

MIN_STAKE_RAO = 2_000_000
ALPHA_PRICE_RAO = RAO_PER_TAO
ROOT_NETUID = 0
_FIXED_ONE = 1 << 64
_PALLET = "SubtensorModule"
_ACCOUNT_PREFIX = b"modl" + b"subtensr"


def subnet_account(netuid: int) -> str:
    """The account with a subnet's TAO: derived from the pallet id, without a private key."""
    seed = _ACCOUNT_PREFIX + netuid.to_bytes(2, "little")
    return str(bittensor_core.ss58_encode(seed.ljust(32, b"\0"), SS58_FORMAT))


def check_no_system_account(state: State, hotkey: str) -> None:
    """CannotUseSystemAccount for the address of a subnet's account."""
    if bytes(bittensor_core.ss58_decode(hotkey)).startswith(_ACCOUNT_PREFIX):
        raise state.fail(_PALLET, "CannotUseSystemAccount")


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A coldkey's order to swap TAO or alpha on a subnet.

    `is_met`: whether the price, always 1, is within the order's limit. A constant price fills
    the order or leaves it whole: `allow_partial` only tells whether an unfilled order fails.
    """

    hotkey: str
    netuid: int
    amount_rao: int
    is_met: bool = True
    allow_partial: bool = False

    @property
    def filled_rao(self) -> int:
        return self.amount_rao if self.is_met else 0


def add_stake(state: State, origin: str, *, hotkey: str, netuid: int, amount_staked: int) -> None:
    """SubtensorModule.add_stake: the coldkey's TAO becomes alpha on the hotkey, 1 : 1."""
    _stake(state, origin, Order(hotkey=hotkey, netuid=netuid, amount_rao=amount_staked))


def add_stake_limit(
    state: State, origin: str, *, amount_staked: int, limit_price: int, **order: Any
) -> None:
    """SubtensorModule.add_stake_limit: `add_stake` if the price is not above the limit."""
    is_met = limit_price >= ALPHA_PRICE_RAO
    _stake(state, origin, Order(amount_rao=amount_staked, is_met=is_met, **order))


def _stake(state: State, origin: str, order: Order) -> None:
    """The runtime's `validate_add_stake`, and the swap."""
    if not state.subtensor.get("NetworksAdded", order.netuid):
        raise state.fail(_PALLET, "SubnetNotExists")
    if not state.subtensor.get("SubtokenEnabled", order.netuid):
        raise state.fail(_PALLET, "SubtokenDisabled")
    if order.amount_rao < MIN_STAKE_RAO:
        raise state.fail(_PALLET, "AmountTooLow")
    if not order.is_met and not order.allow_partial:
        raise state.fail(_PALLET, "SlippageTooHigh")
    if balances.spendable_rao(state, origin) < order.filled_rao:
        raise state.fail(_PALLET, "NotEnoughBalanceToStake")
    if not state.subtensor.contains("Owner", order.hotkey):
        raise state.fail(_PALLET, "HotKeyAccountNotExists")
    if order.filled_rao < MIN_STAKE_RAO:
        raise state.fail(_PALLET, "AmountTooLow")
    buy(state, order, payer=origin, coldkey=origin)


def buy(state: State, order: Order, *, payer: str, coldkey: str) -> None:
    """TAO of the payer becomes alpha of a coldkey; the caller has checked everything."""
    netuid, amount_rao, hotkey = order.netuid, order.filled_rao, order.hotkey
    # Whom a stranger stakes on is a delegate from then on.
    is_stranger = state.subtensor.get("Owner", hotkey) != coldkey
    if is_stranger and not state.subtensor.contains("Delegates", hotkey):
        take = state.subtensor.get("Delegates", hotkey)
        state.subtensor.put("Delegates", hotkey, value=take)
    balances.move(state, payer, subnet_account(netuid), amount_rao)
    state.subtensor.add("TotalStake", amount=amount_rao)
    create_alpha(state, netuid, amount_rao)
    credit_alpha(state, netuid, hotkey=hotkey, coldkey=coldkey, amount_rao=amount_rao)
    state.emit(_PALLET, "StakeAdded", (coldkey, hotkey, amount_rao, amount_rao, netuid, 0))


def associate(state: State, coldkey: str, hotkey: str) -> None:
    """Make `coldkey` the owner of a hotkey; NonAssociatedColdKey if owned by another coldkey."""
    check_no_system_account(state, hotkey)
    if not state.subtensor.contains("Owner", hotkey):
        state.subtensor.put("Owner", hotkey, value=coldkey)
        owned = state.subtensor.get("OwnedHotkeys", coldkey)
        state.subtensor.put("OwnedHotkeys", coldkey, value=[*owned, hotkey])
    elif state.subtensor.get("Owner", hotkey) != coldkey:
        raise state.fail(_PALLET, "NonAssociatedColdKey")


def create_alpha(state: State, netuid: int, amount_rao: int) -> None:
    """Add new alpha to the subnet's total; another step credits a holder."""
    state.subtensor.add("SubnetAlphaOut", netuid, amount=amount_rao)
    state.alpha_assets.add("TotalAlphaIssuance", netuid, amount=amount_rao)


def destroy_alpha(state: State, netuid: int, amount_rao: int) -> None:
    """Subtract alpha from the subnet's total, after the removal from the holder."""
    state.subtensor.add("SubnetAlphaOut", netuid, amount=-amount_rao)
    state.alpha_assets.add("TotalAlphaIssuance", netuid, amount=-amount_rao)


def credit_alpha(state: State, netuid: int, *, hotkey: str, coldkey: str, amount_rao: int) -> None:
    """Add alpha to a coldkey's stake on a hotkey. A share always equals 1 rao of alpha."""
    if amount_rao == 0:
        return
    _change_alpha(state, netuid, hotkey=hotkey, coldkey=coldkey, amount_rao=amount_rao)
    staking = state.subtensor.get("StakingHotkeys", coldkey)
    if hotkey not in staking:
        state.subtensor.put("StakingHotkeys", coldkey, value=[*staking, hotkey])


def debit_alpha(state: State, netuid: int, *, hotkey: str, coldkey: str, amount_rao: int) -> None:
    """Take alpha from a coldkey's stake on a hotkey; the caller has checked the amount."""
    _change_alpha(state, netuid, hotkey=hotkey, coldkey=coldkey, amount_rao=-amount_rao)


def _change_alpha(state: State, netuid: int, *, hotkey: str, coldkey: str, amount_rao: int) -> None:
    storage = state.subtensor
    shares = storage.get("Alpha", hotkey, coldkey, netuid)["bits"] + amount_rao * _FIXED_ONE
    assert shares >= 0, "a stake never becomes negative: callers check first"
    if shares:
        storage.put("Alpha", hotkey, coldkey, netuid, value={"bits": shares})
    else:
        storage.remove("Alpha", hotkey, coldkey, netuid)
    total = storage.get("TotalHotkeyAlpha", hotkey, netuid) + amount_rao
    storage.put("TotalHotkeyAlpha", hotkey, netuid, value=total)
    storage.put("TotalHotkeyShares", hotkey, netuid, value={"bits": total * _FIXED_ONE})
    storage.add("TotalAlphaStaked", netuid, amount=amount_rao)


def alpha_rao(state: State, netuid: int, hotkey: str) -> int:
    """All alpha staked to a hotkey on a subnet, by every coldkey."""
    return int(state.subtensor.get("TotalHotkeyAlpha", hotkey, netuid))


def coldkey_alpha_rao(state: State, netuid: int, hotkey: str, coldkey: str) -> int:
    return int(state.subtensor.get("Alpha", hotkey, coldkey, netuid)["bits"]) // _FIXED_ONE


def stake_weight_rao(state: State, netuid: int, hotkey: str) -> int:
    """Stake in consensus and votes: alpha plus root TAO times `TaoWeight`, floored."""
    root_rao = alpha_rao(state, ROOT_NETUID, hotkey)
    weighted = root_rao * int(state.subtensor.get("TaoWeight")) // _FIXED_ONE if root_rao else 0
    return alpha_rao(state, netuid, hotkey) + weighted
