"""Answers on features absent here: root baskets, stake locks and conviction.

Clients ask with every wallet and stake view; the answer is empty, in the runtime's declared type.
"""

from typing import Any

from localnet.chain.state import State


def zero(state: State, *arguments: Any) -> int:
    """An amount in rao, or a count."""
    del state, arguments
    return 0


def fixed_zero(state: State, *arguments: Any) -> dict[str, int]:
    """A fixed-point number."""
    del state, arguments
    return {"bits": 0}


def empty(state: State, *arguments: Any) -> list[Any]:
    del state, arguments
    return []


def nothing(state: State, *arguments: Any) -> None:
    del state, arguments


def basket_summary(state: State, hotkey: str) -> dict[str, Any]:
    """BetaBasketRuntimeApi.get_validator_basket_summary."""
    del state
    amounts = ("nav_tao", "spot_nav_tao", "shares", "deposited_tao", "redeemed_tao")
    return {"hotkey": hotkey, **dict.fromkeys(amounts, 0), "holdings": []}


def basket_trading_status(state: State, hotkey: str) -> dict[str, Any]:
    """BetaBasketRuntimeApi.get_basket_trading_status: not enabled."""
    del state, hotkey
    amounts = ("refill_blocks", "tao_available", "budget_tao")
    return {"enabled": False, "frozen": False, **dict.fromkeys(amounts, 0)}


def beta_pricing_page(state: State, *arguments: Any) -> dict[str, Any]:
    """BetaBasketRuntimeApi.get_all_beta_pricing: an empty page."""
    del state, arguments
    return {"pricing": [], "next": None}
