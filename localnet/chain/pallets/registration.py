"""Buying a uid on a subnet, and its price.

Source: subtensor, subnets/registration.rs. The runtime of this metadata limits registrations
by price alone: only root's registration, not offered here, reads `MaxRegistrationsPerBlock` and
the targets per interval. Departure: no collateral.
"""

from localnet.chain.pallets import balances, neurons, staking
from localnet.chain.state import State

_PALLET = "SubtensorModule"
_FIXED_ONE = 1 << 64


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


def register_limit(
    state: State, origin: str, *, netuid: int, hotkey: str, limit_price: int
) -> None:
    """SubtensorModule.register_limit: `burned_register` up to a price in rao."""
    if netuid == staking.ROOT_NETUID:
        raise state.fail(_PALLET, "RegistrationNotPermittedOnRootSubnet")
    if not state.subtensor.get("NetworksAdded", netuid):
        raise state.fail(_PALLET, "SubnetNotExists")
    if state.subtensor.get("Burn", netuid) > limit_price:
        raise state.fail(_PALLET, "RegistrationPriceLimitExceeded")
    burned_register(state, origin, netuid=netuid, hotkey=hotkey)


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
