"""Buying a uid: its price, its refusals, and which uid makes room for it."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localnet.chain.config import SubnetDefaults
from localnet.chain.metadata import load_metadata
from localnet.chain.pallets import neurons
from localnet.chain.pallets.staking import subnet_account
from localnet.chain.state import State
from localnet.chain.storage import VersionedStore
from tests.support.localnet.signing import (
    TAO,
    by_coldkey,
    by_hotkey,
    create_network,
    events,
    register,
    set_admin,
    stake,
)

ADDRESSES = [subnet_account(number) for number in range(1000, 1012)]


def set_weights(ledger: Any, name: str, row: dict[int, int]) -> str:
    dests, weights = list(row), list(row.values())
    args: dict[str, Any] = {"netuid": 1, "dests": dests, "weights": weights, "version_key": 0}
    return by_hotkey(ledger, name, "set_weights", **args)


def test_registration_burns_the_price_and_raises_it(subnet: Any) -> None:
    dave = subnet.wallets["dave"]
    price = subnet.get("Burn", 1)
    before = subnet.free_rao(dave.cold)
    issued = subnet.get("TotalIssuance")
    assert register(subnet, "dave") == "ok"
    paid = before - subnet.free_rao(dave.cold)
    assert price * 0.99 < paid <= price
    assert issued - subnet.get("TotalIssuance") == paid
    assert subnet.get("Burn", 1) == pytest.approx(1.26 * paid, rel=1e-6)
    assert subnet.get("Uids", 1, dave.hot) == 4
    assert subnet.get("Owner", dave.hot) == dave.cold
    assert events(subnet, "SubtensorModule") == [("NeuronRegistered", (1, 4, dave.hot))]
    subnet.seal(360)
    assert subnet.get("Burn", 1) == pytest.approx(0.63 * paid, rel=1e-4)


def test_the_price_is_the_only_limit_within_one_block(subnet: Any) -> None:
    """`MaxRegistrationsPerBlock` is 1, and the runtime does not read it any more."""
    chain, alice = subnet.chain, subnet.wallets["alice"]
    for address in [subnet.wallets[name].cold for name in ("bob", "carol", "dave")]:
        args = {"netuid": 1, "hotkey": address}
        chain.submit(subnet.sign(alice.coldkey, "SubtensorModule", "burned_register", **args))
    subnet.seal()
    assert subnet.outcomes() == ["ok"] * 3
    assert subnet.get("RegistrationsThisBlock", 1) == 3


def test_registration_errors_are_the_runtimes(subnet: Any) -> None:
    alice, dave = subnet.wallets["alice"], subnet.wallets["dave"]

    def buy(payer: Any, hotkey: str, netuid: int = 1) -> str:
        call = ("SubtensorModule", "burned_register")
        return str(subnet.call(payer, *call, netuid=netuid, hotkey=hotkey))

    assert buy(alice.coldkey, alice.hot) == "HotKeyAlreadyRegisteredInSubNet"
    assert buy(dave.coldkey, dave.hot, 7) == "SubnetNotExists"
    assert buy(dave.coldkey, dave.hot, 0) == "RegistrationNotPermittedOnRootSubnet"
    assert buy(dave.hotkey, dave.hot) == "NotEnoughBalanceToStake"
    assert buy(dave.coldkey, subnet_account(1)) == "CannotUseSystemAccount"
    args = {"hotkey": dave.hot}
    assert by_coldkey(subnet, "alice", "register_network", **args) == "ok"
    assert buy(dave.coldkey, dave.hot) == "NonAssociatedColdKey"


def test_a_price_limit_is_kept_to_the_rao(subnet: Any) -> None:
    dave = subnet.wallets["dave"]

    def buy(limit_price: int, netuid: int = 1) -> str:
        args = {"netuid": netuid, "hotkey": dave.hot, "limit_price": limit_price}
        return by_coldkey(subnet, "dave", "register_limit", **args)

    assert buy(TAO, 0) == "RegistrationNotPermittedOnRootSubnet"
    assert buy(TAO, 7) == "SubnetNotExists"
    half_life_blocks = subnet.get("BurnHalfLife", 1)
    next_price = int(subnet.get("Burn", 1) * 0.5 ** (1.0 / half_life_blocks))
    assert buy(next_price - 1) == "RegistrationPriceLimitExceeded"
    next_price = int(subnet.get("Burn", 1) * 0.5 ** (1.0 / half_life_blocks))
    assert buy(next_price) == "ok"


def test_the_price_stays_between_what_the_owner_set(subnet: Any) -> None:
    subnet.seal(20 - subnet.height % 20)
    while subnet.height != subnet.get("LastEpochBlock", 1):
        subnet.seal()
    assert set_admin(subnet, "min_burn", min_burn=TAO - 1) == "ok"
    subnet.seal()
    assert subnet.get("Burn", 1) == TAO - 1
    assert set_admin(subnet, "max_burn", max_burn=TAO + 1) == "ok"
    assert register(subnet, "dave") == "ok"
    assert subnet.get("Burn", 1) == TAO + 1


def test_a_full_subnet_of_immune_uids_replaces_the_oldest_but_never_the_owner(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    ledger = populated(make_ledger(max_uids=4))
    alice, dave = ledger.wallets["alice"], ledger.wallets["dave"]
    assert register(ledger, "dave") == "ok"
    assert ledger.get("Uids", 1, dave.hot) == 1
    assert ledger.get("Uids", 1, alice.hot) is None
    assert ledger.get("SubnetworkN", 1) == 4
    assert ledger.get("Keys", 1, 0) == ledger.wallets["owner"].hot


def test_a_full_subnet_prunes_the_least_paid_uid_outside_immunity(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    limits = {"max_uids": 4, "immunity_period_blocks": 1, "min_non_immune_uids": 0}
    ledger = populated(make_ledger(**limits))
    for name in ("alice", "carol"):
        assert stake(ledger, name, 10 * TAO) == "ok"
    ledger.seal(25)
    emission = ledger.get("Emission", 1)
    assert emission[2] == 0 < min(emission[1], emission[3])
    assert register(ledger, "dave") == "ok"
    assert ledger.get("Uids", 1, ledger.wallets["dave"].hot) == 2


def test_pruning_clears_what_the_uid_said_and_what_was_said_of_it(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    ledger = populated(make_ledger(max_uids=4))
    ledger.seal(5)
    assert set_weights(ledger, "owner", {1: 7, 2: 14}) == "ok"
    assert set_weights(ledger, "alice", {1: 1}) == "ok"
    assert register(ledger, "dave") == "ok"
    assert ledger.get("Weights", 1, 1) == []
    assert ledger.get("Weights", 1, 0) == [(1, 0), (2, 65535)]
    assert ledger.get("BlockAtRegistration", 1, 1) == ledger.height


def test_a_pruned_validator_leaves_no_permit_no_bonds_and_no_pay_to_its_successor(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    """Others' bonds to the uid stay in storage until the next epoch, which ignores them."""
    ledger = populated(make_ledger(max_uids=4))
    for name, stake_tao in (("owner", 100), ("alice", 1), ("bob", 100)):
        assert stake(ledger, name, stake_tao * TAO) == "ok"
    ledger.seal(20)
    assert set_weights(ledger, "alice", {3: 1, 2: 1}) == "ok"
    for name in ("owner", "bob"):
        assert set_weights(ledger, name, {3: 9, 1: 1}) == "ok"
    ledger.seal(20)
    assert ledger.get("ValidatorPermit", 1)[1]
    assert dict(ledger.get("Bonds", 1, 2)).keys() == {1, 3}
    assert register(ledger, "dave") == "ok"
    assert ledger.get("Uids", 1, ledger.wallets["dave"].hot) == 1
    assert ledger.get("ValidatorPermit", 1)[1] is False
    assert ledger.get("Bonds", 1, 1) == []
    assert dict(ledger.get("Weights", 1, 2))[1] == 0
    for item in ("Incentive", "Dividends", "Consensus", "ValidatorTrust", "Emission"):
        assert ledger.get(item, 1)[1] == 0
    index = ledger.get("SubnetEpochIndex", 1)
    while ledger.get("SubnetEpochIndex", 1) == index:
        ledger.seal()
    assert 1 not in dict(ledger.get("Bonds", 1, 2))
    assert ledger.get("Incentive", 1)[1] == ledger.get("Emission", 1)[1] == 0
    assert ledger.get("Incentive", 1)[3] > 0, "others are still paid"


def test_a_full_subnet_without_anyone_to_prune_has_no_uid(
    make_ledger: Callable[..., Any],
) -> None:
    ledger = make_ledger(max_uids=1)
    assert create_network(ledger, "owner") == "ok"
    alice = ledger.wallets["alice"]
    before = ledger.free_rao(alice.cold)
    assert register(ledger, "alice") == "NoNeuronIdAvailable"
    assert ledger.free_rao(alice.cold) == before


# Which uid is pruned, against a naive reference on any state.


Uid = tuple[int, int, bool]  # emission, block at registration, whether the owner's coldkey has it
SUBNETS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 6), st.booleans()), min_size=1, max_size=8
)


def make_state(uids: list[Uid], *, limits: tuple[int, int, int], owner_uid: int | None) -> State:
    """A bare state with subnet 1 at block 10; `limits` are immunity, min non-immune, immortal."""
    state = State(load_metadata(), VersionedStore(), SubnetDefaults())
    storage, coldkey = state.subtensor, ADDRESSES[-1]
    state.system.put("Number", value=10)
    storage.put("SubnetOwner", 1, value=coldkey)
    storage.put("SubnetworkN", 1, value=len(uids))
    storage.put("Emission", 1, value=[emission for emission, _, _ in uids])
    items = ("ImmunityPeriod", "MinNonImmuneUids", "ImmuneOwnerUidsLimit")
    for item, value in zip(items, limits, strict=True):
        storage.put(item, 1, value=value)
    for uid, (_, block, _) in enumerate(uids):
        storage.put("Keys", 1, uid, value=ADDRESSES[uid])
        storage.put("Uids", 1, ADDRESSES[uid], value=uid)
        storage.put("BlockAtRegistration", 1, uid, value=block)
    owned = [ADDRESSES[uid] for uid, (_, _, is_owned) in enumerate(uids) if is_owned]
    storage.put("OwnedHotkeys", coldkey, value=owned[::-1])
    if owner_uid is not None:
        storage.put("SubnetOwnerHotkey", 1, value=ADDRESSES[owner_uid])
    return state


def naive_uid_to_prune(
    uids: list[Uid], *, limits: tuple[int, int, int], owner_uid: int | None
) -> int | None:
    immunity_blocks, min_free, num_immortal = limits
    owned = sorted((block, uid) for uid, (_, block, is_owned) in enumerate(uids) if is_owned)
    immortal = [uid for _, uid in owned][:num_immortal]
    if owner_uid is not None and owner_uid not in immortal:
        immortal = ([owner_uid, *immortal])[:num_immortal]
    rest = [uid for uid in range(len(uids)) if uid not in immortal]
    free = [uid for uid in rest if 10 - uids[uid][1] >= immunity_blocks]
    candidates = free if len(free) > min_free else [uid for uid in rest if uid not in free]
    ranked = sorted(candidates, key=lambda uid: (uids[uid][0], uids[uid][1], uid))
    return ranked[0] if ranked else None


@settings(max_examples=150, deadline=None)
@given(
    uids=SUBNETS,
    limits=st.tuples(st.integers(0, 12), st.integers(0, 4), st.integers(1, 4)),
    data=st.data(),
)
def test_the_pruned_uid_is_the_naive_one(
    uids: list[Uid], limits: tuple[int, int, int], data: st.DataObject
) -> None:
    owner_uid = data.draw(st.one_of(st.none(), st.integers(0, len(uids) - 1)))
    state = make_state(uids, limits=limits, owner_uid=owner_uid)
    wanted = naive_uid_to_prune(uids, limits=limits, owner_uid=owner_uid)
    assert neurons.uid_to_prune(state, 1) == wanted
    assert owner_uid is None or wanted != owner_uid, "the owner's own uid never goes"
