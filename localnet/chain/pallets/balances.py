"""TAO accounts: free balances, transfers, and TAO leaving circulation.

Owns `System.Account` balances and the two `TotalIssuance` counters, always equal here.
Departures: no fees are taken, and a dead account keeps the nonce, so that an old signed
extrinsic cannot become valid again.
"""

from typing import Any

from localnet.chain.state import DispatchFailed, State

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
    """The balance above the existential deposit of a living account."""
    return max(0, free_rao(state, address) - EXISTENTIAL_DEPOSIT_RAO)


def mint(state: State, address: str, amount_rao: int) -> None:
    """Create TAO (genesis only)."""
    _set_free(state, address, free_rao(state, address) + amount_rao)
    _change_issuance(state, amount_rao)


def burn(state: State, address: str, amount_rao: int) -> None:
    """Take TAO out of circulation; the caller has checked the balance."""
    _set_free(state, address, free_rao(state, address) - amount_rao)
    _change_issuance(state, -amount_rao)


def move(state: State, source: str, dest: str, amount_rao: int) -> None:
    """Move TAO between accounts; the caller has checked the balance."""
    _set_free(state, source, free_rao(state, source) - amount_rao)
    _set_free(state, dest, free_rao(state, dest) + amount_rao)


def transfer_keep_alive(state: State, origin: str, *, dest: Any, value: int) -> None:
    """Balances.transfer_keep_alive: neither account may end below the existential deposit."""
    receiver = _check_transfer(state, origin, dest, value)
    if origin != receiver and spendable_rao(state, origin) < value:
        raise DispatchFailed({"Token": "NotExpendable"})
    _transfer(state, origin, receiver, value)


def transfer_allow_death(state: State, origin: str, *, dest: Any, value: int) -> None:
    """Balances.transfer_allow_death: less than the existential deposit left behind is lost."""
    receiver = _check_transfer(state, origin, dest, value)
    _transfer(state, origin, receiver, value)
    rest_rao = free_rao(state, origin)
    if rest_rao < EXISTENTIAL_DEPOSIT_RAO:
        burn(state, origin, rest_rao)
        state.emit("System", "KilledAccount", {"account": origin})
        if rest_rao:
            state.emit("Balances", "DustLost", {"account": origin, "amount": rest_rao})


def transfer_all(state: State, origin: str, *, dest: Any, keep_alive: bool) -> None:
    """Balances.transfer_all: everything, or all but the existential deposit."""
    if keep_alive:
        transfer_keep_alive(state, origin, dest=dest, value=spendable_rao(state, origin))
    else:
        transfer_allow_death(state, origin, dest=dest, value=free_rao(state, origin))


def _check_transfer(state: State, origin: str, dest: Any, value: int) -> str:
    """The receiver's address; only plain account ids are known here."""
    if not isinstance(dest, str):
        raise DispatchFailed("CannotLookup")
    if free_rao(state, origin) < value:
        raise DispatchFailed({"Token": "FundsUnavailable"})
    if free_rao(state, dest) + value < EXISTENTIAL_DEPOSIT_RAO:
        raise DispatchFailed({"Token": "BelowMinimum"})
    return dest


def _transfer(state: State, source: str, dest: str, value: int) -> None:
    move(state, source, dest, value)
    state.emit("Balances", "Transfer", {"from": source, "to": dest, "amount": value})


def _set_free(state: State, address: str, free: int) -> None:
    assert free >= 0, "a balance never becomes negative: callers check first"
    record = account(state, address)
    record["data"] = {**record["data"], "free": free}
    record["providers"] = int(free > 0)
    state.system.put("Account", address, value=record)


def _change_issuance(state: State, amount_rao: int) -> None:
    state.balances.add("TotalIssuance", amount=amount_rao)
    state.subtensor.add("TotalIssuance", amount=amount_rao)
