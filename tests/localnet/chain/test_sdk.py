"""The unmodified Bittensor SDK against the chain in its own process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bittensor as bt
import pytest

from localnet.onchain import Registrar
from template.errors import ChainError
from tests.support.localnet.ledger import LocalWallet
from tests.support.waiting import wait_until

S = bt.calls.SubtensorModule
NETUID = 1


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The SDK caches metadata and token symbols under HOME."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def client(start_chain: Callable[..., Any]) -> Iterator[Any]:
    flags = ("--block-time", "0.1", "--tempo", "20", "--weights-rate-limit", "30")
    url = start_chain(*flags).url
    subtensor = bt.Subtensor(network=url, fallback_endpoints=[], archive_endpoints=[])
    yield subtensor
    subtensor.close()


@pytest.fixture(scope="module")
def subnet(client: Any, wallets: dict[str, Any]) -> Any:
    """Subnet 1 with owner, alice (staked), bob and carol, past its first epoch with stake."""
    assert client.execute(bt.RegisterSubnet(), wallets["owner"]).success
    assert client.execute(bt.StartCall(netuid=NETUID), wallets["owner"]).success
    for name in ("alice", "bob", "carol"):
        assert register(client, wallets[name]).success
    stake = bt.AddStake(hotkey_ss58=wallets["alice"].hot, netuid=NETUID, amount_tao=500)
    assert client.execute(stake, wallets["alice"], wait_for_finalization=False).success
    wait_until(lambda: client.subnets.metagraph(NETUID).neurons[1].validator_permit)
    return client


def register(client: Any, wallet: Any, **changes: Any) -> Any:
    args = {"netuid": NETUID, "hotkey": wallet.hot, **changes}
    return client.submit_call(S.burned_register(**args), wallet, wait_for_finalization=False)


def commit(client: Any, wallet: Any, *fields: bytes, wait: bool = True) -> Any:
    info = {"fields": [{f"Raw{len(data)}": "0x" + data.hex()} for data in fields]}
    call = bt.calls.Commitments.set_commitment(netuid=NETUID, info=info)
    waits = {"wait_for_inclusion": wait, "wait_for_finalization": False}
    return client.submit_call(call, wallet, signer="hotkey", **waits)


def test_registration_and_its_refusals(subnet: Any, wallets: dict[str, Any]) -> None:
    graph = subnet.subnets.metagraph(NETUID)
    assert graph.hotkeys[:4] == [wallets[n].hot for n in ("owner", "alice", "bob", "carol")]
    assert graph.coldkeys[:4] == [wallets[n].cold for n in ("owner", "alice", "bob", "carol")]
    assert graph.owner_hotkey == wallets["owner"].hot
    assert graph.price == 1.0
    again = register(subnet, wallets["alice"])
    assert again.error.code == bt.ErrorCode.ALREADY_EXISTS
    nowhere = register(subnet, wallets["bob"], netuid=77)
    assert nowhere.error.code == bt.ErrorCode.SUBNET_NOT_EXISTS


def test_weights_are_set_read_back_paid_and_rate_limited(
    subnet: Any, wallets: dict[str, Any]
) -> None:
    wait_until(lambda: subnet.epochs.blocks_since_last_update(NETUID, 1) > 30)
    intent = bt.SetWeights(netuid=NETUID, weights={2: 0.75, 3: 0.25})
    assert subnet.execute(intent, wallets["alice"], wait_for_finalization=False).success
    row = subnet.weights.weights(netuid=NETUID)[1]
    assert row == pytest.approx({2: 0.75, 3: 0.25}, abs=1e-4)
    with pytest.raises(bt.ChainError) as refused:
        subnet.execute(intent, wallets["alice"])
    assert refused.value.code == bt.ErrorCode.RATE_LIMITED
    call = S.set_mechanism_weights(netuid=NETUID, mecid=0, dests=[2], weights=[1], version_key=0)
    raw = subnet.submit_call(call, wallets["alice"], signer="hotkey", wait_for_finalization=False)
    assert raw.error.code == bt.ErrorCode.RATE_LIMITED
    wait_until(lambda: subnet.subnets.metagraph(NETUID).neurons[2].emission.rao > 0)
    bob, carol = subnet.subnets.metagraph(NETUID).neurons[2:4]
    assert bob.incentive == pytest.approx(0.75, abs=1e-3)
    assert bob.emission.rao == pytest.approx(3 * carol.emission.rao, rel=1e-3)
    assert bob.alpha_stake.rao >= bob.emission.rao


def test_past_metagraphs_keep_their_integers(subnet: Any, wallets: dict[str, Any]) -> None:
    before = subnet.block
    stakes = [n.total_stake.rao for n in subnet.at(before).subnets.metagraph(NETUID).neurons]
    more = bt.AddStake(hotkey_ss58=wallets["bob"].hot, netuid=NETUID, amount_tao=7)
    result = subnet.execute(more, wallets["bob"], wait_for_finalization=False)
    assert result.success
    past = subnet.at(before).subnets.metagraph(NETUID)
    assert past.block == before
    assert [neuron.total_stake.rao for neuron in past.neurons] == stakes
    now = subnet.subnets.metagraph(NETUID).neurons[2].total_stake.rao
    assert now >= stakes[2] + 7 * 10**9


def test_commitments_are_binary_safe_and_readable_at_past_blocks(
    subnet: Any, wallets: dict[str, Any]
) -> None:
    first, second = bytes(range(128)) + b"\xff", b"\x00second"
    assert commit(subnet, wallets["bob"], first[:128], first[128:]).success
    block = subnet.block
    assert commit(subnet, wallets["bob"], second).success
    item = ("Commitments", "CommitmentOf")
    params = [NETUID, wallets["bob"].hot]

    def stored(record: Any) -> bytes:
        values = [next(iter(field.values())) for field in record["info"]["fields"]]
        return b"".join(bytes.fromhex(value[2:]) for value in values)

    assert stored(subnet.query(item, params, block=block)) == first
    assert stored(subnet.query(item, params)) == second
    assert subnet.subnets.commitments(NETUID)[wallets["bob"].hot].data == second.decode()


def test_a_commitment_of_a_stranger_and_one_too_many_are_refused(
    subnet: Any, wallets: dict[str, Any]
) -> None:
    stranger = commit(subnet, LocalWallet("stranger"), b"x")
    assert stranger.error.code == bt.ErrorCode.NOT_AUTHORIZED
    assert "not allowed to make commitments" in stranger.message
    full = [b"a" * 128] * 3
    # 8 x 384 bytes fit into a quota of 3,100 and 9 do not; an epoch may end in between.
    last = commit(subnet, wallets["carol"], *full)
    while last.success:
        for _ in range(8):
            commit(subnet, wallets["carol"], *full, wait=False)
        last = commit(subnet, wallets["carol"], *full)
    assert "Space Limit Exceeded" in last.message


def test_blocks_hashes_and_the_finalized_head(subnet: Any) -> None:
    head, final = subnet.block, subnet.finalized_block
    assert 0 <= head - final <= 4
    info = subnet.block_info(final)
    assert info.number == final
    assert len(bytes.fromhex(info.hash[2:])) == 32
    assert subnet.block_info(final).hash == info.hash
    assert subnet.block_info(final - 1).hash != info.hash
    subnet.wait_for_block(head + 3)
    assert subnet.block >= head + 3


def test_other_reads_that_tools_use(subnet: Any, wallets: dict[str, Any]) -> None:
    assert subnet.neurons.uid(hotkey_ss58=wallets["bob"].hot, netuid=NETUID) == 2
    assert [n.uid for n in subnet.neurons.all(NETUID)][:4] == [0, 1, 2, 3]
    parameters = subnet.subnets.subnet_hyperparameters(NETUID)
    assert parameters["tempo"] == 20
    assert parameters["weights_rate_limit"] == 30
    assert 0 <= subnet.epochs.blocks_until_next_epoch(NETUID) <= 20
    assert subnet.subnets.commit_reveal_enabled(NETUID) is False
    # Twice the first price, falling from block to block.
    assert 1000 * 10**9 < subnet.subnets.subnet_registration_cost().rao <= 2000 * 10**9


def test_a_shielded_registration_lands_and_its_refusal_is_told(
    subnet: Any, wallets: dict[str, Any]
) -> None:
    result = subnet.execute(bt.BurnedRegister(netuid=NETUID), wallets["dave"])
    assert result.success
    assert result.data["shielded"] is True
    assert result.extrinsic_id.endswith("-0002"), "it follows its carrier in the same block"
    assert subnet.neurons.uid(hotkey_ss58=wallets["dave"].hot, netuid=NETUID) >= 4
    # The client goes on from the carrier's nonce and is told off once; it asks again then.
    register(subnet, wallets["dave"])
    again = subnet.execute(bt.BurnedRegister(netuid=NETUID), wallets["dave"])
    assert not again.success
    assert again.error.code == bt.ErrorCode.ALREADY_EXISTS


def test_the_registrar_stakes_right_after_it_registered(
    subnet: Any, wallets: dict[str, Any]
) -> None:
    eve = LocalWallet("eve")
    fund = bt.calls.Balances.transfer_keep_alive(dest=eve.cold, value=100 * 10**9)
    assert subnet.submit_call(fund, wallets["owner"], wait_for_finalization=False).success
    with Registrar(subnet.endpoint) as registrar:
        registrar.register(eve)
        registrar.stake(eve, 5)
        with pytest.raises(ChainError, match=f"could not register {eve.hot}: .*already exists"):
            registrar.register(eve)
    neuron = next(n for n in subnet.subnets.metagraph(NETUID).neurons if n.hotkey == eve.hot)
    assert neuron.total_stake.rao >= 5 * 10**9
