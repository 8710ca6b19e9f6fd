"""Every call's rules: what it changes, and which of the runtime's errors it ends with."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from template.localnet.chain.config import RAO_PER_TAO
from template.localnet.chain.metadata import clone_storage_entry, load_metadata
from template.localnet.chain.pallets import staking

S = "SubtensorModule"
TAO = RAO_PER_TAO


def stake(ledger: Any, name: str, rao: int, netuid: int = 1) -> str:
    wallet = ledger.wallets[name]
    args = {"hotkey": wallet.hot, "netuid": netuid, "amount_staked": rao}
    return ledger.call(wallet.coldkey, S, "add_stake", **args)


def set_weights(ledger: Any, name: str, row: dict[int, int], **changes: Any) -> str:
    args = {"netuid": 1, "dests": list(row), "weights": list(row.values()), "version_key": 0}
    hotkey = ledger.wallets[name].hotkey
    return ledger.call(hotkey, S, "set_mechanism_weights", **{"mecid": 0, **args, **changes})


def commit(ledger: Any, name: str, *fields: Any, netuid: int = 1) -> str:
    hotkey = ledger.wallets[name].hotkey
    return ledger.call(
        hotkey, "Commitments", "set_commitment", netuid=netuid, info={"fields": list(fields)}
    )


def raw_field(data: bytes) -> dict[str, str]:
    return {f"Raw{len(data)}": "0x" + data.hex()}


# Registration


def test_a_new_network_belongs_to_its_payer_and_its_hotkey_is_uid_0(ledger: Any) -> None:
    owner = ledger.wallets["owner"]
    before = ledger.free_rao(owner.cold)
    assert ledger.call(owner.coldkey, S, "register_network", hotkey=owner.hot) == "ok"
    assert ledger.get("Keys", 1, 0) == owner.hot
    assert ledger.get("SubnetOwner", 1) == owner.cold
    assert ledger.get("SubnetOwnerHotkey", 1) == owner.hot
    assert ledger.free_rao(owner.cold) == before - 1000 * TAO
    assert ledger.free_rao(staking.subnet_account(1)) == 1000 * TAO
    assert ledger.call(owner.coldkey, S, "register_network", hotkey=owner.hot) == "ok"
    assert ledger.get("NetworksAdded", 2)


def test_a_network_needs_its_price_and_an_own_hotkey(subnet: Any) -> None:
    dave, alice = subnet.wallets["dave"], subnet.wallets["alice"]
    taken = subnet.call(dave.coldkey, S, "register_network", hotkey=alice.hot)
    assert taken == "NonAssociatedColdKey"
    pauper = dave.hotkey
    assert subnet.call(pauper, S, "register_network", hotkey=dave.hot) == "CannotAffordLockCost"
    assert not subnet.get("NetworksAdded", 2)
    assert not subnet.chain.state_at(subnet.height).subtensor.contains("Owner", dave.hot)


def test_only_the_owner_starts_a_subnet_and_only_once(ledger: Any) -> None:
    owner, alice = ledger.wallets["owner"], ledger.wallets["alice"]
    ledger.call(owner.coldkey, S, "register_network", hotkey=owner.hot)
    assert ledger.call(alice.coldkey, S, "start_call", netuid=1) == "BadOrigin"
    assert ledger.call(owner.coldkey, S, "start_call", netuid=9) == "SubnetNotExists"
    assert ledger.call(owner.coldkey, S, "start_call", netuid=1) == "ok"
    assert ledger.call(owner.coldkey, S, "start_call", netuid=1) == (
        "FirstEmissionBlockNumberAlreadySet"
    )


def test_registration_burns_the_price_and_raises_it(subnet: Any) -> None:
    dave = subnet.wallets["dave"]
    price = subnet.get("Burn", 1)
    before = subnet.free_rao(dave.cold)
    issued = subnet.get("TotalIssuance")
    assert subnet.call(dave.coldkey, S, "burned_register", netuid=1, hotkey=dave.hot) == "ok"
    paid = before - subnet.free_rao(dave.cold)
    assert price * 0.99 < paid <= price
    assert issued - subnet.get("TotalIssuance") == paid
    assert subnet.get("Burn", 1) == pytest.approx(1.26 * paid, rel=1e-6)
    assert subnet.get("Uids", 1, dave.hot) == 4
    assert subnet.get("Owner", dave.hot) == dave.cold
    subnet.seal(360)
    assert subnet.get("Burn", 1) == pytest.approx(0.63 * paid, rel=1e-4)


def test_registration_errors_are_the_runtimes(subnet: Any) -> None:
    alice, dave = subnet.wallets["alice"], subnet.wallets["dave"]

    def register(payer: Any, hotkey: str, netuid: int = 1) -> str:
        return subnet.call(payer, S, "burned_register", netuid=netuid, hotkey=hotkey)

    assert register(alice.coldkey, alice.hot) == "HotKeyAlreadyRegisteredInSubNet"
    assert register(dave.coldkey, dave.hot, 7) == "SubnetNotExists"
    assert register(dave.coldkey, dave.hot, 0) == "RegistrationNotPermittedOnRootSubnet"
    assert register(dave.hotkey, dave.hot) == "NotEnoughBalanceToStake"
    assert subnet.call(alice.coldkey, S, "register_network", hotkey=dave.hot) == "ok"
    assert register(dave.coldkey, dave.hot) == "NonAssociatedColdKey"


def test_a_full_subnet_of_immune_uids_replaces_the_oldest_but_never_the_owner(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    ledger = populated(make_ledger(max_uids=4))
    alice, dave = ledger.wallets["alice"], ledger.wallets["dave"]
    assert ledger.call(dave.coldkey, S, "burned_register", netuid=1, hotkey=dave.hot) == "ok"
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
    dave = ledger.wallets["dave"]
    assert ledger.call(dave.coldkey, S, "burned_register", netuid=1, hotkey=dave.hot) == "ok"
    assert ledger.get("Uids", 1, dave.hot) == 2


def test_pruning_clears_what_the_uid_said_and_what_was_said_of_it(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    ledger = populated(make_ledger(max_uids=4))
    ledger.seal(5)
    assert set_weights(ledger, "owner", {1: 7, 2: 14}) == "ok"
    assert set_weights(ledger, "alice", {1: 1}) == "ok"
    dave = ledger.wallets["dave"]
    ledger.call(dave.coldkey, S, "burned_register", netuid=1, hotkey=dave.hot)
    assert ledger.get("Weights", 1, 1) == []
    assert ledger.get("Weights", 1, 0) == [(1, 0), (2, 65535)]
    assert ledger.get("BlockAtRegistration", 1, 1) == ledger.height


def test_a_full_subnet_without_anyone_to_prune_has_no_uid(
    make_ledger: Callable[..., Any],
) -> None:
    ledger = make_ledger(max_uids=1)
    owner, alice = ledger.wallets["owner"], ledger.wallets["alice"]
    ledger.call(owner.coldkey, S, "register_network", hotkey=owner.hot)
    before = ledger.free_rao(alice.cold)
    assert ledger.call(alice.coldkey, S, "burned_register", netuid=1, hotkey=alice.hot) == (
        "NoNeuronIdAvailable"
    )
    assert ledger.free_rao(alice.cold) == before


# Stake


def test_stake_buys_alpha_one_for_one_and_keeps_every_rao(subnet: Any) -> None:
    alice = subnet.wallets["alice"]
    before = subnet.free_rao(alice.cold), subnet.free_rao(staking.subnet_account(1))
    assert stake(subnet, "alice", 12_345_678_901) == "ok"
    assert subnet.get("TotalHotkeyAlpha", alice.hot, 1) == 12_345_678_901
    assert subnet.get("Alpha", alice.hot, alice.cold, 1)["bits"] == 12_345_678_901 << 64
    assert subnet.free_rao(alice.cold) == before[0] - 12_345_678_901
    assert subnet.free_rao(staking.subnet_account(1)) == before[1] + 12_345_678_901


def test_root_stake_counts_by_the_tao_weight(subnet: Any) -> None:
    assert stake(subnet, "alice", 100 * TAO) == "ok"
    assert stake(subnet, "alice", 50 * TAO, netuid=0) == "ok"
    state = subnet.chain.state_at(subnet.height)
    weight = staking.stake_weight_rao(state, 1, subnet.wallets["alice"].hot)
    assert weight == 100 * TAO + 50 * TAO * 971_718_665_099_567_868 // 2**64


def test_stake_errors_are_the_runtimes(subnet: Any) -> None:
    dave = subnet.wallets["dave"]
    assert stake(subnet, "alice", TAO, netuid=5) == "SubnetNotExists"
    assert stake(subnet, "dave", TAO) == "HotKeyAccountNotExists"
    assert stake(subnet, "alice", 1_999_999) == "AmountTooLow"
    assert stake(subnet, "alice", 10**17) == "NotEnoughBalanceToStake"
    assert subnet.call(dave.coldkey, S, "register_network", hotkey=dave.hot) == "ok"
    assert stake(subnet, "dave", TAO, netuid=2) == "SubtokenDisabled"


@pytest.mark.parametrize(("limit_rao", "wanted"), [(TAO, "ok"), (TAO - 1, "SlippageTooHigh")])
def test_a_limit_price_below_one_tao_is_not_met(subnet: Any, limit_rao: int, wanted: str) -> None:
    alice = subnet.wallets["alice"]
    args = {"hotkey": alice.hot, "netuid": 1, "amount_staked": TAO, "limit_price": limit_rao}
    assert subnet.call(alice.coldkey, S, "add_stake_limit", **args, allow_partial=False) == wanted
    assert subnet.get("TotalHotkeyAlpha", alice.hot, 1) == (TAO if wanted == "ok" else 0)


# Transfers


def test_transfers_keep_both_accounts_alive(ledger: Any) -> None:
    alice, bob = ledger.wallets["alice"], ledger.wallets["bob"]

    def send(dest: str, rao: int) -> str:
        return ledger.call(alice.coldkey, "Balances", "transfer_keep_alive", dest=dest, value=rao)

    assert send(bob.hot, 499) == "BelowMinimum"
    assert send(bob.hot, 500) == "ok"
    assert send(bob.cold, ledger.free_rao(alice.cold)) == "NotExpendable"
    assert send(bob.cold, ledger.free_rao(alice.cold) + 1) == "FundsUnavailable"
    assert send(alice.cold, 1_000) == "ok"
    assert send(bob.cold, ledger.free_rao(alice.cold) - 500) == "ok"
    assert ledger.free_rao(alice.cold) == 500


# Weights


def test_weights_are_stored_max_upscaled_and_dated(subnet: Any) -> None:
    subnet.seal(5)
    assert set_weights(subnet, "owner", {1: 1, 3: 2, 2: 0}) == "ok"
    assert subnet.get("Weights", 1, 0) == [(1, 32768), (3, 65535), (2, 0)]
    assert subnet.get("LastUpdate", 1)[0] == subnet.height


def test_weights_in_the_plain_call_do_the_same(subnet: Any) -> None:
    subnet.seal(5)
    args = {"netuid": 1, "dests": [2], "weights": [9], "version_key": 0}
    assert subnet.call(subnet.wallets["owner"].hotkey, S, "set_weights", **args) == "ok"
    assert subnet.get("Weights", 1, 0) == [(2, 65535)]


def test_the_rate_limit_counts_blocks_from_the_last_weights(subnet: Any) -> None:
    subnet.seal(5)
    assert set_weights(subnet, "owner", {1: 1}) == "ok"
    subnet.seal(3)
    assert set_weights(subnet, "owner", {1: 1}) == "SettingWeightsTooFast"
    assert set_weights(subnet, "owner", {2: 1}) == "ok"


@pytest.mark.parametrize(
    ("row", "changes", "wanted"),
    [
        ({1: 1}, {"netuid": 0}, "CanNotSetRootNetworkWeights"),
        ({1: 1}, {"weights": [1, 2]}, "WeightVecNotEqualSize"),
        ({1: 1}, {"netuid": 8}, "MechanismDoesNotExist"),
        ({1: 1}, {"mecid": 1}, "MechanismDoesNotExist"),
        ({0: 1, 1: 1, 2: 1, 3: 1, 4: 1}, {}, "UidsLengthExceedUidsInSubNet"),
        ({1: 1}, {"dests": [1, 1], "weights": [1, 1]}, "DuplicateUids"),
        ({4: 1}, {}, "UidVecContainInvalidOne"),
    ],
)
def test_malformed_weights_end_in_the_runtimes_error(
    subnet: Any, row: dict[int, int], changes: dict[str, Any], wanted: str
) -> None:
    subnet.seal(5)
    assert set_weights(subnet, "owner", row, **changes) == wanted
    assert subnet.get("Weights", 1, 0) == []


def test_weights_need_a_uid_and_a_permit_unless_they_are_self_weights(subnet: Any) -> None:
    subnet.seal(5)
    assert set_weights(subnet, "dave", {1: 1}) == "HotKeyNotRegisteredInSubNet"
    assert set_weights(subnet, "alice", {2: 1}) == "NeuronNoValidatorPermit"
    assert set_weights(subnet, "alice", {1: 1}) == "ok"
    assert stake(subnet, "bob", 10 * TAO) == "ok"
    subnet.seal(20)
    assert set_weights(subnet, "bob", {1: 1}) == "ok"


def test_a_row_shorter_than_the_minimum_is_refused(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    ledger = populated(make_ledger(min_allowed_weights=3))
    ledger.seal(5)
    assert set_weights(ledger, "owner", {1: 1, 2: 1}) == "WeightVecLengthIsLow"
    assert set_weights(ledger, "owner", {1: 1, 2: 1, 3: 1}) == "ok"


# Commitments


def test_a_commitment_is_kept_bit_for_bit_at_its_block(subnet: Any) -> None:
    alice = subnet.wallets["alice"]
    first, second = bytes(range(128)), b"\x00\xff\xfe"
    assert commit(subnet, "alice", raw_field(first), raw_field(second), raw_field(b"x")) == "ok"
    block = subnet.height
    assert commit(subnet, "alice", raw_field(b"later")) == "ok"

    def fields(at: int) -> list[Any]:
        found = subnet.chain.state_at(at).commitments.get("CommitmentOf", 1, alice.hot)
        return found["info"]["fields"]

    assert fields(block) == [raw_field(first), raw_field(second), raw_field(b"x")]
    assert fields(subnet.height) == [raw_field(b"later")]
    assert subnet.chain.state_at(block - 1).commitments.get("CommitmentOf", 1, alice.hot) is None


def test_commitments_are_for_registered_hotkeys_and_three_fields(subnet: Any) -> None:
    assert commit(subnet, "dave", raw_field(b"x")) == "AccountNotAllowedCommit"
    four = [raw_field(b"x")] * 4
    assert commit(subnet, "alice", *four) == "TooManyFieldsInCommitmentInfo"
    assert commit(subnet, "alice", "ResetBondsFlag") == "Unavailable"


def test_the_quota_charges_at_least_100_bytes_and_renews_each_epoch(subnet: Any) -> None:
    while subnet.get("SubnetEpochIndex", 1) == 0:
        subnet.seal()
    full = [raw_field(b"a" * 128)] * 3
    for _ in range(7):
        assert commit(subnet, "alice", *full) == "ok"  # 384 bytes each, 2688 in all
    for _ in range(4):
        assert commit(subnet, "alice", raw_field(b"a")) == "ok"  # 100 each, 3088 in all
    assert commit(subnet, "alice", raw_field(b"a")) == "SpaceLimitExceeded"
    assert commit(subnet, "bob", raw_field(b"a")) == "ok"
    epoch = subnet.get("SubnetEpochIndex", 1)
    assert epoch == 1, "the quota ran out within one epoch"
    while subnet.get("SubnetEpochIndex", 1) == epoch:
        subnet.seal()
    assert commit(subnet, "alice", *full) == "ok"


# The chain as a whole


def test_tao_is_conserved_by_every_call(subnet: Any) -> None:
    stake(subnet, "alice", 77 * TAO)
    stake(subnet, "bob", 3 * TAO, netuid=0)
    subnet.seal(45)
    state = subnet.chain.state_at(subnet.height)
    accounts = state.system.entries("Account")
    total = sum(account["data"]["free"] for _, account in accounts)
    burned = state.subtensor.get("RAORecycledForRegistration", 1)
    assert total == state.balances.get("TotalIssuance")
    assert total + burned == 5 * 100_000 * TAO
    assert burned > 0


def test_the_same_inputs_make_the_same_blocks_and_a_seed_changes_them(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    # Signatures are randomised, so only blocks without signed extrinsics can be equal.
    one, two, other = make_ledger(), make_ledger(), make_ledger(tempo_blocks=21)
    for ledger in (one, two, other):
        ledger.seal(3)
    assert one.chain.head.hash == two.chain.head.hash
    assert one.chain.genesis_hash != other.chain.genesis_hash
    assert populated(one).chain.head.hash != populated(two).chain.head.hash


def test_a_header_hash_commits_to_parent_state_and_extrinsics(ledger: Any) -> None:
    ledger.seal()
    header = ledger.chain.head.header
    assert header.parent_hash == ledger.chain.genesis_hash
    as_json = header.to_json()
    assert as_json["number"] == "0x1"
    encoded = b"".join(
        bytes.fromhex(part.removeprefix("0x"))
        for part in (
            as_json["parentHash"],
            "04",  # compact 1
            as_json["stateRoot"],
            as_json["extrinsicsRoot"],
            "04",  # one digest item
            as_json["digest"]["logs"][0],
        )
    )
    codec = ledger.metadata.codec
    assert codec.call_hash(encoded) == header.hash, "blake2b-256 of the SCALE header"
    decoded = json.dumps(codec.decode("scale_info::593", encoded))
    assert as_json["stateRoot"] in decoded


def test_the_metadata_patch_adds_one_false_item_and_changes_nothing_else() -> None:
    metadata = load_metadata()
    entry = metadata.entry(S, "SubnetEpochConsensus")
    assert metadata.codec.decode(entry.value_type, entry.default_bytes) is False
    with pytest.raises(ValueError, match="no storage item"):
        clone_storage_entry(metadata.metadata_bytes, pallet=S, source="Nope", name="X")
    with pytest.raises(ValueError, match="no storage"):
        clone_storage_entry(metadata.metadata_bytes, pallet="Nope", source="Tempo", name="X")
