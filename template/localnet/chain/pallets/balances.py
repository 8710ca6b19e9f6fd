"""TAO accounts: free balances, transfers, and TAO that leaves circulation.

Owns `System.Account` balances and the two `TotalIssuance` counters. No fees are taken.
"""

from typing import Any

from template.localnet.chain.state import DispatchFailed, State

EXISTENTIAL_DEPOSIT_RAO = 500


def account(state: State, address: str) -> dict[str, Any]:
    return dict(state.system.get("Account", address))


def nonce(state: State, address: str) -> int:
    return int(account(state, address)["nonce"])


def bump_nonce(state: State, address: str) -> None:
    record = account(state, address)
    record["nonce"] += 1
    state.system.put("Account", address, value=record)


def free_rao(state: State, address: str) -> int:
    return int(account(state, address)["data"]["free"])


def spendable_rao(state: State, address: str) -> int:
    """What may leave an account that is to stay alive."""
    return max(0, free_rao(state, address) - EXISTENTIAL_DEPOSIT_RAO)


def mint(state: State, address: str, amount_rao: int) -> None:
    """Create TAO (genesis only)."""
    _set_free(state, address, free_rao(state, address) + amount_rao)
    _change_issuance(state, amount_rao)


def burn(state: State, address: str, amount_rao: int) -> None:
    """Take TAO out of circulation; the caller has checked that it is there."""
    _set_free(state, address, free_rao(state, address) - amount_rao)
    _change_issuance(state, -amount_rao)


def move(state: State, source: str, dest: str, amount_rao: int) -> None:
    """Move TAO between accounts; the caller has checked that it is there."""
    _set_free(state, source, free_rao(state, source) - amount_rao)
    _set_free(state, dest, free_rao(state, dest) + amount_rao)


def transfer_keep_alive(state: State, origin: str, *, dest: Any, value: int) -> None:
    """Balances.transfer_keep_alive: neither account may end below the existential deposit."""
    if not isinstance(dest, str):
        raise DispatchFailed("CannotLookup")
    if free_rao(state, origin) < value:
        raise DispatchFailed({"Token": "FundsUnavailable"})
    if free_rao(state, dest) + value < EXISTENTIAL_DEPOSIT_RAO:
        raise DispatchFailed({"Token": "BelowMinimum"})
    if origin != dest and spendable_rao(state, origin) < value:
        raise DispatchFailed({"Token": "NotExpendable"})
    move(state, origin, dest, value)
    state.emit("Balances", "Transfer", {"from": origin, "to": dest, "amount": value})


def _set_free(state: State, address: str, free: int) -> None:
    assert free >= 0, "a balance never becomes negative: callers check first"
    record = account(state, address)
    record["data"] = {**record["data"], "free": free}
    record["providers"] = 1
    state.system.put("Account", address, value=record)


def _change_issuance(state: State, amount_rao: int) -> None:
    state.balances.add("TotalIssuance", amount=amount_rao)
    state.subtensor.add("TotalIssuance", amount=amount_rao)
