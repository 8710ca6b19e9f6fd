"""Localnets of real processes on machines that are busy, or of unequal speed. Slow: minutes."""

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from localnet.chain.pace import Pace, PaceFile
from tests.support.localnet.running import LIMIT_S, TEXT, RunningLocalnet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * LIMIT_S),
    pytest.mark.skipif(not TEXT.exists(), reason="the text is not there: run `make text`"),
]

NUM_WINDOWS = 4
NUM_BURNERS = 2


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., RunningLocalnet]]:
    """Starts a short localnet of one validator and some miners."""
    started: list[RunningLocalnet] = []

    def run(*flags: str) -> RunningLocalnet:
        usual = ("--text", str(TEXT), "--validators", "1", "--windows", str(NUM_WINDOWS))
        started.append(RunningLocalnet(tmp_path / "out", *usual, *flags))
        return started[-1]

    yield run
    for net in started:
        net.kill_leftovers()


@pytest.fixture
def burners() -> Iterator[None]:
    """Two processes take all CPU time that the system gives them."""
    command = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command) for _ in range(NUM_BURNERS)]
    yield
    for process in running:
        process.kill()
        process.wait()


def miners_of(net: RunningLocalnet) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in net.report["neurons"] if each["role"] == "miner"}


def test_a_busy_machine_gets_longer_blocks_and_accepts_payloads(start, burners: None) -> None:
    net = start("--miners", "2")
    net.end()
    assert "all neurons are ready" in net.output
    pace = net.report["pace"]
    assert pace["asked_s"] is None
    assert pace["block_time_s"] >= pace["least_block_s"]
    usual = Pace(block_time_s=60.0)
    assert PaceFile(net.out / "chain.pace", usual).current().block_time_s == pace["block_time_s"]
    # No window is lost to neurons that still load: all were ready before the first.
    first = net.report["windows"][0]
    assert first["window"] == 0
    assert first["accepted_uids"], net.output
    for miner in miners_of(net).values():
        assert miner["payloads_committed"] == NUM_WINDOWS, net.output
        assert miner["payloads_accepted"] >= NUM_WINDOWS // 2, net.output
        assert miner["exit"] == 0


def test_machines_of_unequal_speed_all_take_part(start) -> None:
    net = start("--miners", "3", "--speeds", "miner-1:0.25,miner-2:0.1")
    net.end()
    found = miners_of(net)
    assert [found[f"miner-{i}"]["speed"] for i in range(3)] == [1.0, 0.25, 0.1]
    for miner in found.values():
        assert miner["payloads_accepted"] > 0, net.output
        assert miner["pages_claimed"] > 0
        assert miner["exit"] == 0
    assert sum(miner["work_share"] for miner in found.values()) == pytest.approx(1.0)
    # The same pages take the slow ones four and ten times as long.
    speeds = [
        statistics.median(
            row["inner_tokens_per_s"] for row in net.rows(name) if "inner_tokens_per_s" in row
        )
        for name in sorted(found)
    ]
    assert speeds == sorted(speeds, reverse=True)


def test_a_slow_a_small_and_a_fast_machine_share_a_run(start) -> None:
    """A part of the steps, half of the model, twice the pages: all are accepted and paid."""
    net = start(
        "--miners", "4", "--speeds", "miner-1:0.06", "--parts", "miner-2:2",
        "--widths", "miner-3:2", "--windows", "10",
    )  # fmt: skip
    net.end()
    usual, slow, small, wide = (miners_of(net)[f"miner-{i}"] for i in range(4))
    for miner in (usual, slow, small, wide):
        assert miner["exit"] == 0
        assert miner["payloads_accepted"] >= 4, net.output
        assert miner["emission_rao"] > 0, net.output
    assert wide["pages_claimed"] > 1.5 * usual["pages_claimed"]
    assert slow["pages_claimed"] < usual["pages_claimed"]
    payload_bytes = {
        name: {row["payload_bytes"] for row in net.rows(name) if "payload_bytes" in row}
        for name in ("miner-0", "miner-2")
    }
    assert max(payload_bytes["miner-2"]) < min(payload_bytes["miner-0"])
