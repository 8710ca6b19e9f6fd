"""What an owner, a staker and a miner do through the unmodified SDK, and how it tells errors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bittensor as bt
import pytest

NETUID = 1


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The SDK caches metadata and token symbols under HOME."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def client(start_chain: Callable[..., Any], wallets: dict[str, Any]) -> Iterator[Any]:
    """Subnet 1 with owner and alice, who holds 100 TAO of stake; a tempo that does not end."""
    url = start_chain("--block-time", "0.05", "--network-rate-limit", "0").url
    subtensor = bt.Subtensor(network=url, fallback_endpoints=[], archive_endpoints=[])
    for intent in (bt.RegisterSubnet(), bt.StartCall(netuid=NETUID)):
        assert do(subtensor, intent, wallets["owner"]).success
    hotkey = wallets["alice"].hot
    register = bt.calls.SubtensorModule.burned_register(netuid=NETUID, hotkey=hotkey)
    result = subtensor.submit_call(register, wallets["alice"], wait_for_finalization=False)
    assert result.success
    stake = bt.AddStake(hotkey_ss58=hotkey, netuid=NETUID, amount_tao=100)
    assert do(subtensor, stake, wallets["alice"]).success
    yield subtensor
    subtensor.close()


def do(client: Any, intent: Any, wallet: Any) -> Any:
    return client.execute(intent, wallet, wait_for_finalization=False)


def stake_of(client: Any, wallet: Any, netuid: int = NETUID) -> float:
    """Alpha of a wallet on its own hotkey."""
    keys = [wallet.hot, wallet.cold, netuid]
    return int(client.query(("SubtensorModule", "Alpha"), keys)["bits"]) / 2**64 / 10**9


def test_an_owner_sets_a_hyperparameter_once_and_others_never(
    client: Any, wallets: dict[str, Any]
) -> None:
    change = bt.SetHyperparameter(netuid=NETUID, name="min_burn", value="0.25")
    refused = do(client, change, wallets["alice"])
    assert not refused.success
    assert refused.error.code == bt.ErrorCode.NOT_AUTHORIZED
    assert do(client, change, wallets["owner"]).success
    assert int(client.query(("SubtensorModule", "MinBurn"), [NETUID])) == 250_000_000
    again = do(client, change, wallets["owner"])
    assert again.error.code == bt.ErrorCode.RATE_LIMITED
    raised = bt.SetHyperparameter(netuid=NETUID, name="burn_increase_mult", value="1.5")
    assert do(client, raised, wallets["owner"]).success
    assert client.query(("SubtensorModule", "BurnIncreaseMult"), [NETUID]) == {"bits": 3 << 63}
    closed = bt.SetHyperparameter(netuid=NETUID, name="registration_allowed", value="false")
    assert not do(client, closed, wallets["owner"]).success


def test_a_miner_serves_its_axon_and_resets_it(client: Any, wallets: dict[str, Any]) -> None:
    serve = bt.ServeAxon(netuid=NETUID, ip="203.0.113.7", port=8091)
    assert do(client, serve, wallets["alice"]).success
    neuron = client.subnets.metagraph(NETUID).by_hotkey(wallets["alice"].hot)
    assert neuron.axon == "203.0.113.7:8091"
    early = do(client, bt.ResetAxon(netuid=NETUID), wallets["alice"])
    assert early.error.code == bt.ErrorCode.RATE_LIMITED
    stranger = do(client, serve, wallets["dave"])
    assert stranger.error.code == bt.ErrorCode.NOT_REGISTERED
    pace = bt.SetHyperparameter(netuid=NETUID, name="serving_rate_limit", value=0)
    assert do(client, pace, wallets["owner"]).success
    assert do(client, bt.ResetAxon(netuid=NETUID), wallets["alice"]).success
    tls = bt.ServeAxonTls(netuid=NETUID, ip="2001:db8::1", port=1, certificate="0x01" + "ff" * 32)
    assert do(client, tls, wallets["alice"]).success


def test_a_staker_takes_stake_back_and_moves_it(client: Any, wallets: dict[str, Any]) -> None:
    alice, owner = wallets["alice"], wallets["owner"]
    hotkey = alice.hot
    take = bt.RemoveStake(hotkey_ss58=hotkey, netuid=NETUID, amount_alpha=40)
    assert do(client, take, alice).success
    assert stake_of(client, alice) == 60
    move = bt.MoveStake(
        origin_hotkey_ss58=hotkey,
        dest_hotkey_ss58=owner.hot,
        origin_netuid=NETUID,
        dest_netuid=NETUID,
        amount_alpha=10,
    )
    assert do(client, move, alice).success
    assert stake_of(client, alice) == 50
    assert do(client, bt.UnstakeAll(hotkey_ss58=hotkey), alice).success
    assert stake_of(client, alice) == 0
    with pytest.raises(bt.ChainError):
        do(client, take, alice).raise_for_failure()


def test_a_subnet_is_named_and_a_second_one_costs_more(
    client: Any, wallets: dict[str, Any]
) -> None:
    name = bt.SetSubnetIdentity(netuid=NETUID, subnet_name="Tessera")
    assert do(client, name, wallets["owner"]).success
    stored = client.query(("SubtensorModule", "SubnetIdentitiesV3"), [NETUID])
    assert stored["subnet_name"] == "Tessera"
    assert client.subnets.subnet_registration_cost().rao > 1_900 * 10**9
    assert do(client, bt.RegisterSubnet(), wallets["carol"]).success


def test_a_batch_is_one_extrinsic_and_all_or_nothing(client: Any, wallets: dict[str, Any]) -> None:
    bob = wallets["bob"]
    stakes = [
        bt.AddStake(hotkey_ss58=wallets[name].hot, netuid=NETUID, amount_tao=amount)
        for name, amount in (("owner", 2), ("alice", 3))
    ]
    assert do(client, bt.Batch(intents=stakes), bob).success
    keys = [[wallets[name].hot, bob.cold, NETUID] for name in ("owner", "alice")]
    held = [int(client.query(("SubtensorModule", "Alpha"), key)["bits"]) >> 64 for key in keys]
    assert held == [2 * 10**9, 3 * 10**9]
