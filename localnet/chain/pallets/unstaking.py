"""Stake back into TAO, 1 : 1.

Source: subtensor, staking/remove_stake/remove_stake_ops.rs and stake_utils/stake_validation.rs.
The emission of a subnet creates alpha without TAO behind it, so a subnet's account can run
out of TAO before all alpha is sold. The sale then fails with InsufficientLiquidity, the error of
a drained pool.
"""

from typing import Any

from localnet.chain.pallets import balances, staking
from localnet.chain.pallets.staking import Order
from localnet.chain.state import DispatchFailed, State

_PALLET = "SubtensorModule"


def remove_stake(
    state: State, origin: str, *, hotkey: str, netuid: int, amount_unstaked: int
) -> None:
    """SubtensorModule.remove_stake: more than there is means all there is."""
    if not state.subtensor.get("SubtokenEnabled", netuid):
        raise state.fail(_PALLET, "SubtokenDisabled")
    held_rao = staking.coldkey_alpha_rao(state, netuid, hotkey, origin)
    amount_rao = min(amount_unstaked, held_rao)
    _unstake(state, origin, Order(hotkey=hotkey, netuid=netuid, amount_rao=amount_rao))


def remove_stake_limit(
    state: State, origin: str, *, amount_unstaked: int, limit_price: int, **order: Any
) -> None:
    """SubtensorModule.remove_stake_limit: must not exceed the stake.

    A partial order above the price sells nothing and succeeds, as in the runtime.
    """
    is_met = limit_price <= staking.ALPHA_PRICE_RAO
    _unstake(state, origin, Order(amount_rao=amount_unstaked, is_met=is_met, **order))


def remove_stake_full_limit(
    state: State, origin: str, *, hotkey: str, netuid: int, limit_price: int | None
) -> None:
    """SubtensorModule.remove_stake_full_limit: the whole stake, at any price if None is given."""
    if not state.subtensor.get("NetworksAdded", netuid):
        raise state.fail(_PALLET, "SubnetNotExists")
    held_rao = staking.coldkey_alpha_rao(state, netuid, hotkey, origin)
    order: dict[str, Any] = {"hotkey": hotkey, "netuid": netuid, "amount_unstaked": held_rao}
    if limit_price is None:
        remove_stake(state, origin, **order)
    else:
        remove_stake_limit(state, origin, **order, limit_price=limit_price, allow_partial=False)


def unstake_all(state: State, origin: str, *, hotkey: str) -> None:
    """SubtensorModule.unstake_all: sell a hotkey's stake on every subnet, as far as possible."""
    _check_account(state, hotkey)
    _sell_everywhere(state, origin, hotkey, but=())


def unstake_all_alpha(state: State, origin: str, *, hotkey: str) -> None:
    """SubtensorModule.unstake_all_alpha: from every subnet into the same hotkey's root stake."""
    _check_account(state, hotkey)
    total_rao = _sell_everywhere(state, origin, hotkey, but=(staking.ROOT_NETUID,))
    if total_rao == 0:
        raise state.fail(_PALLET, "AmountTooLow")
    order = Order(hotkey=hotkey, netuid=staking.ROOT_NETUID, amount_rao=total_rao)
    staking.buy(state, order, payer=origin, coldkey=origin)


CALLS = (remove_stake, remove_stake_full_limit, remove_stake_limit, unstake_all, unstake_all_alpha)


def sell(state: State, order: Order, coldkey: str) -> None:
    """Turn a coldkey's alpha into TAO; the caller has checked both amounts."""
    netuid, amount_rao, hotkey = order.netuid, order.filled_rao, order.hotkey
    staking.debit_alpha(state, netuid, hotkey=hotkey, coldkey=coldkey, amount_rao=amount_rao)
    staking.destroy_alpha(state, netuid, amount_rao)
    # A gift to the subnet's account is no stake, but alpha may be sold for it.
    total_rao = max(0, state.subtensor.get("TotalStake") - amount_rao)
    state.subtensor.put("TotalStake", value=total_rao)
    balances.move(state, staking.subnet_account(netuid), coldkey, amount_rao)
    state.emit(_PALLET, "StakeRemoved", (coldkey, hotkey, amount_rao, amount_rao, netuid, 0))


def is_covered(state: State, order: Order) -> bool:
    """Whether the subnet's account has enough TAO for the alpha."""
    return order.amount_rao <= balances.free_rao(state, staking.subnet_account(order.netuid))


def _unstake(state: State, origin: str, order: Order) -> None:
    """The runtime's `validate_remove_stake`, and the swap.

    The minimum does not apply to an order of the whole stake.
    """
    if not state.subtensor.get("NetworksAdded", order.netuid):
        raise state.fail(_PALLET, "SubnetNotExists")
    if order.amount_rao == 0:
        raise state.fail(_PALLET, "AmountTooLow")
    held_rao = staking.coldkey_alpha_rao(state, order.netuid, order.hotkey, origin)
    if order.amount_rao > held_rao:
        raise state.fail(_PALLET, "NotEnoughStakeToWithdraw")
    if not is_covered(state, order):
        raise state.fail(_PALLET, "InsufficientLiquidity")
    if order.amount_rao < staking.MIN_STAKE_RAO and order.amount_rao != held_rao:
        raise state.fail(_PALLET, "AmountTooLow")
    if not order.is_met and not order.allow_partial:
        raise state.fail(_PALLET, "SlippageTooHigh")
    _check_account(state, order.hotkey)
    sell(state, order, origin)


def _check_account(state: State, hotkey: str) -> None:
    if not state.subtensor.contains("Owner", hotkey):
        raise state.fail(_PALLET, "HotKeyAccountNotExists")


def _sell_everywhere(state: State, coldkey: str, hotkey: str, *, but: tuple[int, ...]) -> int:
    """Sell as far as possible on each open subnet; return the TAO proceeds."""
    total_rao = 0
    for netuid in sorted(netuid for netuid, added in _networks(state) if added):
        if netuid in but or not state.subtensor.get("SubtokenEnabled", netuid):
            continue
        held_rao = staking.coldkey_alpha_rao(state, netuid, hotkey, coldkey)
        try:
            _unstake(state, coldkey, Order(hotkey=hotkey, netuid=netuid, amount_rao=held_rao))
        except DispatchFailed:
            continue
        total_rao += held_rao
    return total_rao


def _networks(state: State) -> list[tuple[int, bool]]:
    return state.subtensor.entries("NetworksAdded")
