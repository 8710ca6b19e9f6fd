"""Creating, starting and naming subnets: prices, paces, limits and errors."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localnet.chain.config import SubnetDefaults
from localnet.chain.metadata import load_metadata
from localnet.chain.pallets import networks, staking
from localnet.chain.state import State
from localnet.chain.storage import VersionedStore
from tests.support.localnet.signing import TAO, by_coldkey, create_network, events

PRICE_RAO = 1000 * TAO
INTERVAL_BLOCKS = 100_800
IDENTITY = dict.fromkeys(
    (
        "subnet_name",
        "github_repo",
        "subnet_contact",
        "subnet_url",
        "discord",
        "description",
        "logo_url",
        "additional",
    ),
    b"",
)


def test_a_new_network_belongs_to_its_payer_and_its_hotkey_is_uid_0(ledger: Any) -> None:
    owner = ledger.wallets["owner"]
    before = ledger.free_rao(owner.cold)
    assert create_network(ledger, "owner") == "ok"
    assert ledger.get("Keys", 1, 0) == owner.hot
    assert ledger.get("SubnetOwner", 1) == owner.cold
    assert ledger.get("SubnetOwnerHotkey", 1) == owner.hot
    assert ledger.free_rao(owner.cold) == before - PRICE_RAO
    assert ledger.free_rao(staking.subnet_account(1)) == PRICE_RAO
    assert ledger.get("TotalStake") == PRICE_RAO
    assert events(ledger, "SubtensorModule")[-1] == ("NetworkAdded", (1, 0))
    assert create_network(ledger, "owner") == "ok"
    assert ledger.get("NetworksAdded", 2)


def test_a_network_needs_its_price_and_an_own_hotkey(subnet: Any) -> None:
    dave, alice = subnet.wallets["dave"], subnet.wallets["alice"]
    taken = by_coldkey(subnet, "dave", "register_network", hotkey=alice.hot)
    assert taken == "NonAssociatedColdKey"
    system = by_coldkey(subnet, "dave", "register_network", hotkey=staking.subnet_account(1))
    assert system == "CannotUseSystemAccount"
    call = ("SubtensorModule", "register_network")
    assert subnet.call(dave.hotkey, *call, hotkey=dave.hot) == "CannotAffordLockCost"
    assert not subnet.get("NetworksAdded", 2)
    assert not subnet.chain.state_at(subnet.height).subtensor.contains("Owner", dave.hot)


def test_each_network_costs_twice_the_last_less_what_has_passed(
    make_ledger: Callable[..., Any],
) -> None:
    ledger = make_ledger(network_cost_rao=100 * TAO)
    owner = ledger.wallets["owner"]
    paid = []
    for _ in range(4):
        before = ledger.free_rao(owner.cold)
        assert create_network(ledger, "owner") == "ok"
        paid.append(before - ledger.free_rao(owner.cold))
        ledger.seal(9)
    assert paid[0] == 100 * TAO
    for last, now in itertools.pairwise(paid):
        assert now == 2 * last - last // INTERVAL_BLOCKS * 10
    assert ledger.get("NetworkLastLockCost") == paid[-1]


@settings(max_examples=100, deadline=None)
@given(last=st.integers(1, 10**15), minimum=st.integers(1, 10**13), passed=st.integers(0, 10**6))
def test_the_price_falls_to_the_last_after_an_interval_and_never_below_the_minimum(
    last: int, minimum: int, passed: int
) -> None:
    defaults = SubnetDefaults(network_cost_rao=minimum)
    state = State(load_metadata(), VersionedStore(), defaults)
    networks.write_genesis(state)
    state.system.put("Number", value=0)
    assert networks.cost_rao(state) == minimum
    state.subtensor.put("NetworkLastLockCost", value=last)
    state.subtensor.put("LastRateLimitedBlock", "NetworkLastRegistered", value=5)
    state.system.put("Number", value=5 + passed)
    cost = networks.cost_rao(state)
    assert cost >= minimum
    if passed == 0:
        assert cost == max(minimum, 2 * last)
    elif cost > minimum:
        exact = 2 * last - last * passed / INTERVAL_BLOCKS
        assert abs(cost - exact) <= passed + exact * 1e-9, "a whole rao a block is rounded off"


def test_two_networks_are_a_rate_limit_apart(make_ledger: Callable[..., Any]) -> None:
    ledger = make_ledger(network_rate_limit_blocks=5)
    assert create_network(ledger, "owner") == "ok"
    ledger.seal(3)
    assert create_network(ledger, "alice") == "NetworkTxRateLimitExceeded"
    assert create_network(ledger, "alice") == "ok"


def test_the_default_pace_and_limit_are_the_runtimes(ledger: Any) -> None:
    defaults = SubnetDefaults()
    codec = ledger.metadata.codec
    constant = codec.constant("SubtensorModule", "InitialNetworkRateLimit")
    assert defaults.network_rate_limit_blocks == constant == 7200
    assert defaults.network_cost_rao == codec.constant(
        "SubtensorModule", "InitialNetworkMinLockCost"
    )
    entry = ledger.metadata.entry("SubtensorModule", "SubnetLimit")
    assert codec.decode(entry.value_type, entry.default_bytes) == defaults.subnet_limit


def test_no_network_beyond_the_limit(make_ledger: Callable[..., Any]) -> None:
    ledger = make_ledger(subnet_limit=2, network_cost_rao=TAO)
    for name in ("owner", "alice"):
        assert create_network(ledger, name) == "ok"
    assert create_network(ledger, "bob") == "SubnetLimitReached"
    assert ledger.get("NetworksAdded", 3) is False


def test_only_the_owner_starts_a_subnet_and_only_once(ledger: Any) -> None:
    assert create_network(ledger, "owner") == "ok"
    assert by_coldkey(ledger, "alice", "start_call", netuid=1) == "BadOrigin"
    assert by_coldkey(ledger, "owner", "start_call", netuid=9) == "SubnetNotExists"
    assert by_coldkey(ledger, "owner", "start_call", netuid=1) == "ok"
    again = by_coldkey(ledger, "owner", "start_call", netuid=1)
    assert again == "FirstEmissionBlockNumberAlreadySet"


@pytest.mark.parametrize(
    ("field", "limit_bytes"),
    [("subnet_name", 256), ("discord", 256), ("github_repo", 1024), ("additional", 1024)],
)
def test_an_identity_fits_to_the_byte(subnet: Any, field: str, limit_bytes: int) -> None:
    def name(length: int, who: str = "owner", netuid: int = 1) -> str:
        # Not UTF-8, so that the codec hands it over as hex.
        identity: dict[str, Any] = {**IDENTITY, field: b"\xff" * length}
        return by_coldkey(subnet, who, "set_subnet_identity", netuid=netuid, **identity)

    assert name(1, netuid=5) == "SubnetNotExists"
    assert name(1, "alice") == "NotSubnetOwner"
    assert name(limit_bytes + 1) == "InvalidIdentity"
    assert subnet.get("SubnetIdentitiesV3", 1) is None
    assert name(limit_bytes) == "ok"
    assert subnet.get("SubnetIdentitiesV3", 1)[field] == "0x" + "ff" * limit_bytes
    assert events(subnet, "SubtensorModule") == [("SubnetIdentitySet", 1)]


def test_text_that_looks_like_hex_stays_text(subnet: Any) -> None:
    identity: dict[str, Any] = {**IDENTITY, "subnet_name": b"0xTessera", "description": b"0x4142"}
    assert by_coldkey(subnet, "owner", "set_subnet_identity", netuid=1, **identity) == "ok"
    stored = subnet.get("SubnetIdentitiesV3", 1)
    assert (stored["subnet_name"], stored["description"]) == ("0xTessera", "0x4142")


def test_a_network_may_be_named_as_it_is_created(ledger: Any) -> None:
    def create(identity: Any) -> str:
        hotkey = ledger.wallets["owner"].hot
        call = "register_network_with_identity"
        return by_coldkey(ledger, "owner", call, hotkey=hotkey, identity=identity)

    assert create({**IDENTITY, "subnet_name": b"a" * 257}) == "InvalidIdentity"
    assert create({**IDENTITY, "subnet_name": b"Tessera"}) == "ok"
    assert ledger.get("SubnetIdentitiesV3", 1)["subnet_name"] == "Tessera"
    assert create(None) == "ok"
    assert ledger.get("SubnetIdentitiesV3", 2) is None


def test_symbols_follow_the_netuid_and_are_never_shared(subnet: Any) -> None:
    def update(symbol: str, who: str = "owner") -> str:
        return by_coldkey(subnet, who, "update_symbol", netuid=1, symbol=symbol)

    assert subnet.get("TokenSymbol", 1) == "\u03b1"
    assert update("\u03b2", "alice") == "BadOrigin"
    assert update("nonsense") == "SymbolDoesNotExist"
    assert update("\u03b1") == "SymbolAlreadyInUse"
    assert update("\u03b2") == "ok"
    assert subnet.get("TokenSymbol", 1) == "\u03b2"
    assert create_network(subnet, "alice") == "ok"
    assert subnet.get("TokenSymbol", 2) == networks.SYMBOLS[0], "its own, beta, is taken"
    assert len(networks.SYMBOLS) == len(set(networks.SYMBOLS)) == 52
    assert networks.SYMBOLS[19] == "t"
    assert networks.SYMBOLS[24] == "\u03c9"
