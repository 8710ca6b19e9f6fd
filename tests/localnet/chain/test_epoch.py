"""Epochs: when they run, whom they pay, and that no rao of alpha is lost or made up."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localnet.chain import epoch, schedule
from localnet.chain.config import RAO_PER_TAO, ChainConfig, SubnetDefaults
from tests.support.localnet.ledger import ENDOWMENT_RAO, NAMES, Ledger, LocalWallet, populate
from tests.support.localnet.signing import set_admin

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
    assert schedule.next_epoch_block(state, 1) == first + 20
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


def test_incentive_of_a_hotkey_named_as_the_owners_is_burned_whoever_holds_its_coldkey(
    scored: Any,
) -> None:
    carol = scored.wallets["carol"]
    assert set_admin(scored, "sn_owner_hotkey", hotkey=carol.hot) == "ok"
    before = {name: alpha(scored, name) for name in ("bob", "carol")}
    start = scored.chain.state_at(scored.height).alpha_assets.get("AlphaBurned", 1)
    run_to_epoch(scored)
    now = scored.chain.state_at(scored.height).alpha_assets.get("AlphaBurned", 1)
    miners = 20 * ((TAO - OWNER_RAO) // 2)
    assert alpha(scored, "bob") - before["bob"] == pytest.approx(0.75 * miners, rel=1e-4)
    assert alpha(scored, "carol") - before["carol"] == 20 * OWNER_RAO, "the cut, and no incentive"
    assert now - start == pytest.approx(0.25 * miners, rel=1e-4)
    assert scored.get("Emission", 1)[3] == 0


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


# The schedule


def put(ledger: Any, item: str, *keys: Any, value: Any) -> None:
    """Write a storage item in the open block, as the runtime's root may."""
    ledger.chain._state.subtensor.put(item, *keys, value=value)


def epoch_blocks(ledger: Any, num_blocks: int, netuid: int = 1) -> list[int]:
    """Which of the next blocks run an epoch of the subnet."""
    blocks = []
    for _ in range(num_blocks):
        index = ledger.get("SubnetEpochIndex", netuid)
        ledger.seal()
        if ledger.get("SubnetEpochIndex", netuid) > index:
            blocks.append(ledger.height)
    return blocks


def test_a_tempo_of_one_runs_every_block_and_of_zero_never(subnet: Any) -> None:
    put(subnet, "Tempo", 1, value=1)
    start = subnet.height
    assert epoch_blocks(subnet, 5) == [start + n for n in range(1, 6)]
    put(subnet, "Tempo", 1, value=0)
    assert epoch_blocks(subnet, 50) == []
    assert subnet.get("PendingServerEmission", 1) == 50 * ((TAO - OWNER_RAO) // 2)


def test_a_shorter_tempo_counts_from_the_last_epoch(subnet: Any) -> None:
    last = run_to_epoch(subnet)
    subnet.seal(9)
    put(subnet, "Tempo", 1, value=12)
    assert epoch_blocks(subnet, 20) == [last + 12, last + 24]
    put(subnet, "Tempo", 1, value=3)
    assert epoch_blocks(subnet, 4) == [subnet.height - 3, subnet.height]


def test_a_pending_epoch_runs_at_its_block_and_starts_the_count_anew(subnet: Any) -> None:
    last = run_to_epoch(subnet)
    put(subnet, "PendingEpochAt", 1, value=last + 7)
    subnet.seal()
    assert schedule.next_epoch_block(subnet.chain.state_at(subnet.height), 1) == last + 7
    assert epoch_blocks(subnet, 30) == [last + 7, last + 27]
    assert subnet.get("PendingEpochAt", 1) == 0


def test_epochs_beyond_the_limit_of_a_block_run_in_the_next(subnet: Any) -> None:
    other = subnet.wallets["dave"]
    assert subnet.call(other.coldkey, S, "register_network", hotkey=other.hot) == "ok"
    start = subnet.height
    for netuid in (1, 2):
        put(subnet, "LastEpochBlock", netuid, value=start)
        put(subnet, "BlocksSinceLastStep", netuid, value=0)
    put(subnet, "MaxEpochsPerBlock", value=1)
    indices = [subnet.get("SubnetEpochIndex", netuid) for netuid in (1, 2)]
    subnet.seal(20)
    assert subnet.get("LastEpochBlock", 1) == start + 20
    assert subnet.get("LastEpochBlock", 2) == start
    assert subnet.get("PendingEpochAt", 2) == start + 21
    records = subnet.chain.state_at(subnet.height).system.get("Events")
    assert "EpochDeferred" in [record["event"]["event_id"] for record in records]
    subnet.seal()
    assert subnet.get("LastEpochBlock", 2) == start + 21
    now = [subnet.get("SubnetEpochIndex", netuid) for netuid in (1, 2)]
    assert now == [index + 1 for index in indices]


# Activity and registration


@pytest.mark.parametrize(("age_blocks", "is_active"), [(40, True), (41, False)])
def test_a_validator_is_active_up_to_the_cutoff(
    scored: Any, age_blocks: int, is_active: bool
) -> None:
    put(scored, "ActivityCutoffFactorMilli", 1, value=2_000)  # two tempos: 40 blocks
    next_epoch = scored.get("LastEpochBlock", 1) + 20
    updates = scored.get("LastUpdate", 1)
    updates[1] = next_epoch - age_blocks
    put(scored, "LastUpdate", 1, value=updates)
    put(scored, "BlockAtRegistration", 1, 2, value=0)
    run_to_epoch(scored)
    assert scored.get("Active", 1)[1] is is_active
    assert bool(scored.get("Incentive", 1)[2]) is is_active


def test_a_new_uid_is_dated_to_its_registration(scored: Any) -> None:
    dave = scored.wallets["dave"]
    args = {"netuid": 1, "hotkey": dave.hot}
    assert scored.call(dave.coldkey, S, "burned_register", **args) == "ok"
    assert scored.get("LastUpdate", 1)[4] == scored.height
    assert scored.get("BlockAtRegistration", 1, 4) == scored.height
    assert scored.get("Active", 1)[4] is True
    assert scored.get("ValidatorPermit", 1)[4] is False


@pytest.mark.parametrize("is_later", [False, True])
def test_weights_set_in_the_block_of_a_registration_do_not_reach_the_new_uid(
    scored: Any, is_later: bool
) -> None:
    scored.seal(5)
    dave, alice = scored.wallets["dave"], scored.wallets["alice"]
    args = {"netuid": 1, "hotkey": dave.hot}
    scored.chain.submit(scored.sign(dave.coldkey, S, "burned_register", **args))
    if is_later:
        scored.seal()
    row = {"netuid": 1, "dests": [4], "weights": [1], "version_key": 0}
    scored.chain.submit(scored.sign(alice.hotkey, S, "set_weights", **row))
    scored.seal()
    assert set(scored.outcomes()) == {"ok"}
    assert scored.get("Weights", 1, 1) == [(4, 65535)]
    run_to_epoch(scored)
    assert bool(scored.get("Incentive", 1)[4]) is is_later


# Conservation


rows = st.dictionaries(st.integers(0, 3), st.integers(0, 65535), min_size=1, max_size=4)
stakes = st.sampled_from((0, 2_000_000, 7 * TAO + 1, 1000 * TAO))


said_and_staked = given(
    staked=st.fixed_dictionaries({"alice": stakes, "bob": stakes, "carol": stakes}),
    said=st.fixed_dictionaries({"owner": rows, "alice": rows, "bob": rows}),
    tempo=st.integers(1, 7),
)


@settings(max_examples=10)
@said_and_staked
def test_no_rao_is_lost_or_made_up_whatever_is_said(**drawn: Any) -> None:
    check_conservation(**drawn)


@pytest.mark.slow
@settings(max_examples=100)
@said_and_staked
def test_no_rao_is_lost_or_made_up_in_many_subnets(**drawn: Any) -> None:
    check_conservation(**drawn)


def check_conservation(staked: dict[str, int], said: dict[str, dict[int, int]], tempo: int) -> None:
    pace = SubnetDefaults(tempo_blocks=tempo, weights_rate_limit_blocks=0)
    endowed = {LocalWallet(name).cold: ENDOWMENT_RAO for name in NAMES}
    ledger = populate(Ledger(ChainConfig(subnet=pace, endowments_rao=endowed, seed="rao")))
    for name, rao in staked.items():
        if rao:
            stake(ledger, name, rao)
    run_to_epoch(ledger)
    for name, row in said.items():
        assert set_weights(ledger, name, row) in ("ok", "NeuronNoValidatorPermit")
    for _ in range(2):
        run_to_epoch(ledger)
        assert_conserved(ledger, sum(staked.values()))


def assert_conserved(ledger: Any, bought_rao: int) -> None:
    """What was created is held, pending or burned; each of them in its own books."""
    state = ledger.chain.state_at(ledger.height)
    held = sum(alpha(ledger, name) for name in ("owner", "alice", "bob", "carol"))
    items = ("PendingServerEmission", "PendingValidatorEmission", "PendingOwnerCut")
    pending = sum(state.subtensor.get(item, 1) for item in items)
    burned = state.alpha_assets.get("AlphaBurned", 1)
    emitting = ledger.height - state.subtensor.get("FirstEmissionBlockNumber", 1) + 1
    assert held + pending + burned == state.subtensor.get("SubnetAlphaOut", 1)
    assert held + pending + burned == emitting * TAO + bought_rao
    assert held == state.subtensor.get("TotalAlphaStaked", 1)
