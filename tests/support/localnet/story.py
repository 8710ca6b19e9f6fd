"""One localnet in which every kind of process is killed, and what it left to look at.

Garbage and malformed miners take part, neurons with wrong credentials try to, one more neuron
logs all that can be logged, and chain and bucket server are held after the end. Asserts
nothing about any of it.
"""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from template.protocol.spec import load_spec
from template.training.checkpoint import LocalCheckpoint, load_local
from tests.support.faults.process import NodeProcess, warm_nursery
from tests.support.localnet.beside import Beside
from tests.support.localnet.btcli import metagraph_by_btcli, weights_by_btcli
from tests.support.localnet.running import ROOT, RunningLocalnet, is_running

NUM_WINDOWS = 10
HONEST = ("val-0", "val-1", "miner-0", "miner-1", "miner-2")
NODES = (*HONEST, "garbage-0", "malformed-0")
PROCESSES = ("chain", "buckets", *NODES)
KILLED = ("miner-0", "val-0", "chain", "buckets")
LIGHTER = {"inner_steps = 30": "inner_steps = 12", "curve_pages = 1600": "curve_pages = 400"}
"""Of the shipped plan: windows are short, and the machine may have other work than this run's."""
FLAGS = (
    *("--miners", "3", "--validators", "2", "--misbehave", "garbage:1,malformed:1"),
    *("--windows", str(NUM_WINDOWS), "--debug", "--wandb", "online", "--hold"),
)
HELD = "stay up until Ctrl-C"
WRONG = {"no-write": "TESSERA_BUCKET_WRITE_SECRET", "no-read": "TESSERA_BUCKET_READ_SECRET"}
"""Neuron with a wrong secret -> the variable that holds it."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """Chain and bucket server after the end of the run, while they were held.

    `weights` and `graph`: what btcli said at the address in the file `endpoint`.
    """

    running: set[str]
    pids: Mapping[str, int]
    hashes: list[bytes]
    objects: Mapping[str, str]
    weights: Mapping[int, Mapping[int, float]]
    graph: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Story:
    """`command_lines`: what any user of the machine sees of the processes. `kept`: miner-0's state
    when it was killed. `hashes` and `objects`: before the kill of chain and bucket server.
    `last_kill_window`: the newest one in which there were commitments before the last kill.
    `statuses`: of the neurons beside the localnet.
    """

    net: RunningLocalnet
    beside: Beside
    command_lines: bytes
    kept: LocalCheckpoint | None
    hashes: list[bytes]
    objects: Mapping[str, str]
    last_kill_window: int
    statuses: Mapping[str, int]
    held: Held
    status: int


def tell(folder: Path, env: Mapping[str, str]) -> Story:
    """Live through the whole story in an empty folder; fails only if it cannot go on."""
    net = RunningLocalnet(folder / "out", *FLAGS, "--plan", str(_plan(folder)), env=env)
    warm_nursery()
    net.wait_until(lambda: set(PROCESSES) <= set(net.pids))
    beside = Beside(net)
    try:
        return _tell(net, beside)
    finally:
        beside.kill_leftovers()
        net.kill_leftovers()


def _plan(folder: Path) -> Path:
    text = (ROOT / "runs" / "localnet.toml").read_text()
    for line, lighter in LIGHTER.items():
        assert line in text
        text = text.replace(line, lighter)
    path = folder / "plan.toml"
    path.write_text(text)
    return path


def _tell(net: RunningLocalnet, beside: Beside) -> Story:
    command_lines = b"".join(Path(f"/proc/{p}/cmdline").read_bytes() for p in net.pids.values())
    _decided(net, 1)
    kept = _kill_miner(net)
    wrong = {name: _start_wrong(beside, name) for name in WRONG}
    traced = _start_traced(beside)
    net.wait_until(lambda: "continuing at theta_" in net.log("miner-0"))
    _kill(net, "val-0")
    statuses = {name: process.end() for name, process in wrong.items()}
    net.wait_until(lambda: "continuing at theta_" in net.log("val-0"))
    net.wait_until(lambda: "starting at theta_" in beside.output("traced"))
    objects = beside.objects()
    _kill(net, "buckets")
    # A request that comes while SeaweedFS starts may hang until its own limit, for three windows.
    _decided(net, _num_decided(net) + 1)
    hashes = beside.block_hashes()
    last_kill_window = _window(net)
    _kill(net, "chain")
    net.wait_until(lambda: HELD in net.output)
    statuses["traced"] = traced.end()
    held = _look(net, beside, len(hashes))
    net.process.send_signal(signal.SIGINT)
    return Story(
        net=net,
        beside=beside,
        command_lines=command_lines,
        kept=kept,
        hashes=hashes,
        objects=objects,
        last_kill_window=last_kill_window,
        statuses=statuses,
        held=held,
        status=net.end(),
    )


def _num_decided(net: RunningLocalnet) -> int:
    """Outer steps of a node that nobody kills."""
    return net.num_with("miner-1", "state_root")


def _decided(net: RunningLocalnet, num_windows: int) -> None:
    net.wait_until(lambda: _num_decided(net) >= num_windows)


def _window(net: RunningLocalnet) -> int:
    """The newest one in which that node committed a payload."""
    return max(row["window"] for row in net.rows("miner-1") if "committed" in row)


def _kill(net: RunningLocalnet, name: str) -> None:
    """kill -9, and wait until it was started again."""
    old_pid = net.pids[name]
    os.kill(old_pid, signal.SIGKILL)
    net.wait_until(lambda: net.pids[name] != old_pid)


def _kill_miner(net: RunningLocalnet) -> LocalCheckpoint | None:
    """Kill miner-0; returns the state that it will find."""
    pid = net.pids["miner-0"]
    os.kill(pid, signal.SIGKILL)
    spec = load_spec(net.out / "run.toml")
    kept = load_local(net.out / "nodes" / "miner-0" / "node.safetensors", spec)
    net.wait_until(lambda: net.pids["miner-0"] != pid)
    return kept


def _start_wrong(beside: Beside, name: str) -> NodeProcess:
    changes = {WRONG[name]: "0" * 63 + "1"}
    return beside.start(name, "--logging.debug", "--wandb.off", **changes)


def _start_traced(beside: Beside) -> NodeProcess:
    """A neuron that logs all that can be logged, and keeps its metrics for Weights & Biases."""
    folder = str(beside.net.out / "traced")
    flags = ("--logging.trace", "--logging.logging_dir", folder, "--wandb.offline")
    return beside.start("traced", *flags)


def _look(net: RunningLocalnet, beside: Beside, num_blocks: int) -> Held:
    endpoint, home = net.endpoint, net.out.parent
    pids = net.pids
    return Held(
        weights=weights_by_btcli(endpoint, 1, home),
        graph=metagraph_by_btcli(endpoint, 1, home),
        running={name for name, pid in pids.items() if is_running(pid)},
        pids=pids,
        hashes=beside.block_hashes(num_blocks),
        objects=beside.objects(),
    )
