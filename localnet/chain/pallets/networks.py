"""Creation, start and names of subnets, and the price of creation.

Source: subtensor, subnets/{subnet,symbols}.rs, coinbase/root.rs and utils/identity.rs.
Departures: at `SubnetLimit` the real chain prunes the cheapest subnet outside immunity, here
subnets are never removed; only the first 52 of the 439 token symbols are known; the subnet runs
the stable mechanism (`staking.py`).
"""

from localnet.chain.metadata import bytes_of
from localnet.chain.pallets import balances, neurons, rate_limits, staking
from localnet.chain.state import State

_PALLET = "SubtensorModule"
_STABLE_MECHANISM = 0
# Greek small letters but tau, which is a Latin t; then the Hebrew alphabet.
_CODE_POINTS = (0x3A4, *range(0x3B1, 0x3C2), 0x3C3, ord("t"), *range(0x3C5, 0x3CA))
SYMBOLS = tuple(chr(point) for point in (*_CODE_POINTS, *range(0x5D0, 0x5EB)))
_SHORT_BYTES, _LONG_BYTES = 256, 1024
_IDENTITY_BYTES = {
    "subnet_name": _SHORT_BYTES,
    "github_repo": _LONG_BYTES,
    "subnet_contact": _LONG_BYTES,
    "subnet_url": _LONG_BYTES,
    "discord": _SHORT_BYTES,
    "description": _LONG_BYTES,
    "logo_url": _LONG_BYTES,
    "additional": _LONG_BYTES,
}


def write_genesis(state: State) -> None:
    """The root network, and the chain's flags for new subnets."""
    storage, chosen = state.subtensor, state.defaults
    storage.put("NetworksAdded", staking.ROOT_NETUID, value=True)
    storage.put("SubtokenEnabled", staking.ROOT_NETUID, value=True)
    storage.put("NetworkMinLockCost", value=chosen.network_cost_rao)
    storage.put("NetworkLastLockCost", value=chosen.network_cost_rao)
    storage.put("NetworkRateLimit", value=chosen.network_rate_limit_blocks)
    storage.put("SubnetLimit", value=chosen.subnet_limit)


def cost_rao(state: State) -> int:
    """Twice the last price, less a share per block since; never below the minimum.

    The price is back at the last price after `NetworkLockReductionInterval` blocks.
    """
    storage = state.subtensor
    last_rao = int(storage.get("NetworkLastLockCost"))
    last_block = _last_registered(state)
    interval_blocks = int(storage.get("NetworkLockReductionInterval"))
    reduction_rao = last_rao // interval_blocks * (state.block_number - last_block)
    raised_rao = last_rao * (2 if last_block else 1)
    return max(raised_rao - reduction_rao, int(storage.get("NetworkMinLockCost")))


def register_network(state: State, origin: str, *, hotkey: str) -> None:
    """SubtensorModule.register_network: a new netuid, owned by the coldkey; hotkey is uid 0."""
    register_network_with_identity(state, origin, hotkey=hotkey, identity=None)


def register_network_with_identity(
    state: State, origin: str, *, hotkey: str, identity: dict[str, str] | None
) -> None:
    """SubtensorModule.register_network_with_identity: `register_network` plus an identity."""
    staking.associate(state, origin, hotkey)
    _check_pace(state)
    record = None if identity is None else _checked_identity(state, identity)
    if len(_netuids(state)) >= state.subtensor.get("SubnetLimit"):
        raise state.fail(_PALLET, "SubnetLimitReached")
    price_rao = cost_rao(state)
    if balances.spendable_rao(state, origin) < price_rao:
        raise state.fail(_PALLET, "CannotAffordLockCost")
    netuid = _next_netuid(state)
    _set_hyperparameters(state, netuid)
    balances.move(state, origin, staking.subnet_account(netuid), price_rao)
    _date_registration(state, price_rao)
    neurons.register(state, netuid, hotkey)
    _write_owner(state, netuid, origin, hotkey)
    _open_pool(state, netuid, price_rao)
    if record is not None:
        _write_identity(state, netuid, record)
    state.emit(_PALLET, "NetworkAdded", (netuid, _STABLE_MECHANISM))


def start_call(state: State, origin: str, *, netuid: int) -> None:
    """SubtensorModule.start_call: the owner opens staking and emission from the next block."""
    storage = state.subtensor
    if not storage.get("NetworksAdded", netuid):
        raise state.fail(_PALLET, "SubnetNotExists")
    rate_limits.check_owner(state, netuid, origin)
    if storage.contains("FirstEmissionBlockNumber", netuid):
        raise state.fail(_PALLET, "FirstEmissionBlockNumberAlreadySet")
    first_block = state.block_number + 1
    storage.put("FirstEmissionBlockNumber", netuid, value=first_block)
    storage.put("SubtokenEnabled", netuid, value=True)
    state.emit(_PALLET, "FirstEmissionBlockNumberSet", (netuid, first_block))


def set_subnet_identity(state: State, origin: str, *, netuid: int, **identity: str) -> None:
    """SubtensorModule.set_subnet_identity, signed by the owner's coldkey."""
    if not state.subtensor.get("NetworksAdded", netuid):
        raise state.fail(_PALLET, "SubnetNotExists")
    if state.subtensor.get("SubnetOwner", netuid) != origin:
        raise state.fail(_PALLET, "NotSubnetOwner")
    _write_identity(state, netuid, _checked_identity(state, identity))


def update_symbol(state: State, origin: str, *, netuid: int, symbol: str) -> None:
    """SubtensorModule.update_symbol: only a known symbol, unused by all subnets."""
    rate_limits.check_owner(state, netuid, origin)
    if symbol not in SYMBOLS:
        raise state.fail(_PALLET, "SymbolDoesNotExist")
    if symbol in _taken_symbols(state):
        raise state.fail(_PALLET, "SymbolAlreadyInUse")
    state.subtensor.put("TokenSymbol", netuid, value=symbol)
    state.emit(_PALLET, "SymbolUpdated", {"netuid": netuid, "symbol": symbol})


def _last_registered(state: State) -> int:
    return int(state.subtensor.get("LastRateLimitedBlock", rate_limits.NEW_NETWORK_KEY))


def _check_pace(state: State) -> None:
    """At most one new subnet per `NetworkRateLimit` blocks, chain-wide; the first is free."""
    last_block = _last_registered(state)
    limit_blocks = state.subtensor.get("NetworkRateLimit")
    if last_block and state.block_number - last_block < limit_blocks:
        raise state.fail(_PALLET, "NetworkTxRateLimitExceeded")


def _date_registration(state: State, price_rao: int) -> None:
    storage, now = state.subtensor, state.block_number
    storage.put("NetworkLastLockCost", value=price_rao)
    storage.put("LastRateLimitedBlock", rate_limits.NEW_NETWORK_KEY, value=now)


def _checked_identity(state: State, identity: dict[str, str]) -> dict[str, bytes]:
    record = {name: bytes_of(text) for name, text in identity.items()}
    if any(len(record[name]) > limit for name, limit in _IDENTITY_BYTES.items()):
        raise state.fail(_PALLET, "InvalidIdentity")
    return record


def _write_identity(state: State, netuid: int, record: dict[str, bytes]) -> None:
    state.subtensor.put("SubnetIdentitiesV3", netuid, value=record)
    state.emit(_PALLET, "SubnetIdentitySet", netuid)


def _netuids(state: State) -> set[int]:
    """Netuids of all subnets but root."""
    added = state.subtensor.entries("NetworksAdded")
    return {netuid for netuid, exists in added if exists} - {staking.ROOT_NETUID}


def _next_netuid(state: State) -> int:
    taken = _netuids(state)
    return next(netuid for netuid in range(1, len(taken) + 2) if netuid not in taken)


def _taken_symbols(state: State) -> set[str]:
    return {symbol for _, symbol in state.subtensor.entries("TokenSymbol")}


def _default_symbol(state: State, netuid: int) -> str:
    """The netuid's symbol; if taken, the first free symbol; without free symbols, the first."""
    taken = _taken_symbols(state)
    wanted = SYMBOLS[netuid : netuid + 1] + SYMBOLS
    return next((symbol for symbol in wanted if symbol not in taken), SYMBOLS[0])


def _write_owner(state: State, netuid: int, coldkey: str, hotkey: str) -> None:
    storage = state.subtensor
    storage.put("SubnetOwner", netuid, value=coldkey)
    storage.put("SubnetOwnerHotkey", netuid, value=hotkey)
    storage.put("NetworkRegisteredAt", netuid, value=state.block_number)
    storage.add("RegisteredSubnetCounter", netuid, amount=1)
    storage.put("TokenSymbol", netuid, value=_default_symbol(state, netuid))


def _set_hyperparameters(state: State, netuid: int) -> None:
    """Write only values different from the runtime's defaults."""
    chosen = state.defaults
    values = {
        "NetworksAdded": True,
        "Tempo": chosen.tempo_blocks,
        "WeightsSetRateLimit": chosen.weights_rate_limit_blocks,
        "ImmunityPeriod": chosen.immunity_period_blocks,
        "MaxAllowedUids": chosen.max_uids,
        "MaxAllowedValidators": chosen.max_validators,
        "MinAllowedWeights": chosen.min_allowed_weights,
        "MinNonImmuneUids": chosen.min_non_immune_uids,
        "Burn": chosen.burn_rao,
        "CommitRevealWeightsEnabled": chosen.commit_reveal == "on",
        "Yuma3On": True,
        "SubnetMechanism": _STABLE_MECHANISM,
        "SubnetEmissionEnabled": False,
        "SubnetworkN": 0,
        # Subnets born in one block do not all run their epoch in one block.
        "LastEpochBlock": max(0, state.block_number - netuid % chosen.tempo_blocks),
    }
    for item, value in values.items():
        state.subtensor.put(item, netuid, value=value)
    state.subtensor.add("TotalNetworks", amount=1)


def _open_pool(state: State, netuid: int, price_rao: int) -> None:
    """The price paid rests in the pool against as much alpha: a price of 1."""
    storage = state.subtensor
    storage.put("SubnetTAO", netuid, value=price_rao)
    storage.put("SubnetAlphaIn", netuid, value=price_rao)
    storage.put("SubnetLocked", netuid, value=price_rao)
    state.alpha_assets.add("TotalAlphaIssuance", netuid, amount=price_rao)
    storage.add("TotalStake", amount=price_rao)
