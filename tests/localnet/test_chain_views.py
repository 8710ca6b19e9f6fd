"""Runtime APIs: every answer has its declared type and agrees with storage at that block."""

from typing import Any

import pytest

from template.localnet.chain import views
from template.localnet.chain.blocks import hex_of
from template.localnet.chain.methods import Methods, RpcError

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
    alice = ledger.wallets["alice"]
    names = {
        "get_stake_info_for_hotkey_coldkey_netuid": [alice.hot, alice.cold, 1],
        "get_stake_info_for_coldkeys": [[alice.cold]],
        "get_stake_availability_for_coldkeys": [[alice.cold], None],
        "get_mechagraph": [1, 0],
        "get_neuron": [1, 1],
        "get_neuron_lite": [1, 1],
        "sim_swap_tao_for_alpha": [1, 7],
    }
    method = name.partition("_")[2]
    if method in names:
        return names[method]
    if not ledger.metadata.runtime_method(name).input_types:
        return []
    takes_account = "coldkey" in method or "basket" in method or "nonce" in method
    return [alice.cold if takes_account else 1]


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
    assert graph["tao_stake"][1] == weighted
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
    dave = staked.wallets["dave"]
    name = "StakeInfoRuntimeApi_get_stake_info_for_hotkey_coldkey_netuid"
    assert ask(staked, name, dave.hot, dave.cold, 1) is None


def test_stake_of_a_coldkey_is_listed_by_subnet(staked: Any) -> None:
    alice = staked.wallets["alice"]
    rows = ask(staked, "StakeInfoRuntimeApi_get_stake_info_for_coldkey", alice.cold)
    stakes = {row["netuid"]: row["stake"] for row in rows}
    assert stakes == {0: 2 * TAO, 1: staked.get("TotalHotkeyAlpha", alice.hot, 1)}
    name = "StakeInfoRuntimeApi_get_stake_availability_for_coldkeys"
    for netuids, wanted in ((None, {0, 1}), ([0], {0}), ([7], {7})):
        free = ask(staked, name, [alice.cold], netuids)[alice.cold]
        assert {netuid: entry["available"] for netuid, entry in free.items()} == {
            netuid: stakes.get(netuid, 0) for netuid in wanted
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
