"""Signed calls by name of a wallet: how each one ended, "ok" or the name of its error."""

from typing import Any

from localnet.chain.config import RAO_PER_TAO

S = "SubtensorModule"
TAO = RAO_PER_TAO


def by_coldkey(ledger: Any, name: str, function: str, pallet: str = S, **args: Any) -> str:
    return str(ledger.call(ledger.wallets[name].coldkey, pallet, function, **args))


def by_hotkey(ledger: Any, name: str, function: str, pallet: str = S, **args: Any) -> str:
    return str(ledger.call(ledger.wallets[name].hotkey, pallet, function, **args))


def stake(ledger: Any, name: str, rao: int, netuid: int = 1) -> str:
    """Onto the wallet's own hotkey."""
    args = {"hotkey": ledger.wallets[name].hot, "netuid": netuid, "amount_staked": rao}
    return by_coldkey(ledger, name, "add_stake", **args)


def register(ledger: Any, name: str, netuid: int = 1) -> str:
    hotkey = ledger.wallets[name].hot
    return by_coldkey(ledger, name, "burned_register", netuid=netuid, hotkey=hotkey)


def create_network(ledger: Any, name: str) -> str:
    return by_coldkey(ledger, name, "register_network", hotkey=ledger.wallets[name].hot)


def commit(ledger: Any, name: str, *fields: Any, netuid: int = 1) -> str:
    info = {"fields": list(fields)}
    return by_hotkey(ledger, name, "set_commitment", "Commitments", netuid=netuid, info=info)


def raw_field(data: bytes) -> dict[str, str]:
    return {f"Raw{len(data)}": "0x" + data.hex()}


def set_admin(ledger: Any, setting: str, name: str = "owner", **args: Any) -> str:
    """AdminUtils.sudo_set_<setting> on subnet 1."""
    function = f"sudo_set_{setting}"
    return by_coldkey(ledger, name, function, "AdminUtils", **{"netuid": 1, **args})


def events(ledger: Any, pallet: str) -> list[Any]:
    """(name, attributes) of a pallet's events in the head."""
    state = ledger.chain.state_at(ledger.height)
    records = [record["event"] for record in state.system.get("Events")]
    return [(r["event_id"], r["attributes"]) for r in records if r["module_id"] == pallet]


def total_free_rao(ledger: Any) -> int:
    accounts = ledger.chain.state_at(ledger.height).system.entries("Account")
    return sum(account["data"]["free"] for _, account in accounts)
