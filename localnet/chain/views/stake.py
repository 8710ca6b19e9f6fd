"""Stake and prices in the clients' form."""

from typing import Any

from localnet.chain.pallets import neurons, staking
from localnet.chain.state import State
from localnet.chain.views import subnets


def stake_info(state: State, hotkey: str, coldkey: str, netuid: int) -> dict[str, Any]:
    """StakeInfoRuntimeApi.get_stake_info_for_hotkey_coldkey_netuid, also without stake.

    `emission`: the hotkey's validator pay in the last epoch.
    """
    return {
        "hotkey": hotkey,
        "coldkey": coldkey,
        "netuid": netuid,
        "stake": staking.coldkey_alpha_rao(state, netuid, hotkey, coldkey),
        "locked": 0,
        "emission": state.subtensor.get("AlphaDividendsPerSubnet", netuid, hotkey),
        "tao_emission": 0,
        "drain": 0,
        "is_registered": neurons.uid_of(state, netuid, hotkey) is not None,
    }


def coldkey_stake_info(state: State, coldkey: str) -> list[dict[str, Any]]:
    """StakeInfoRuntimeApi.get_stake_info_for_coldkey: every stake, subnet by subnet."""
    hotkeys = state.subtensor.get("StakingHotkeys", coldkey)
    netuids = subnets.netuids(state)
    found = [stake_info(state, hotkey, coldkey, n) for n in netuids for hotkey in hotkeys]
    return [info for info in found if info["stake"]]


def coldkeys_stake_info(
    state: State, coldkeys: list[str]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """StakeInfoRuntimeApi.get_stake_info_for_coldkeys."""
    return [(coldkey, coldkey_stake_info(state, coldkey)) for coldkey in coldkeys]


def stake_availability(
    state: State, coldkeys: list[str], netuids: list[int] | None
) -> dict[str, dict[int, dict[str, int]]]:
    """StakeInfoRuntimeApi.get_stake_availability_for_coldkeys: stake is never locked here.

    Per coldkey and subnet the sum over the coldkey's hotkeys, if above 0. `netuids` None means
    all; as in the runtime, the answer is empty for more netuids than subnets.
    """
    known = subnets.netuids(state)
    asked = set(known if netuids is None else netuids)
    wanted = asked.intersection(known) if len(asked) <= len(known) else set()
    return {coldkey: _availability(state, coldkey, wanted) for coldkey in coldkeys}


def _availability(state: State, coldkey: str, netuids: set[int]) -> dict[int, dict[str, int]]:
    totals: dict[int, int] = {}
    for info in coldkey_stake_info(state, coldkey):
        if info["netuid"] in netuids:
            totals[info["netuid"]] = totals.get(info["netuid"], 0) + info["stake"]
    return {netuid: {"total": rao, "locked": 0, "available": rao} for netuid, rao in totals.items()}


def auto_stake_hotkey(state: State, coldkey: str, netuid: int) -> str | None:
    """SubnetInfoRuntimeApi.get_coldkey_auto_stake_hotkey; None before a coldkey's choice."""
    hotkey = state.subtensor.get("AutoStakeDestination", coldkey, netuid)
    return None if hotkey is None else str(hotkey)


def alpha_price_rao(state: State, netuid: int) -> int:
    """SwapRuntimeApi.current_alpha_price: 1 TAO on the stable mechanism."""
    del state, netuid
    return staking.ALPHA_PRICE_RAO


def alpha_prices_rao(state: State) -> list[dict[str, int]]:
    """SwapRuntimeApi.current_alpha_price_all."""
    return [{"netuid": n, "price": alpha_price_rao(state, n)} for n in subnets.netuids(state)]


def simulate_swap(state: State, netuid: int, amount_rao: int) -> dict[str, Any]:
    """SwapRuntimeApi.sim_swap_tao_for_alpha and sim_swap_alpha_for_tao: 1 : 1, without fee or
    slippage."""
    del state, netuid
    nothing = {"tao_fee": 0, "alpha_fee": 0, "tao_slippage": 0, "alpha_slippage": 0}
    return {"tao_amount": amount_rao, "alpha_amount": amount_rao, **nothing}
