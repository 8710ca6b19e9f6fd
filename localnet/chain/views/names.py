"""The names of subnets and accounts."""

from typing import Any

from localnet.chain.metadata import bytes_of
from localnet.chain.schedule import ROOT_NETUID
from localnet.chain.state import State

_NAME_OF_ROOT = b"root"
_NAME_OF_NOBODY = b"unknown"


def subnet_name(state: State, netuid: int) -> list[int]:
    """The name in the subnet's identity, as the bytes of a `Vec<Compact<u8>>`.

    Without an identity the runtime falls back on a table of the public network's subnets, and
    past the table's end on "unknown"; the table would be wrong here.
    """
    identity = subnet_identity(state, netuid)
    if identity is not None and identity["subnet_name"]:
        return list(identity["subnet_name"])
    return list(_NAME_OF_ROOT if netuid == ROOT_NETUID else _NAME_OF_NOBODY)


def subnet_symbol(state: State, netuid: int) -> list[int]:
    return list(bytes_of(state.subtensor.get("TokenSymbol", netuid)))


def subnet_identity(state: State, netuid: int) -> dict[str, bytes] | None:
    return _texts(state.subtensor.get("SubnetIdentitiesV3", netuid))


def coldkey_identity(state: State, coldkey: str) -> dict[str, bytes] | None:
    return _texts(state.subtensor.get("IdentitiesV2", coldkey))


def _texts(record: dict[str, Any] | None) -> dict[str, bytes] | None:
    return None if record is None else {key: bytes_of(text) for key, text in record.items()}
