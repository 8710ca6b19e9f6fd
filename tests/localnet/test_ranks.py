"""A miner of two ranks by torchrun takes part in a localnet; killed, it goes on."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.localnet.running import LIMIT_S, TEXT, RunningLocalnet, children_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(LIMIT_S),
    pytest.mark.skipif(not TEXT.exists(), reason="the text is not there: run `make text`"),
]
NUM_WINDOWS = 8
MINER_UID = 2
"""After the owner and the one validator."""


def accepted_windows(net: RunningLocalnet) -> list[int]:
    return [
        row["window"]
        for row in net.rows("val-0")
        if str(MINER_UID) in str(row.get("accepted_uids", "")).split(",")
    ]


def test_a_miner_of_two_ranks_takes_part_and_survives_the_death_of_one(tmp_path: Path) -> None:
    flags = ("--text", str(TEXT), "--miners", "2", "--validators", "1", "--ranks", "miner-0:2")
    net = RunningLocalnet(tmp_path / "net", *flags, "--windows", str(NUM_WINDOWS))
    try:
        net.wait_until(lambda: len(accepted_windows(net)) >= 2)
        before = accepted_windows(net)
        os.kill(children_of(net.pids["miner-0"])[-1], signal.SIGKILL)
        net.wait_until(lambda: net.log("miner-0").count("rank 0 of 2, on cpu") == 2)
        net.wait_until(lambda: len(accepted_windows(net)) >= len(before) + 2)
        net.end()
    finally:
        net.kill_leftovers()
    log = net.log("miner-0")
    assert "rank 1 of 2 has ended" in log or "out of step" in log
    assert "continuing at theta_" in log
    assert net.report["restarts"]["miner-0"] == 1
    neurons = {neuron["name"]: neuron for neuron in net.report["neurons"]}
    assert neurons["miner-0"]["exit"] == 0
    ends = {neuron["final_params_digest"] for name, neuron in neurons.items() if name != "owner"}
    assert len(ends) == 1
