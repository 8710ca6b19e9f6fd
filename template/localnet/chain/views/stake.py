"""Stake and prices as clients see them."""

from typing import Any

from template.localnet.chain import epoch
from template.localnet.chain.pallets import neurons, staking
from template.localnet.chain.state import State


def stake_info(state: State, hotkey: str, coldkey: str, netuid: int) -> dict[str, Any] | None:
    """StakeInfoRuntimeApi.get_stake_info_for_hotkey_coldkey_netuid; None without stake."""
    rao = staking.coldkey_alpha_rao(state, netuid, hotkey, coldkey)
    if rao == 0:
        return None
    uid = neurons.uid_of(state, netuid, hotkey)
    emission = state.subtensor.get("Emission", netuid)[uid] if uid is not None else 0
    return {
        "hotkey": hotkey,
        "coldkey": coldkey,
        "netuid": netuid,
        "stake": rao,
        "locked": 0,
        "emission": emission,
        "tao_emission": 0,
        "drain": 0,
        "is_registered": uid is not None,
    }


def coldkey_stake_info(state: State, coldkey: str) -> list[dict[str, Any]]:
    """StakeInfoRuntimeApi.get_stake_info_for_coldkey: every position, hotkey by hotkey."""
    hotkeys = state.subtensor.get("StakingHotkeys", coldkey)
    netuids = (staking.ROOT_NETUID, *epoch.subnets(state))
    found = [stake_info(state, hotkey, coldkey, n) for hotkey in hotkeys for n in netuids]
    return [info for info in found if info is not None]


def coldkeys_stake_info(
    state: State, coldkeys: list[str]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """StakeInfoRuntimeApi.get_stake_info_for_coldkeys."""
    return [(coldkey, coldkey_stake_info(state, coldkey)) for coldkey in coldkeys]


def stake_availability(
    state: State, coldkeys: list[str], netuids: list[int] | None
) -> dict[str, dict[int, dict[str, int]]]:
    """StakeInfoRuntimeApi.get_stake_availability_for_coldkeys: nothing is ever locked here.

    Per coldkey and subnet the sum over its hotkeys; all subnets with stake if `netuids` is None.
    """
    return {coldkey: _availability(state, coldkey, netuids) for coldkey in coldkeys}


def _availability(
    state: State, coldkey: str, netuids: list[int] | None
) -> dict[int, dict[str, int]]:
    totals: dict[int, int] = dict.fromkeys(netuids or (), 0)
    for info in coldkey_stake_info(state, coldkey):
        if netuids is None or info["netuid"] in totals:
            totals[info["netuid"]] = totals.get(info["netuid"], 0) + info["stake"]
    return {netuid: {"total": rao, "locked": 0, "available": rao} for netuid, rao in totals.items()}


def basket_owed_rao(state: State, coldkey: str) -> int:
    """BetaBasketRuntimeApi.get_root_basket_owed: root baskets do not exist here."""
    del state, coldkey
    return 0


def basket_positions(state: State, coldkey: str) -> list[Any]:
    """BetaBasketRuntimeApi.get_root_basket_positions: root baskets do not exist here."""
    del state, coldkey
    return []


def alpha_price_rao(state: State, netuid: int) -> int:
    """SwapRuntimeApi.current_alpha_price: 1 TAO on the stable mechanism."""
    del state, netuid
    return staking.ALPHA_PRICE_RAO


def alpha_prices_rao(state: State) -> list[dict[str, int]]:
    """SwapRuntimeApi.current_alpha_price_all."""
    netuids = (staking.ROOT_NETUID, *epoch.subnets(state))
    return [{"netuid": netuid, "price": alpha_price_rao(state, netuid)} for netuid in netuids]


def simulate_stake(state: State, netuid: int, tao_rao: int) -> dict[str, Any]:
    """SwapRuntimeApi.sim_swap_tao_for_alpha: one for one, no fee, no slippage."""
    del state, netuid
    nothing = {"tao_fee": 0, "alpha_fee": 0, "tao_slippage": 0, "alpha_slippage": 0}
    return {"tao_amount": tao_rao, "alpha_amount": tao_rao, **nothing}
