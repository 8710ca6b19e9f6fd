"""Epochs: when they run, whom they pay, and that no rao of alpha is lost or made up."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from template.localnet.chain import epoch
from template.localnet.chain.config import RAO_PER_TAO

S = "SubtensorModule"
TAO = RAO_PER_TAO
OWNER_RAO = TAO * 11796 // 65535


def set_weights(ledger: Any, name: str, row: dict[int, int]) -> str:
    args = {"dests": list(row), "weights": list(row.values()), "version_key": 0}
    return ledger.call(ledger.wallets[name].hotkey, S, "set_weights", netuid=1, **args)


def stake(ledger: Any, name: str, rao: int) -> None:
    wallet = ledger.wallets[name]
    args = {"hotkey": wallet.hot, "netuid": 1, "amount_staked": rao}
    assert ledger.call(wallet.coldkey, S, "add_stake", **args) == "ok"


def alpha(ledger: Any, name: str) -> int:
    return ledger.get("TotalHotkeyAlpha", ledger.wallets[name].hot, 1)


def run_to_epoch(ledger: Any) -> int:
    """Seal blocks up to and including the next epoch's; returns its block."""
    index = ledger.get("SubnetEpochIndex", 1)
    while ledger.get("SubnetEpochIndex", 1) == index:
        ledger.seal()
    return ledger.height


@pytest.fixture
def scored(subnet: Any) -> Any:
    """alice validates with 1000 TAO and weighs bob 3 : 1 against carol; one epoch has paid."""
    stake(subnet, "alice", 1000 * TAO)
    run_to_epoch(subnet)
    assert set_weights(subnet, "alice", {2: 75, 3: 25}) == "ok"
    run_to_epoch(subnet)
    return subnet


def test_epochs_run_every_tempo_and_the_view_foretells_them(subnet: Any) -> None:
    first = run_to_epoch(subnet)
    state = subnet.chain.state_at(first)
    assert epoch.next_epoch_block(state, 1) == first + 20
    assert run_to_epoch(subnet) == first + 20
    assert run_to_epoch(subnet) == first + 40
    assert subnet.get("BlocksSinceLastStep", 1) == 0
    assert subnet.get("LastMechansimStepBlock", 1) == first + 40


def test_an_epoch_pays_miners_by_weight_and_validators_by_dividends(scored: Any) -> None:
    before = {name: alpha(scored, name) for name in ("owner", "alice", "bob", "carol")}
    run_to_epoch(scored)
    paid = {name: alpha(scored, name) - before[name] for name in before}
    miners = 20 * ((TAO - OWNER_RAO) // 2)
    assert paid["owner"] == 20 * OWNER_RAO
    assert paid["bob"] == pytest.approx(0.75 * miners, rel=1e-4)
    assert paid["carol"] == pytest.approx(0.25 * miners, rel=1e-4)
    assert paid["alice"] == pytest.approx(miners, rel=1e-6)
    assert scored.get("Emission", 1) == [0, paid["alice"], paid["bob"], paid["carol"]]
    incentive = scored.get("Incentive", 1)
    assert incentive[2] == pytest.approx(0.75 * 65535, abs=2)
    assert scored.get("Dividends", 1)[1] >= 65534


def test_alpha_is_conserved_to_the_rao(scored: Any) -> None:
    for _ in range(3):
        run_to_epoch(scored)
    scored.seal(7)
    state = scored.chain.state_at(scored.height)
    held = sum(alpha(scored, name) for name in ("owner", "alice", "bob", "carol"))
    pending = sum(
        state.subtensor.get(item, 1)
        for item in ("PendingServerEmission", "PendingValidatorEmission", "PendingOwnerCut")
    )
    burned = state.alpha_assets.get("AlphaBurned", 1)
    created = state.subtensor.get("SubnetAlphaOut", 1)
    assert held + pending + burned == created
    assert pending == 7 * TAO
    assert held == state.subtensor.get("TotalAlphaStaked", 1)
    emitting = scored.height - state.subtensor.get("FirstEmissionBlockNumber", 1) + 1
    assert created == emitting * TAO + 1000 * TAO


def test_incentive_of_the_owners_hotkey_is_burned(scored: Any) -> None:
    scored.seal(5)
    assert set_weights(scored, "alice", {0: 60, 2: 40}) == "ok"
    burned = scored.chain.state_at(scored.height).alpha_assets.get("AlphaBurned", 1)
    before = alpha(scored, "owner")
    run_to_epoch(scored)
    assert alpha(scored, "owner") - before == 20 * OWNER_RAO
    now = scored.chain.state_at(scored.height).alpha_assets.get("AlphaBurned", 1)
    assert now - burned == pytest.approx(0.6 * 20 * (TAO - OWNER_RAO) / 2, rel=1e-3)
    assert scored.get("Emission", 1)[0] == 0


def test_without_weights_validators_take_the_miners_half(subnet: Any) -> None:
    stake(subnet, "alice", 1000 * TAO)
    run_to_epoch(subnet)
    before = alpha(subnet, "alice"), alpha(subnet, "owner")
    assert before[1] > 0, "the owner has stake from its cut and may validate"
    run_to_epoch(subnet)
    paid = subnet.get("Emission", 1)
    assert sum(paid) == pytest.approx(20 * (TAO - OWNER_RAO), rel=1e-6)
    assert paid[2] == paid[3] == 0
    assert paid[1] > 0.9 * sum(paid)


def test_with_no_stake_at_all_the_miners_and_validators_alpha_is_burned(
    make_ledger: Callable[..., Any],
) -> None:
    ledger = make_ledger()
    owner = ledger.wallets["owner"]
    ledger.call(owner.coldkey, S, "register_network", hotkey=owner.hot)
    ledger.call(owner.coldkey, S, "start_call", netuid=1)
    run_to_epoch(ledger)
    state = ledger.chain.state_at(ledger.height)
    cut = alpha(ledger, "owner")
    assert cut % OWNER_RAO == 0 < cut
    created = state.subtensor.get("SubnetAlphaOut", 1)
    assert cut + state.alpha_assets.get("AlphaBurned", 1) == created


def test_a_subnet_that_was_not_started_emits_nothing(ledger: Any) -> None:
    owner = ledger.wallets["owner"]
    ledger.call(owner.coldkey, S, "register_network", hotkey=owner.hot)
    ledger.seal(50)
    assert ledger.get("SubnetAlphaOut", 1) == 0
    assert ledger.get("SubnetEpochIndex", 1) == 2


def test_permits_go_to_the_heaviest_stakes_at_the_epoch(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    ledger = populated(make_ledger(max_validators=1))
    stake(ledger, "alice", 1000 * TAO)
    stake(ledger, "bob", 2000 * TAO)
    assert ledger.get("ValidatorPermit", 1) == [False] * 4
    run_to_epoch(ledger)
    permits = ledger.get("ValidatorPermit", 1)
    assert permits[1:] == [False, True, False]


def test_past_epochs_stay_readable(scored: Any) -> None:
    block = scored.height
    then = scored.get("Emission", 1), alpha(scored, "bob")
    assert then[1] > 0
    run_to_epoch(scored)
    run_to_epoch(scored)
    bob = scored.wallets["bob"].hot
    assert scored.get("Emission", 1, block=block) == then[0]
    assert scored.get("TotalHotkeyAlpha", bob, 1, block=block) == then[1]
    assert alpha(scored, "bob") > then[1]


@given(st.integers(0, 2**62), st.lists(st.floats(0, 1), max_size=40))
def test_a_split_never_pays_more_than_there_is(total: int, weights: list[float]) -> None:
    whole = sum(weights)
    shares = [weight / whole for weight in weights] if whole else weights
    paid = epoch.split(total, shares)
    assert sum(paid) <= total
    assert all(0 <= rao <= total for rao in paid)
    if whole:
        assert sum(paid) >= total - total // 10**12 - len(paid)


@pytest.mark.parametrize("shares", [[], [0.0, 0.0]])
def test_a_split_without_shares_pays_nobody(shares: list[float]) -> None:
    assert sum(epoch.split(1000, shares)) == 0
