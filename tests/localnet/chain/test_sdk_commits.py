"""The unmodified SDK against a chain with commit-reveal: what it sends, and what it reads back."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bittensor as bt
import pytest

from localnet.chain.__main__ import main
from tests.support.localnet.commit_cases import PULSES, ROUND, seal_to_round
from tests.support.waiting import wait_until

NETUID = 1
TEMPO = 30
BLOCK_TIME_S = 0.1


@pytest.fixture(scope="module")
def client(
    start_chain: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A chain that knows round 1000 from its first block on."""
    home = tmp_path_factory.mktemp("home")
    pulses = home / "pulses.json"
    pulses.write_text(json.dumps({ROUND: PULSES[ROUND]}))
    flags = {
        "--block-time": str(BLOCK_TIME_S),
        "--tempo": str(TEMPO),
        "--weights-rate-limit": "0",
        "--commit-reveal": "on",
        "--drand-pulses": str(pulses),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        url = start_chain(*(word for flag in flags.items() for word in flag)).url
        subtensor = bt.Subtensor(network=url, fallback_endpoints=[], archive_endpoints=[])
        yield subtensor
        subtensor.close()


@pytest.fixture(scope="module")
def subnet(client: Any, wallets: dict[str, Any]) -> Any:
    """Subnet 1, whose owner may set weights without a permit; alice is its uid 1."""
    assert client.execute(bt.RegisterSubnet(), wallets["owner"], **FAST).success
    alice = wallets["alice"]
    call = bt.calls.SubtensorModule.burned_register(netuid=NETUID, hotkey=alice.hot)
    assert client.submit_call(call, alice, wait_for_finalization=False).success
    return client


FAST = {"wait_for_finalization": False}


def pending(client: Any) -> list[dict[str, Any]]:
    commits = client.weights.timelocked_weight_commits(netuid=NETUID)
    return [commit for epoch in commits.values() for commit in epoch]


def test_set_weights_lands_as_a_timelocked_commit(subnet: Any, wallets: dict[str, Any]) -> None:
    assert subnet.subnets.commit_reveal_enabled(NETUID) is True
    intent = bt.SetWeights(netuid=NETUID, weights={1: 1.0})
    sent = subnet.execute(intent, wallets["owner"], **FAST)
    assert sent.success
    (commit,) = [c for c in pending(subnet) if c["reveal_round"] == sent.data["reveal_round"]]
    assert commit["hotkey"] == wallets["owner"].hot
    # It is to open after the epoch that it was made in, on the clock of the real beacon.
    opens_in_s = commit["reveals_at"].timestamp() - time.time()
    assert opens_in_s < 2 * TEMPO * BLOCK_TIME_S
    assert subnet.weights.weights(netuid=NETUID) == {}
    dated = subnet.subnets.metagraph(NETUID).neurons[0].last_update
    assert dated == commit["commit_block"]


def test_plain_weights_are_refused_by_their_name(subnet: Any, wallets: dict[str, Any]) -> None:
    row: dict[str, Any] = {"dests": [1], "weights": [1], "version_key": 0}
    call = bt.calls.SubtensorModule.set_mechanism_weights(netuid=NETUID, mecid=0, **row)
    refused = subnet.submit_call(call, wallets["owner"], signer="hotkey", **FAST)
    assert not refused.success
    assert "when commit/reveal is enabled" in refused.message


@pytest.mark.slow
def test_a_commit_to_a_recorded_pulse_opens(subnet: Any, wallets: dict[str, Any]) -> None:
    owner = wallets["owner"]
    key = bytes(owner.hotkey.public_key)
    # 32 bytes of hotkey, one uid, one weight, version key 0: SCALE by hand.
    data = b"\x80" + key + b"\x04\x01\x00" + b"\x04\xff\xff" + bytes(8)
    call = bt.calls.SubtensorModule.commit_timelocked_mechanism_weights(
        netuid=NETUID,
        mecid=0,
        commit=seal_to_round(data),
        reveal_round=ROUND,
        commit_reveal_version=4,
    )
    assert subnet.submit_call(call, owner, signer="hotkey", **FAST).success
    wait_until(lambda: bool(subnet.weights.weights(netuid=NETUID)), every_s=0.05)
    assert subnet.weights.weights(netuid=NETUID) == {0: {1: 1.0}}
    assert all(commit["reveal_round"] != ROUND for commit in pending(subnet))


def test_a_file_of_pulses_that_are_not_genuine_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pulses.json"
    path.write_text(json.dumps({ROUND: PULSES[ROUND + 1]}))
    assert main(["--port", "0", "--drand-pulses", str(path)]) == 2
    assert "--drand-pulses" in capsys.readouterr().err
