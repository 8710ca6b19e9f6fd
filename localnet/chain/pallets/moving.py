"""Stake from one position to another: a position is a coldkey's alpha on a hotkey and subnet.

Source: subtensor, staking/move_stake.rs and stake_utils/stake_validation.rs. On one subnet
alpha changes hands; between two it is sold and bought, 1 : 1.
"""

from dataclasses import dataclass
from typing import Any

from localnet.chain.pallets import staking, unstaking
from localnet.chain.pallets.staking import Order
from localnet.chain.state import State

MIN_TRANSFER_RAO = 100_000
_PALLET = "SubtensorModule"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Position:
    coldkey: str
    hotkey: str
    netuid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Move:
    """A move of stake. `is_met`: whether the price between two subnets, 1, is in the limit.

    `is_transfer`: the call may change the coldkey; a subnet owner can switch transfers off.
    """

    source: _Position
    dest: _Position
    amount_rao: int
    is_met: bool
    allow_partial: bool
    is_transfer: bool

    @property
    def is_within_subnet(self) -> bool:
        return self.source.netuid == self.dest.netuid

    @property
    def filled_rao(self) -> int:
        return self.amount_rao if self.is_met or self.is_within_subnet else 0


def move_stake(
    state: State, origin: str, *, origin_hotkey: str, destination_hotkey: str, **route: Any
) -> None:
    """SubtensorModule.move_stake: to another hotkey, on the same subnet or another."""
    move = _parse((origin, origin_hotkey), (origin, destination_hotkey), route)
    _execute(state, move)
    ends = (origin_hotkey, move.source.netuid, destination_hotkey, move.dest.netuid)
    state.emit(_PALLET, "StakeMoved", (origin, *ends, move.filled_rao))


def move_stake_limit(state: State, origin: str, **route: Any) -> None:
    """SubtensorModule.move_stake_limit: `move_stake` with `limit_price` and `allow_partial`."""
    move_stake(state, origin, **route)


def swap_stake(state: State, origin: str, *, hotkey: str, **route: Any) -> None:
    """SubtensorModule.swap_stake: to another subnet, on the same hotkey."""
    move = _parse((origin, hotkey), (origin, hotkey), route)
    _execute(state, move)
    netuids = (move.source.netuid, move.dest.netuid)
    state.emit(_PALLET, "StakeSwapped", (origin, hotkey, *netuids, move.filled_rao))


def swap_stake_limit(state: State, origin: str, **route: Any) -> None:
    """SubtensorModule.swap_stake_limit: `swap_stake` with `limit_price` and `allow_partial`."""
    swap_stake(state, origin, **route)


def transfer_stake(
    state: State, origin: str, *, destination_coldkey: str, hotkey: str, **route: Any
) -> None:
    """SubtensorModule.transfer_stake: to another coldkey, on the same hotkey."""
    move = _parse((origin, hotkey), (destination_coldkey, hotkey), route, is_transfer=True)
    _execute(state, move)
    ends = (origin, destination_coldkey, hotkey, move.source.netuid, move.dest.netuid)
    state.emit(_PALLET, "StakeTransferred", (*ends, move.filled_rao))


CALLS = (move_stake, move_stake_limit, swap_stake, swap_stake_limit, transfer_stake)


def _parse(
    source: tuple[str, str],
    dest: tuple[str, str],
    route: dict[str, Any],
    *,
    is_transfer: bool = False,
) -> _Move:
    """A move from the (coldkey, hotkey) of both ends and the common arguments of all calls."""
    limit_price = route.get("limit_price", 0)
    return _Move(
        source=_Position(coldkey=source[0], hotkey=source[1], netuid=route["origin_netuid"]),
        dest=_Position(coldkey=dest[0], hotkey=dest[1], netuid=route["destination_netuid"]),
        amount_rao=route["alpha_amount"],
        is_met=limit_price <= staking.ALPHA_PRICE_RAO,
        allow_partial=route.get("allow_partial", False),
        is_transfer=is_transfer,
    )


def _execute(state: State, move: _Move) -> None:
    _check(state, move)
    source, dest = move.source, move.dest
    if move.is_within_subnet:
        _hand_over(state, source, dest, move.filled_rao)
        return
    unstaking.sell(state, _order(source, move), source.coldkey)
    staking.buy(state, _order(dest, move), payer=source.coldkey, coldkey=dest.coldkey)


def _order(end: _Position, move: _Move) -> Order:
    return Order(hotkey=end.hotkey, netuid=end.netuid, amount_rao=move.filled_rao)


def _hand_over(state: State, source: _Position, dest: _Position, amount_rao: int) -> None:
    """Move within a subnet: TAO stays, but both ends get the events of a sale."""
    netuid = source.netuid
    ends = ((source, staking.debit_alpha), (dest, staking.credit_alpha))
    for end, change in ends:
        change(state, netuid, hotkey=end.hotkey, coldkey=end.coldkey, amount_rao=amount_rao)
    for event, end in (("StakeRemoved", source), ("StakeAdded", dest)):
        fields = (end.coldkey, end.hotkey, amount_rao, amount_rao, netuid, 0)
        state.emit(_PALLET, event, fields)


def _check(state: State, move: _Move) -> None:
    """The runtime's `validate_stake_transition`."""
    source, dest, storage = move.source, move.dest, state.subtensor
    if source == dest:
        raise state.fail(_PALLET, "SameNetuid")
    if not all(storage.get("NetworksAdded", end.netuid) for end in (source, dest)):
        raise state.fail(_PALLET, "SubnetNotExists")
    if not all(storage.get("SubtokenEnabled", end.netuid) for end in (source, dest)):
        raise state.fail(_PALLET, "SubtokenDisabled")
    if not all(storage.contains("Owner", end.hotkey) for end in (source, dest)):
        raise state.fail(_PALLET, "HotKeyAccountNotExists")
    held_rao = staking.coldkey_alpha_rao(state, source.netuid, source.hotkey, source.coldkey)
    if move.amount_rao > held_rao:
        raise state.fail(_PALLET, "NotEnoughStakeToWithdraw")
    if not move.is_within_subnet:
        _check_sale(state, move)
    toggles = (storage.get("TransferToggle", end.netuid) for end in (source, dest))
    if move.is_transfer and not all(toggles):
        raise state.fail(_PALLET, "TransferDisallowed")


def _check_sale(state: State, move: _Move) -> None:
    if not unstaking.is_covered(state, _order(move.source, move)):
        raise state.fail(_PALLET, "InsufficientLiquidity")
    minimum_rao = MIN_TRANSFER_RAO if move.is_transfer else staking.MIN_STAKE_RAO
    if move.amount_rao <= minimum_rao:
        raise state.fail(_PALLET, "AmountTooLow")
    if not move.is_met and not move.allow_partial:
        raise state.fail(_PALLET, "SlippageTooHigh")
