"""kill -9 of every kind of process of one localnet, each of which goes on from where it was.

Slow: a localnet of ten windows, two to three minutes.
"""

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from template.chain.bittensor import BittensorChain
from template.localnet.buckets import AccessKey
from template.protocol.spec import load_spec
from template.secret import Secret
from template.store.s3 import S3Bucket, S3Store
from template.training.checkpoint import load_local
from tests.localnet.running import LIMIT_S, TEXT, RunningLocalnet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(LIMIT_S + 60),
    pytest.mark.skipif(not TEXT.exists(), reason="the text is not there: run `make text`"),
]

NUM_WINDOWS = 10
NODES = ("val-0", "val-1", "miner-0", "miner-1")


@pytest.fixture
def net(tmp_path) -> Iterator[RunningLocalnet]:
    flags = ["--miners", "2", "--validators", "2", "--windows", str(NUM_WINDOWS)]
    running = RunningLocalnet(tmp_path / "out", *flags, "--block-time", "0.4")
    yield running
    running.kill_leftovers()


def decided(net: RunningLocalnet, num_windows: int) -> None:
    """Wait until a node that nobody kills has taken that many outer steps."""
    net.wait_until(lambda: net.num_with("miner-1", "state_root") >= num_windows)


def kill(net: RunningLocalnet, name: str) -> int:
    """kill -9; returns the old pid."""
    pid = net.pids[name]
    os.kill(pid, signal.SIGKILL)
    return pid


def comes_back(net: RunningLocalnet, name: str, old_pid: int) -> None:
    net.wait_until(lambda: net.pids[name] != old_pid)
    assert f"{name} was killed by signal 9; restart 1 of 5" in net.output


def block_hashes(net: RunningLocalnet, last: int | None = None) -> list[bytes]:
    chain = BittensorChain(endpoint=net.chain_url, netuid=1, wallet=None, version_key=0)
    try:
        return [chain.block_hash(block) for block in range((last or chain.head()) + 1)]
    finally:
        chain.close()


def objects(net: RunningLocalnet) -> dict[str, str]:
    """Bucket and key -> SHA-256 of all that is in the buckets."""
    environment = Path(f"/proc/{net.pids['miner-1']}/environ").read_text().split("\0")
    url = dict(line.split("=", 1) for line in environment if line)["TESSERA_BUCKET_ENDPOINT"]
    identities = json.loads((net.out / "buckets" / "ids.json").read_text())["identities"]
    credential = next(i for i in identities if i["name"] == "admin")["credentials"][0]
    key = AccessKey(
        access_key_id=credential["accessKey"],
        secret_access_key=Secret(credential["secretKey"]),
    )
    found = {}
    for name in (i["name"].removesuffix("-rw") for i in identities if i["name"].endswith("-rw")):
        bucket = S3Bucket(
            endpoint_url=url,
            bucket=name,
            access_key_id=key.access_key_id,
            secret_access_key=key.secret_access_key,
        )
        with closing(S3Store(bucket)) as store:
            for key_of_object in store.list(""):
                data = store.get(key_of_object, max_bytes=2**30)
                found[f"{name}/{key_of_object}"] = hashlib.sha256(data).hexdigest()
    return found


def test_all_are_killed_in_turn_and_nothing_is_lost(net: RunningLocalnet) -> None:
    decided(net, 1)
    old = kill(net, "miner-0")
    spec = load_spec(net.out / "run.toml")
    kept = load_local(net.out / "nodes" / "miner-0" / "node.safetensors", spec)
    assert kept is not None
    assert any(tensor.any() for tensor in kept.groups["feedback"].values())
    assert any(tensor.any() for tensor in kept.groups["moments"].values())
    comes_back(net, "miner-0", old)

    decided(net, 2)
    comes_back(net, "val-0", kill(net, "val-0"))

    decided(net, 4)
    hashes = block_hashes(net)
    comes_back(net, "chain", kill(net, "chain"))
    decided(net, 5)
    assert len(hashes) > 100
    assert block_hashes(net, len(hashes) - 1) == hashes

    decided(net, 6)
    before = objects(net)
    comes_back(net, "buckets", kill(net, "buckets"))
    decided(net, 8)
    after = objects(net)
    assert len(before) > 2 * 6
    assert {key: after.get(key) for key in before} == before

    assert net.end() == 0, net.output
    report = net.report
    killed = {"miner-0", "val-0", "chain", "buckets"}
    names = {"chain", "buckets", *NODES}
    assert report["restarts"] == {name: int(name in killed) for name in names}
    assert f"continuing at theta_{kept.state.window} from" in net.log("miner-0")
    assert "continuing at theta_" in net.log("val-0")
    neurons = {n["name"]: n for n in report["neurons"]}
    ends = {(neurons[n]["final_window"], neurons[n]["final_params_digest"]) for n in NODES}
    assert [window for window, _ in ends] == [NUM_WINDOWS + 1]
    assert {neurons[name]["exit"] for name in NODES} == {0}
    assert not [w for w in report["windows"] if w["disagreeing"]]
    # On a loaded machine a restart may take more than a window.
    for name in ("miner-0", "miner-1"):
        assert neurons[name]["payloads_accepted"] > NUM_WINDOWS // 2
