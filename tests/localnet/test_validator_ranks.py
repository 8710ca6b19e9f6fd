"""A validator of two ranks by torchrun votes with another; killed, one process goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from template.protocol.spec import load_spec
from tests.support.localnet.running import LIMIT_S, ROOT, TEXT, RunningLocalnet, children_of
from tests.support.localnet.story import HELD

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * LIMIT_S),
    pytest.mark.skipif(not TEXT.exists(), reason="the text is not there: run `make text`"),
]
NUM_WINDOWS = 8
FLAGS = (
    *("--text", str(TEXT), "--miners", "2", "--validators", "2", "--ranks", "val-0:2"),
    *("--windows", str(NUM_WINDOWS), "--block-time", "0.5", "--no-restart", "--hold"),
)


def accepted_in(net: RunningLocalnet, name: str) -> dict[int, str]:
    """Window -> uids that the votes accepted, with one at least."""
    rows = (row for row in net.rows(name) if row.get("accepted_uids"))
    return {row["window"]: str(row["accepted_uids"]) for row in rows}


def roots_in(net: RunningLocalnet, name: str) -> dict[int, str]:
    """Window of the decision -> root after it."""
    return {row["window"]: row["state_root"] for row in net.rows(name) if "state_root" in row}


def voted_in(net: RunningLocalnet, name: str) -> int:
    """Windows on which a validator has named payloads."""
    return net.log(name).count(": accepted [")


def alone_again(pid: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a torchrun's neuron, as one process."""
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    names = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    env = dict(name.decode().split("=", 1) for name in names if name)
    words = [word.decode() for word in argv]
    return [sys.executable, "-m", *words[words.index("--") + 1 :]], env


def test_a_validator_of_two_ranks_votes_as_others_and_goes_on_as_one(tmp_path: Path) -> None:
    net, again = RunningLocalnet(tmp_path / "net", *FLAGS), None
    try:
        net.wait_until(lambda: len(accepted_in(net, "val-0")) >= 3)
        pid = net.pids["val-0"]
        command, env = alone_again(pid)
        os.kill(children_of(pid)[-1], signal.SIGKILL)
        net.wait_until(lambda: not children_of(pid))
        log_of_ranks = net.log("val-0")
        votes = voted_in(net, "val-0")
        with (tmp_path / "again.log").open("wb") as out:
            again = subprocess.Popen(command, env=env, stdout=out, stderr=out)
        net.wait_until(lambda: HELD in net.output)
        assert again.wait(LIMIT_S) == 0, (tmp_path / "again.log").read_text()
        done = recompute(net)
        net.process.send_signal(signal.SIGINT)
        net.end()
    finally:
        if again is not None:
            again.kill()
        net.kill_leftovers()
    assert "rank 0 of 2, on cpu" in log_of_ranks
    assert "rank 1 of 2 has ended" in log_of_ranks or "out of step" in log_of_ranks
    assert votes >= 3, "the validator of two ranks has named payloads itself"
    assert "continuing at theta_" in (tmp_path / "again.log").read_text()
    ours, theirs = roots_in(net, "val-0"), roots_in(net, "val-1")
    assert ours == theirs
    assert sorted(ours) == list(range(NUM_WINDOWS))
    assert accepted_in(net, "val-0") == accepted_in(net, "val-1")
    assert not any(row.get("dissenting_uids") for row in net.rows("val-1"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing differs from the public objects" in done.stdout
    worst = float(done.stdout.rpartition("the worst off by ")[2].split()[0])
    assert worst < load_spec(net.out / "run.toml").evaluation.loss_tolerance / 2


def recompute(net: RunningLocalnet) -> subprocess.CompletedProcess[str]:
    """An audit of the validator, from the run's first window on."""
    validator = next(n["hotkey"] for n in net.report["neurons"] if n["name"] == "val-0")
    command = [
        *(sys.executable, "-m", "template.recompute", "--run", str(net.out / "run.toml")),
        *("--netuid", "1", "--subtensor.network", net.endpoint, "--validator", validator),
        *("--first", "0"),
    ]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
