"""TAO into stake and back, between positions, and that no rao and no alpha is made or lost."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localnet.chain.pallets import staking
from tests.support.localnet.signing import (
    TAO,
    S,
    by_coldkey,
    create_network,
    events,
    register,
    set_admin,
    stake,
    total_free_rao,
)

MIN = staking.MIN_STAKE_RAO


def held(ledger: Any, name: str, netuid: int = 1, hotkey_of: str | None = None) -> int:
    """Alpha of a wallet's coldkey on its own hotkey or another wallet's."""
    hotkey = ledger.wallets[hotkey_of or name].hot
    return int(ledger.get("Alpha", hotkey, ledger.wallets[name].cold, netuid)["bits"]) >> 64


def unstake(ledger: Any, name: str, rao: int, netuid: int = 1) -> str:
    args = {"hotkey": ledger.wallets[name].hot, "netuid": netuid, "amount_unstaked": rao}
    return by_coldkey(ledger, name, "remove_stake", **args)


@pytest.fixture
def two_subnets(subnet: Any) -> Any:
    """Subnet 1 as in `subnet`, and subnet 2 of dave's, started; alice holds 10 TAO on 1."""
    assert create_network(subnet, "dave") == "ok"
    assert by_coldkey(subnet, "dave", "start_call", netuid=2) == "ok"
    assert stake(subnet, "alice", 10 * TAO) == "ok"
    return subnet


def test_stake_buys_alpha_one_for_one_and_keeps_every_rao(subnet: Any) -> None:
    alice = subnet.wallets["alice"]
    before = subnet.free_rao(alice.cold), subnet.free_rao(staking.subnet_account(1))
    assert stake(subnet, "alice", 12_345_678_901) == "ok"
    assert subnet.get("TotalHotkeyAlpha", alice.hot, 1) == 12_345_678_901
    assert held(subnet, "alice") == 12_345_678_901
    assert subnet.free_rao(alice.cold) == before[0] - 12_345_678_901
    assert subnet.free_rao(staking.subnet_account(1)) == before[1] + 12_345_678_901


def test_root_stake_counts_by_the_tao_weight(subnet: Any) -> None:
    assert stake(subnet, "alice", 100 * TAO) == "ok"
    assert stake(subnet, "alice", 50 * TAO, netuid=0) == "ok"
    state = subnet.chain.state_at(subnet.height)
    weight = staking.stake_weight_rao(state, 1, subnet.wallets["alice"].hot)
    assert weight == 100 * TAO + 50 * TAO * 971_718_665_099_567_868 // 2**64


def test_stake_errors_are_the_runtimes_in_its_order(subnet: Any) -> None:
    assert stake(subnet, "alice", 0, netuid=5) == "SubnetNotExists"
    assert stake(subnet, "alice", MIN - 1) == "AmountTooLow"
    assert stake(subnet, "dave", 10**17) == "NotEnoughBalanceToStake"
    assert stake(subnet, "dave", MIN) == "HotKeyAccountNotExists"
    assert stake(subnet, "alice", MIN) == "ok"
    assert create_network(subnet, "dave") == "ok"
    assert stake(subnet, "dave", 0, netuid=2) == "SubtokenDisabled"


@pytest.mark.parametrize(
    ("limit_rao", "partial", "wanted"),
    [
        (TAO, False, "ok"),
        (TAO - 1, False, "SlippageTooHigh"),
        (TAO, True, "ok"),
        (TAO - 1, True, "AmountTooLow"),
    ],
)
def test_a_limit_price_below_one_tao_is_not_met(
    subnet: Any, limit_rao: int, partial: bool, wanted: str
) -> None:
    hotkey = subnet.wallets["alice"].hot
    args = {"hotkey": hotkey, "netuid": 1, "amount_staked": TAO, "limit_price": limit_rao}
    assert by_coldkey(subnet, "alice", "add_stake_limit", **args, allow_partial=partial) == wanted
    assert held(subnet, "alice") == (TAO if wanted == "ok" else 0)


def test_unstaking_gives_the_tao_back_to_the_rao(subnet: Any) -> None:
    alice = subnet.wallets["alice"]
    before, total = subnet.free_rao(alice.cold), subnet.get("TotalStake")
    assert stake(subnet, "alice", 10 * TAO + 7) == "ok"
    assert unstake(subnet, "alice", 4 * TAO) == "ok"
    assert held(subnet, "alice") == 6 * TAO + 7
    fields = (alice.cold, alice.hot, 4 * TAO, 4 * TAO, 1, 0)
    assert ("StakeRemoved", fields) in events(subnet, S)
    assert unstake(subnet, "alice", 2**64 - 1) == "ok", "more than there is means all of it"
    assert held(subnet, "alice") == 0
    assert subnet.free_rao(alice.cold) == before
    assert subnet.get("TotalStake") == total
    assert subnet.get("TotalAlphaStaked", 1) == subnet.get("TotalHotkeyAlpha", alice.hot, 1) == 0


def test_unstaking_errors_are_the_runtimes(subnet: Any) -> None:
    assert unstake(subnet, "alice", TAO, netuid=5) == "SubtokenDisabled"
    assert unstake(subnet, "alice", TAO) == "AmountTooLow", "there is nothing"
    assert stake(subnet, "alice", 3 * MIN) == "ok"
    assert unstake(subnet, "alice", 0) == "AmountTooLow"
    assert unstake(subnet, "alice", MIN - 1) == "AmountTooLow"
    assert unstake(subnet, "alice", 2 * MIN + 1) == "ok"
    assert unstake(subnet, "alice", MIN - 1) == "ok", "all that is left may be less"


@pytest.mark.parametrize(
    ("limit_rao", "partial", "rao", "wanted", "left"),
    [
        (TAO, False, 4 * TAO, "ok", 6 * TAO),
        (TAO + 1, False, 4 * TAO, "SlippageTooHigh", 10 * TAO),
        (TAO + 1, True, 4 * TAO, "ok", 10 * TAO),
        (0, False, 10 * TAO + 1, "NotEnoughStakeToWithdraw", 10 * TAO),
        (0, False, 0, "AmountTooLow", 10 * TAO),
    ],
)
def test_a_limit_price_above_one_tao_is_not_met(
    two_subnets: Any, limit_rao: int, partial: bool, rao: int, wanted: str, left: int
) -> None:
    hotkey = two_subnets.wallets["alice"].hot
    order = {"hotkey": hotkey, "netuid": 1, "amount_unstaked": rao, "limit_price": limit_rao}
    ended = by_coldkey(two_subnets, "alice", "remove_stake_limit", **order, allow_partial=partial)
    assert ended == wanted
    assert held(two_subnets, "alice") == left


def test_the_full_order_takes_everything(two_subnets: Any) -> None:
    hotkey = two_subnets.wallets["alice"].hot

    def full(limit: int | None, netuid: int = 1) -> str:
        order = {"hotkey": hotkey, "netuid": netuid, "limit_price": limit}
        return by_coldkey(two_subnets, "alice", "remove_stake_full_limit", **order)

    assert full(None, netuid=9) == "SubnetNotExists"
    assert full(TAO + 1) == "SlippageTooHigh"
    assert full(TAO) == "ok"
    assert full(None) == "AmountTooLow"
    assert stake(two_subnets, "alice", TAO) == "ok"
    assert full(None) == "ok"
    assert held(two_subnets, "alice") == 0


def test_unstake_all_empties_every_subnet_and_root(two_subnets: Any) -> None:
    alice = two_subnets.wallets["alice"]
    assert stake(two_subnets, "alice", 3 * TAO, netuid=2) == "ok"
    assert stake(two_subnets, "alice", 2 * TAO, netuid=0) == "ok"
    before = two_subnets.free_rao(alice.cold)
    unknown = by_coldkey(two_subnets, "alice", "unstake_all", hotkey=alice.cold)
    assert unknown == "HotKeyAccountNotExists"
    assert by_coldkey(two_subnets, "alice", "unstake_all", hotkey=alice.hot) == "ok"
    assert [held(two_subnets, "alice", netuid) for netuid in (0, 1, 2)] == [0, 0, 0]
    assert two_subnets.free_rao(alice.cold) == before + 15 * TAO


def test_unstake_all_alpha_moves_everything_to_root(two_subnets: Any) -> None:
    alice = two_subnets.wallets["alice"]
    assert stake(two_subnets, "alice", 3 * TAO, netuid=2) == "ok"
    before = two_subnets.free_rao(alice.cold)
    assert by_coldkey(two_subnets, "alice", "unstake_all_alpha", hotkey=alice.hot) == "ok"
    assert [held(two_subnets, "alice", netuid) for netuid in (0, 1, 2)] == [13 * TAO, 0, 0]
    assert two_subnets.free_rao(alice.cold) == before
    nothing = by_coldkey(two_subnets, "alice", "unstake_all_alpha", hotkey=alice.hot)
    assert nothing == "AmountTooLow"


def test_emitted_alpha_has_no_tao_behind_it_for_ever(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    ledger = populated(make_ledger(network_cost_rao=TAO))
    assert stake(ledger, "alice", TAO) == "ok"
    ledger.seal(45)
    assert held(ledger, "alice") > 3 * TAO
    assert unstake(ledger, "alice", 2 * TAO + 1) == "InsufficientLiquidity"
    assert unstake(ledger, "alice", 2 * TAO) == "ok"
    assert ledger.free_rao(staking.subnet_account(1)) == 0


def test_a_gift_to_the_subnets_account_pays_for_alpha_and_breaks_nothing(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    ledger = populated(make_ledger(network_cost_rao=TAO))
    assert stake(ledger, "alice", TAO) == "ok"
    ledger.seal(45)
    account = staking.subnet_account(1)
    gift = {"dest": account, "value": 100 * TAO}
    assert by_coldkey(ledger, "bob", "transfer_keep_alive", "Balances", **gift) == "ok"
    sold = held(ledger, "alice")
    assert unstake(ledger, "alice", sold) == "ok"
    assert ledger.free_rao(account) == 102 * TAO - sold
    assert ledger.get("TotalStake") == 0 < sold - 2 * TAO


# Between positions


def route(source: int, dest: int, rao: int) -> dict[str, Any]:
    return {"origin_netuid": source, "destination_netuid": dest, "alpha_amount": rao}


def test_stake_moves_between_hotkeys_and_subnets(two_subnets: Any) -> None:
    alice, bob = two_subnets.wallets["alice"], two_subnets.wallets["bob"]
    ends = {"origin_hotkey": alice.hot, "destination_hotkey": bob.hot}
    assert by_coldkey(two_subnets, "alice", "move_stake", **ends, **route(1, 1, 1)) == "ok"
    assert held(two_subnets, "alice", 1, "bob") == 1, "no minimum within a subnet"
    assert by_coldkey(two_subnets, "alice", "move_stake", **ends, **route(1, 2, TAO)) == "ok"
    assert held(two_subnets, "alice", 2, "bob") == TAO
    assert held(two_subnets, "alice") == 9 * TAO - 1
    moved = (alice.cold, alice.hot, 1, bob.hot, 2, TAO)
    assert ("StakeMoved", moved) in events(two_subnets, S)


def test_stake_swaps_to_another_subnet_on_one_hotkey(two_subnets: Any) -> None:
    alice = two_subnets.wallets["alice"]

    def swap(*, limit: int | None = None, partial: bool = False) -> str:
        args: dict[str, Any] = {"hotkey": alice.hot, **route(1, 2, TAO)}
        if limit is None:
            return by_coldkey(two_subnets, "alice", "swap_stake", **args)
        prices: dict[str, Any] = {"limit_price": limit, "allow_partial": partial}
        return by_coldkey(two_subnets, "alice", "swap_stake_limit", **args, **prices)

    assert swap() == "ok"
    assert swap(limit=TAO) == "ok"
    assert swap(limit=TAO + 1) == "SlippageTooHigh"
    assert swap(limit=TAO + 1, partial=True) == "ok"
    assert held(two_subnets, "alice", 2) == 2 * TAO
    assert held(two_subnets, "alice", 1) == 8 * TAO


def test_a_transfer_changes_the_coldkey_unless_the_owner_forbids_it(two_subnets: Any) -> None:
    alice, bob = two_subnets.wallets["alice"], two_subnets.wallets["bob"]

    def transfer(rao: int, source: int = 1, dest: int = 1) -> str:
        args = {"destination_coldkey": bob.cold, "hotkey": alice.hot}
        return by_coldkey(
            two_subnets, "alice", "transfer_stake", **args, **route(source, dest, rao)
        )

    assert transfer(TAO) == "ok"
    assert held(two_subnets, "bob", 1, "alice") == TAO
    assert transfer(100_000, 1, 2) == "AmountTooLow"
    assert transfer(100_001, 1, 2) == "ok"
    assert held(two_subnets, "bob", 2, "alice") == 100_001
    while two_subnets.height != two_subnets.get("LastEpochBlock", 1):
        two_subnets.seal()
    assert set_admin(two_subnets, "toggle_transfer", toggle=False) == "ok"
    assert transfer(TAO) == "TransferDisallowed"
    hotkeys = {"origin_hotkey": alice.hot, "destination_hotkey": bob.hot}
    own = by_coldkey(two_subnets, "alice", "move_stake", **hotkeys, **route(1, 1, TAO))
    assert own == "ok", "one's own stake still moves"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"destination_hotkey": "alice", "destination_netuid": 1}, "SameNetuid"),
        ({"origin_netuid": 9}, "SubnetNotExists"),
        ({"destination_netuid": 9}, "SubnetNotExists"),
        ({"destination_netuid": 3}, "SubtokenDisabled"),
        ({"destination_hotkey": "nobody"}, "HotKeyAccountNotExists"),
        ({"alpha_amount": 10 * TAO + 1}, "NotEnoughStakeToWithdraw"),
        ({"alpha_amount": MIN}, "AmountTooLow"),
        ({"alpha_amount": MIN + 1}, "ok"),
    ],
)
def test_move_errors_are_the_runtimes(
    two_subnets: Any, changes: dict[str, Any], wanted: str
) -> None:
    assert create_network(two_subnets, "bob") == "ok"  # subnet 3 is not started
    hotkeys = {name: wallet.hot for name, wallet in two_subnets.wallets.items()}
    hotkeys["nobody"] = two_subnets.wallets["alice"].cold
    args = {"origin_hotkey": "alice", "destination_hotkey": "bob", **route(1, 2, TAO), **changes}
    for end in ("origin_hotkey", "destination_hotkey"):
        args[end] = hotkeys[args[end]]
    assert by_coldkey(two_subnets, "alice", "move_stake", **args) == wanted


# Conservation

WHO = st.sampled_from(("owner", "alice", "bob", "carol"))
AMOUNT = st.one_of(st.sampled_from((0, 1, MIN - 1, MIN, TAO)), st.integers(0, 200_000 * TAO))
NETUID = st.integers(0, 3)
STEPS = st.lists(
    st.tuples(st.integers(0, 9), WHO, WHO, AMOUNT, NETUID, NETUID), min_size=1, max_size=12
)


def submit_step(ledger: Any, step: tuple[int, str, str, int, int, int]) -> None:
    """Put one call into the pool; whether it succeeds is not the point."""
    kind, name, other, rao, netuid, dest = step
    wallet, far = ledger.wallets[name], ledger.wallets[other]
    ends = {"origin_hotkey": wallet.hot, "destination_hotkey": far.hot}
    transfer = {"destination_coldkey": far.cold, "hotkey": wallet.hot}
    own: dict[str, Any] = {"hotkey": wallet.hot, "netuid": netuid}
    limit = {"limit_price": TAO, "allow_partial": bool(rao % 2)}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        (S, "add_stake", {**own, "amount_staked": rao}),
        (S, "remove_stake", {**own, "amount_unstaked": rao}),
        (S, "remove_stake_limit", {**own, "amount_unstaked": rao, **limit}),
        (S, "unstake_all", {"hotkey": wallet.hot}),
        (S, "unstake_all_alpha", {"hotkey": wallet.hot}),
        (S, "move_stake", {**ends, **route(netuid, dest, rao)}),
        (S, "transfer_stake", {**transfer, **route(netuid, dest, rao)}),
        (S, "register_network", {"hotkey": wallet.hot}),
        ("Balances", "transfer_allow_death", {"dest": far.cold, "value": rao}),
        ("Balances", "transfer_all", {"dest": far.cold, "keep_alive": bool(rao % 2)}),
    ]
    pallet, function, args = calls[kind]
    ledger.chain.submit(ledger.sign(wallet.coldkey, pallet, function, **args))


def assert_conserved(ledger: Any, names: tuple[str, ...], *, dust_rao: int = 0) -> None:
    """Every counter is the sum of what it counts; `dust_rao` is what epochs may round off."""
    state = ledger.chain.state_at(ledger.height)
    assert state.balances.get("TotalIssuance") == total_free_rao(ledger)
    assert state.subtensor.get("TotalIssuance") == total_free_rao(ledger)
    netuids = [netuid for netuid, added in state.subtensor.entries("NetworksAdded") if added]
    accounts = [ledger.free_rao(staking.subnet_account(netuid)) for netuid in netuids]
    assert state.subtensor.get("TotalStake") == sum(accounts)
    wallets = [ledger.wallets[name] for name in names]
    for netuid in netuids:
        alpha = {
            hot.hot: sum(
                staking.coldkey_alpha_rao(state, netuid, hot.hot, cold.cold) for cold in wallets
            )
            for hot in wallets
        }
        totals = {hot.hot: staking.alpha_rao(state, netuid, hot.hot) for hot in wallets}
        assert alpha == totals
        assert state.subtensor.get("TotalAlphaStaked", netuid) == sum(alpha.values())
        pending = ("PendingServerEmission", "PendingValidatorEmission", "PendingOwnerCut")
        unpaid = sum(state.subtensor.get(item, netuid) for item in pending)
        out = state.subtensor.get("SubnetAlphaOut", netuid)
        assert 0 <= out - sum(alpha.values()) - unpaid <= dust_rao
        issued = state.alpha_assets.get("TotalAlphaIssuance", netuid)
        assert issued == out + state.subtensor.get("SubnetAlphaIn", netuid)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_no_sequence_of_calls_makes_or_loses_tao_or_alpha(
    make_ledger: Callable[..., Any],
    populated: Callable[..., Any],
    steps: list[tuple[int, str, str, int, int, int]],
) -> None:
    # No epoch ends meanwhile: what one cannot pay out is nobody's.
    ledger = populated(make_ledger(network_cost_rao=TAO, tempo_blocks=360))
    for index, step in enumerate(steps):
        submit_step(ledger, step)
        if index % 3 == 2:
            ledger.seal()
    ledger.seal()
    assert_conserved(ledger, tuple(ledger.wallets))


def test_tao_is_conserved_by_registrations_and_epochs(subnet: Any) -> None:
    stake(subnet, "alice", 77 * TAO)
    stake(subnet, "bob", 3 * TAO, netuid=0)
    assert register(subnet, "dave") == "ok"
    subnet.seal(45)
    burned = subnet.get("RAORecycledForRegistration", 1)
    assert total_free_rao(subnet) + burned == 5 * 100_000 * TAO
    assert burned > 0
    assert_conserved(subnet, tuple(subnet.wallets), dust_rao=20)
