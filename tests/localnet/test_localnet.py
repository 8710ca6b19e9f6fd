"""Whole localnets through the command, in real processes. Slow: each takes a minute or so."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.localnet.running import LIMIT_S, TEXT, RunningLocalnet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(LIMIT_S + 30),
    pytest.mark.skipif(not TEXT.exists(), reason="the text is not there: run `make text`"),
]


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., RunningLocalnet]]:
    started: list[RunningLocalnet] = []

    def run(*flags: str) -> RunningLocalnet:
        started.append(RunningLocalnet(tmp_path / "out", *flags))
        return started[-1]

    yield run
    for net in started:
        net.kill_leftovers()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_the_run_goes_on_without_a_miner_and_a_validator_that_stay_dead(start):
    flags = ["--miners", "3", "--misbehave", "garbage:1,malformed:1", "--windows", "7"]
    net = start(*flags, "--block-time", "0.2", "--no-restart")
    net.wait_until(lambda: net.num_with("miner-1", "committed") >= 2)
    for name in ("miner-1", "val-1"):
        os.kill(net.pids[name], signal.SIGKILL)
    assert net.end() == 0, net.output
    assert net.output.count("it is not started again (--no-restart)") == 2
    report = net.report
    assert set(report["restarts"].values()) == {0}
    nodes = {n["name"]: n for n in report["neurons"]}
    assert {nodes[name]["exit"] for name in ("miner-1", "val-1")} == {-signal.SIGKILL}
    alive = [nodes[name] for name in ("val-0", "miner-0", "miner-2")]
    assert {(n["final_window"], n["exit"]) for n in alive} == {(8, 0)}
    assert len({n["final_params_digest"] for n in alive}) == 1
    assert all(n["emission"] > 0 for n in alive[1:])
    assert nodes["garbage-0"]["emission"] == nodes["malformed-0"]["emission"] == 0
    assert set(nodes["malformed-0"]["refusals"]) >= {"length", "magic"}
    assert (net.out / "localnet.png").stat().st_size > 10_000


def test_a_run_of_garbage_alone_fails(start):
    flags = ["--miners", "0", "--validators", "1", "--misbehave", "garbage:2", "--windows", "3"]
    net = start(*flags, "--block-time", "0.2")
    assert net.end() == 1, net.output
    assert "there is no honest miner" in net.output
    garbage = [n for n in net.report["neurons"] if n["behaviour"] == "garbage"]
    assert [n["emission"] for n in garbage] == [0, 0]


def test_an_interrupt_ends_every_process(start):
    net = start("--miners", "1", "--validators", "1", "--windows", "3")
    net.wait_until((net.out / "nodes" / "miner-0").exists)
    pids = net.pids
    assert set(pids) == {"chain", "buckets", "val-0", "miner-0"}
    assert all(map(is_running, pids.values()))
    net.process.send_signal(signal.SIGINT)
    assert net.end() == 130, net.output
    assert not [pid for pid in pids.values() if is_running(pid)]
    leftovers = subprocess.run(
        ["pgrep", "-f", str(net.out)], capture_output=True, text=True, check=False
    )
    assert leftovers.stdout == ""


def test_a_chain_that_stays_dead_ends_the_run(start):
    net = start("--miners", "1", "--validators", "1", "--windows", "3", "--no-restart")
    net.wait_until(lambda: "waiting for block" in net.output)
    os.kill(net.pids["chain"], signal.SIGKILL)
    assert net.end() == 1, net.output
    assert "chain ended with status -9: the run cannot go on" in net.output
    assert not [pid for pid in net.pids.values() if is_running(pid)]
