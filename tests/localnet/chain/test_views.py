"""Runtime APIs: every answer has its declared type and agrees with storage at that block."""

from typing import Any

import pytest

from localnet.chain import views
from localnet.chain.blocks import hex_of
from localnet.chain.methods import Methods, RpcError

PALLET = "SubtensorModule"
TAO = 10**9


@pytest.fixture
def staked(subnet: Any) -> Any:
    """Subnet 1 with 5 TAO on alice's hotkey and 2 on root, past an epoch."""
    alice = subnet.wallets["alice"]
    for netuid, rao in ((1, 5 * TAO), (0, 2 * TAO)):
        args = {"hotkey": alice.hot, "netuid": netuid, "amount_staked": rao}
        assert subnet.call(alice.coldkey, "SubtensorModule", "add_stake", **args) == "ok"
    subnet.seal(25)
    return subnet


def ask(ledger: Any, name: str, *arguments: Any, block: int | None = None) -> Any:
    """Call a runtime API through its wire form, both ways."""
    codec = ledger.metadata.codec
    method = ledger.metadata.runtime_method(name)
    encoded = b"".join(
        bytes(codec.encode(type_name, value))
        for type_name, value in zip(method.input_types, arguments, strict=True)
    )
    at = ledger.chain.blocks.at(ledger.height if block is None else block).hash
    answer = Methods(ledger.chain).call("state_call", [name, hex_of(encoded), hex_of(at)])
    return codec.decode(method.output_type, bytes.fromhex(answer[2:]))


def arguments_of(ledger: Any, name: str) -> list[Any]:
    """What alice would ask, by the names that the runtime gives its parameters."""
    alice = ledger.wallets["alice"]
    values: dict[str, Any] = {
        **dict.fromkeys(("coldkey", "coldkey_account", "delegatee_account", "account"), alice.cold),
        **dict.fromkeys(("hotkey", "hotkey_account", "delegate_account"), alice.hot),
        **dict.fromkeys(("origin_coldkey_account", "destination_coldkey_account"), alice.cold),
        **dict.fromkeys(("mecid", "subid", "limit"), 0),
        **dict.fromkeys(("start_after", "netuids", "origin", "destination"), None),
        "amount": 7,
        "alpha": 7,
        "coldkey_accounts": [alice.cold],
        "metagraph_indexes": [0, 3, 52, 72, 73],
        "netuid": 1,
        "tao": 7,
        "uid": 1,
    }
    api, _, method = name.partition("_")
    declared = ledger.metadata.codec.runtime_api_map[api][method]["inputs"]
    return [values[parameter] for parameter, _ in declared]


@pytest.mark.parametrize("name", sorted(views.RUNTIME_APIS))
def test_every_api_answers_in_its_declared_type(staked: Any, name: str) -> None:
    ask(staked, name, *arguments_of(staked, name))


@pytest.mark.parametrize("name", views.FEE_METHODS)
def test_fees_are_quoted_as_zero(ledger: Any, name: str) -> None:
    answer = Methods(ledger.chain).call("state_call", [name, "0x00"])
    method = ledger.metadata.runtime_method(name)
    decoded = ledger.metadata.codec.decode(method.output_type, bytes.fromhex(answer[2:]))
    assert decoded["partial_fee"] == 0


def test_the_metagraph_agrees_with_storage_and_stays_at_its_block(staked: Any) -> None:
    alice, block = staked.wallets["alice"], staked.height
    graph = ask(staked, "SubnetInfoRuntimeApi_get_metagraph", 1)
    alpha = staked.get("TotalHotkeyAlpha", alice.hot, 1)
    weighted = 2 * TAO * staked.get("TaoWeight") // 2**64
    assert graph["alpha_stake"][1] == alpha
    assert graph["tao_stake"][1] == 2 * TAO
    assert graph["total_stake"][1] == alpha + weighted
    assert graph["hotkeys"] == [staked.wallets[n].hot for n in ("owner", "alice", "bob", "carol")]
    assert graph["emission"] == staked.get("Emission", 1)
    assert graph["validator_permit"] == staked.get("ValidatorPermit", 1)
    assert graph["block"] == block
    staked.seal(30)
    assert ask(staked, "SubnetInfoRuntimeApi_get_metagraph", 1, block=block) == graph
    later = ask(staked, "SubnetInfoRuntimeApi_get_metagraph", 1)
    assert later["total_stake"][1] > graph["total_stake"][1]


def test_what_does_not_exist_is_none(staked: Any) -> None:
    assert ask(staked, "SubnetInfoRuntimeApi_get_metagraph", 9) is None
    assert ask(staked, "SubnetInfoRuntimeApi_get_mechagraph", 1, 1) is None
    assert ask(staked, "SubnetInfoRuntimeApi_get_subnet_hyperparams", 9) is None
    assert ask(staked, "SubnetInfoRuntimeApi_get_next_epoch_start_block", 9) is None
    assert ask(staked, "NeuronInfoRuntimeApi_get_neuron_lite", 1, 4) is None
    assert ask(staked, "SubnetInfoRuntimeApi_get_subnet_account_id", 9) is None
    assert ask(staked, "DelegateInfoRuntimeApi_get_delegate", staked.wallets["bob"].hot) is None
    dave = staked.wallets["dave"]
    name = "StakeInfoRuntimeApi_get_stake_info_for_hotkey_coldkey_netuid"
    row = ask(staked, name, dave.hot, dave.cold, 1)
    assert (row["stake"], row["is_registered"]) == (0, False)


def test_stake_of_a_coldkey_is_listed_by_subnet(staked: Any) -> None:
    alice = staked.wallets["alice"]
    rows = ask(staked, "StakeInfoRuntimeApi_get_stake_info_for_coldkey", alice.cold)
    stakes = {row["netuid"]: row["stake"] for row in rows}
    assert stakes == {0: 2 * TAO, 1: staked.get("TotalHotkeyAlpha", alice.hot, 1)}
    name = "StakeInfoRuntimeApi_get_stake_availability_for_coldkeys"
    for netuids, wanted in ((None, {0, 1}), ([0], {0}), ([7], set()), ([0, 1, 7], set())):
        free = ask(staked, name, [alice.cold], netuids)[alice.cold]
        assert {netuid: entry["available"] for netuid, entry in free.items()} == {
            netuid: stakes[netuid] for netuid in wanted
        }


def test_the_next_epoch_is_where_it_is_foretold(staked: Any) -> None:
    due = ask(staked, "SubnetInfoRuntimeApi_get_next_epoch_start_block", 1)
    staked.seal(due - staked.height - 1)
    index = staked.get("SubnetEpochIndex", 1)
    staked.seal()
    assert staked.get("SubnetEpochIndex", 1) == index + 1


def test_metadata_is_served_in_version_15_only(ledger: Any) -> None:
    methods = Methods(ledger.chain)
    served = methods.call("state_call", ["Metadata_metadata_at_version", "0x0f000000"])
    assert bytes.fromhex(served[2:]) == ledger.metadata.opaque_option
    assert methods.call("state_call", ["Metadata_metadata_at_version", "0x0e000000"]) == "0x00"


def test_an_api_that_is_not_served_is_named(ledger: Any) -> None:
    with pytest.raises(RpcError, match="Core_version is not found"):
        Methods(ledger.chain).call("state_call", ["Core_version", "0x"])


def test_what_hotkeys_and_owners_publish_is_shown(staked: Any) -> None:
    owner, alice = staked.wallets["owner"], staked.wallets["alice"]
    where = {"version": 1, "ip": 0xCB007107, "port": 8091, "ip_type": 4, "protocol": 4}
    axon = {"netuid": 1, **where, "placeholder1": 0, "placeholder2": 0}
    assert staked.call(alice.hotkey, PALLET, "serve_axon", **axon) == "ok"
    served = {**axon, "block": staked.height}
    del served["netuid"]
    texts = ("github_repo", "subnet_contact", "subnet_url", "discord", "description")
    identity = dict.fromkeys((*texts, "logo_url", "additional"), "") | {"subnet_name": "Tessera"}
    args = {"netuid": 1, **identity}
    assert staked.call(owner.coldkey, PALLET, "set_subnet_identity", **args) == "ok"
    graph = ask(staked, "SubnetInfoRuntimeApi_get_metagraph", 1)
    assert graph["axons"][1] == served
    assert [axon["port"] for axon in graph["axons"]] == [0, 8091, 0, 0]
    assert ask(staked, "NeuronInfoRuntimeApi_get_neuron_lite", 1, 1)["axon_info"] == served
    assert bytes(graph["name"]) == b"Tessera"
    assert graph["identity"] == identity
    assert ask(staked, "SubnetInfoRuntimeApi_get_dynamic_info", 1)["subnet_identity"] == identity
    assert ask(staked, "SubnetInfoRuntimeApi_get_subnet_info_v2", 1)["identity"] == identity


def test_a_subnet_without_an_identity_is_unknown_and_has_its_symbol(staked: Any) -> None:
    info = ask(staked, "SubnetInfoRuntimeApi_get_dynamic_info", 1)
    assert bytes(info["subnet_name"]) == b"unknown"
    assert bytes(info["token_symbol"]).decode() == staked.get("TokenSymbol", 1) == "\u03b1"
    assert info["subnet_identity"] is None
    root = ask(staked, "SubnetInfoRuntimeApi_get_all_dynamic_info")[0]
    assert (root["netuid"], bytes(root["subnet_name"])) == (0, b"root")


def test_dividends_are_those_of_the_last_epoch(staked: Any) -> None:
    alice, bob = staked.wallets["alice"], staked.wallets["bob"]
    due = ask(staked, "SubnetInfoRuntimeApi_get_next_epoch_start_block", 1)
    row = {"netuid": 1, "dests": [2], "weights": [1], "version_key": 0}
    assert staked.call(alice.hotkey, PALLET, "set_weights", **row) == "ok"
    staked.seal(due - staked.height)
    graph = ask(staked, "SubnetInfoRuntimeApi_get_metagraph", 1)
    paid = dict(graph["alpha_dividends_per_hotkey"])
    assert paid[alice.hot] == graph["emission"][1] > 0
    assert paid[bob.hot] == 0 < graph["emission"][2]
    name = "StakeInfoRuntimeApi_get_stake_info_for_hotkey_coldkey_netuid"
    assert ask(staked, name, alice.hot, alice.cold, 1)["emission"] == paid[alice.hot]


def test_a_neurons_stake_is_its_alpha_and_zero_weights_are_left_out(staked: Any) -> None:
    alice = staked.wallets["alice"]
    row = {"netuid": 1, "dests": [2, 3], "weights": [5, 0], "version_key": 0}
    assert staked.call(alice.hotkey, PALLET, "set_weights", **row) == "ok"
    neuron = ask(staked, "NeuronInfoRuntimeApi_get_neuron", 1, 1)
    assert neuron["stake"] == [(alice.cold, staked.get("TotalHotkeyAlpha", alice.hot, 1))]
    assert neuron["weights"] == [(2, 65_535)]
    assert neuron["pruning_score"] == 65_535


def test_a_selective_metagraph_has_the_fields_that_are_asked_for(staked: Any) -> None:
    alice = staked.wallets["alice"]
    info = {"fields": [{"Raw2": "0x6869"}]}
    commit = {"netuid": 1, "info": info}
    assert staked.call(alice.hotkey, "Commitments", "set_commitment", **commit) == "ok"
    whole = ask(staked, "SubnetInfoRuntimeApi_get_metagraph", 1)
    indexes = {"hotkeys": 52, "axons": 55, "total_stake": 69, "validators": 72, "commitments": 73}
    some = ask(staked, "SubnetInfoRuntimeApi_get_selective_metagraph", 1, [*indexes.values(), 900])
    assert {field for field, value in some.items() if value is not None} == {"netuid", *indexes}
    assert all(some[field] == whole[field] for field in ("netuid", "hotkeys", "axons"))
    stakes = whole["total_stake"]
    permitted = [uid for uid, permit in enumerate(whole["validator_permit"]) if permit]
    assert some["validators"] == sorted(permitted, key=lambda uid: stakes[uid])
    ((hotkey, record),) = some["commitments"]
    assert hotkey == alice.hot
    assert bytes(record).endswith(b"hi")
    same = ask(staked, "SubnetInfoRuntimeApi_get_selective_mechagraph", 1, 0, [69])
    assert same["total_stake"] == stakes


def test_the_subnets_state_is_the_metagraphs_columns(staked: Any) -> None:
    state = ask(staked, "SubnetInfoRuntimeApi_get_subnet_state", 1)
    whole = ask(staked, "SubnetInfoRuntimeApi_get_metagraph", 1)
    history = state.pop("emission_history")
    assert state == {field: whole[field] for field in state}
    assert [len(subnet) for subnet in history] == [4, 4]


def test_hyperparameters_agree_in_all_three_shapes(staked: Any) -> None:
    first = ask(staked, "SubnetInfoRuntimeApi_get_subnet_hyperparams", 1)
    second = ask(staked, "SubnetInfoRuntimeApi_get_subnet_hyperparams_v2", 1)
    entries = ask(staked, "SubnetInfoRuntimeApi_get_subnet_hyperparams_v3", 1)
    third = {entry["name"]: entry["value"] for entry in entries}
    assert first["tempo"] == 20
    assert second["yuma_version"] == 3
    assert second["subnet_is_active"] is True
    assert {name: second[name] for name in first} == first
    assert third["weights_rate_limit"] == {"U64": 5}
    assert third["kappa"] == {"U16": staked.get("Kappa", 1)}
    assert third["min_burn"] == {"TaoBalance": staked.get("MinBurn", 1)}
    assert third["burn_increase_mult"] == {"U64F64": staked.get("BurnIncreaseMult", 1)}
    assert third["alpha_sigmoid_steepness"] == {"I32F32": {"bits": 1000 << 32}}
    assert {name: next(iter(third[name].values())) for name in second} == second


def test_a_delegate_is_shown_with_who_stakes_on_it(staked: Any) -> None:
    alice, bob = staked.wallets["alice"], staked.wallets["bob"]
    stake = {"hotkey": alice.hot, "netuid": 1, "amount_staked": 3 * TAO}
    assert ask(staked, "DelegateInfoRuntimeApi_get_delegates") == []
    assert staked.call(bob.coldkey, PALLET, "add_stake", **stake) == "ok"
    delegate = ask(staked, "DelegateInfoRuntimeApi_get_delegate", alice.hot)
    assert (delegate["owner_ss58"], delegate["take"]) == (alice.cold, 11_796)
    assert (delegate["registrations"], delegate["validator_permits"]) == ([1], [1])
    assert dict(delegate["nominators"])[bob.cold] == [(1, 3 * TAO)]
    assert delegate["total_daily_return"] == staked.get("Emission", 1)[1] * 7200 // 20
    ((info, position),) = ask(staked, "DelegateInfoRuntimeApi_get_delegated", bob.cold)
    assert (info["delegate_ss58"], info["nominators"]) == (alice.hot, [])
    assert position == (1, 3 * TAO)
