"""Creating and starting a subnet, and buying a uid on one.

Source: subtensor, subnets/{subnet,registration}.rs. Departures: the price of a subnet does
not double and creating one is not rate-limited; no collateral; the subnet limit is not
checked.
"""

from template.localnet.chain.pallets import balances, neurons, staking
from template.localnet.chain.state import DispatchFailed, State

_PALLET = "SubtensorModule"
_STABLE_MECHANISM = 0
_FIXED_ONE = 1 << 64


def register_network(state: State, origin: str, *, hotkey: str) -> None:
    """SubtensorModule.register_network: a new netuid, owned by the coldkey; hotkey is uid 0."""
    staking.associate(state, origin, hotkey)
    cost_rao = state.defaults.network_cost_rao
    if balances.spendable_rao(state, origin) < cost_rao:
        raise state.fail(_PALLET, "CannotAffordLockCost")
    netuid = _next_netuid(state)
    _set_hyperparameters(state, netuid)
    balances.move(state, origin, staking.subnet_account(netuid), cost_rao)
    _open_pool(state, netuid, cost_rao)
    storage = state.subtensor
    storage.put("SubnetOwner", netuid, value=origin)
    storage.put("SubnetOwnerHotkey", netuid, value=hotkey)
    storage.put("NetworkRegisteredAt", netuid, value=state.block_number)
    neurons.register(state, netuid, hotkey)
    state.emit(_PALLET, "NetworkAdded", (netuid, _STABLE_MECHANISM))


def start_call(state: State, origin: str, *, netuid: int) -> None:
    """SubtensorModule.start_call: the owner opens staking and emission from the next block."""
    storage = state.subtensor
    if not storage.get("NetworksAdded", netuid):
        raise state.fail(_PALLET, "SubnetNotExists")
    if storage.get("SubnetOwner", netuid) != origin:
        raise DispatchFailed("BadOrigin")
    if storage.contains("FirstEmissionBlockNumber", netuid):
        raise state.fail(_PALLET, "FirstEmissionBlockNumberAlreadySet")
    first_block = state.block_number + 1
    storage.put("FirstEmissionBlockNumber", netuid, value=first_block)
    storage.put("SubtokenEnabled", netuid, value=True)
    state.emit(_PALLET, "FirstEmissionBlockNumberSet", (netuid, first_block))


def burned_register(state: State, origin: str, *, netuid: int, hotkey: str) -> None:
    """SubtensorModule.burned_register: the coldkey burns the price, the hotkey gets a uid."""
    storage = state.subtensor
    if netuid == staking.ROOT_NETUID:
        raise state.fail(_PALLET, "RegistrationNotPermittedOnRootSubnet")
    if not storage.get("NetworksAdded", netuid):
        raise state.fail(_PALLET, "SubnetNotExists")
    if not storage.get("NetworkRegistrationAllowed", netuid):
        raise state.fail(_PALLET, "SubNetRegistrationDisabled")
    if neurons.uid_of(state, netuid, hotkey) is not None:
        raise state.fail(_PALLET, "HotKeyAlreadyRegisteredInSubNet")
    price_rao = int(storage.get("Burn", netuid))
    if balances.spendable_rao(state, origin) < price_rao:
        raise state.fail(_PALLET, "NotEnoughBalanceToStake")
    staking.associate(state, origin, hotkey)
    uid = neurons.register(state, netuid, hotkey)
    if uid is None:
        raise state.fail(_PALLET, "NoNeuronIdAvailable")
    balances.burn(state, origin, price_rao)
    storage.add("RAORecycledForRegistration", netuid, amount=price_rao)
    storage.add("RegistrationsThisBlock", netuid, amount=1)
    _raise_price(state, netuid, price_rao)
    state.emit(_PALLET, "NeuronRegistered", (netuid, uid, hotkey))


def decay_price(state: State, netuid: int) -> None:
    """One block of the registration price's decay: half in `BurnHalfLife` blocks, to `MinBurn`."""
    storage = state.subtensor
    factor = 0.5 ** (1.0 / storage.get("BurnHalfLife", netuid))
    price_rao = int(storage.get("Burn", netuid) * factor)
    floor_rao = storage.get("MinBurn", netuid)
    storage.put("Burn", netuid, value=max(price_rao, floor_rao))
    storage.put("RegistrationsThisBlock", netuid, value=0)


def _raise_price(state: State, netuid: int, price_rao: int) -> None:
    storage = state.subtensor
    raised = price_rao * storage.get("BurnIncreaseMult", netuid)["bits"] // _FIXED_ONE
    storage.put("Burn", netuid, value=min(raised, storage.get("MaxBurn", netuid)))


def _next_netuid(state: State) -> int:
    taken = {netuid for netuid, added in state.subtensor.entries("NetworksAdded") if added}
    return next(netuid for netuid in range(1, len(taken) + 2) if netuid not in taken)


def _set_hyperparameters(state: State, netuid: int) -> None:
    """Write what differs from the runtime's own defaults; the rest reads as those."""
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
        "CommitRevealWeightsEnabled": False,
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


def _open_pool(state: State, netuid: int, cost_rao: int) -> None:
    """The cost rests in the pool against as much alpha: a price of 1."""
    storage = state.subtensor
    storage.put("SubnetTAO", netuid, value=cost_rao)
    storage.put("SubnetAlphaIn", netuid, value=cost_rao)
    storage.put("SubnetLocked", netuid, value=cost_rao)
    state.alpha_assets.add("TotalAlphaIssuance", netuid, amount=cost_rao)
    storage.add("TotalStake", amount=cost_rao)
