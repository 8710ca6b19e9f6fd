"""An audit from the command line, of a localnet that is held after its end: `make siege`."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from template.protocol.spec import load_spec
from tests.support.localnet.running import LIMIT_S, ROOT, TEXT, RunningLocalnet
from tests.support.localnet.story import HELD

pytestmark = [
    pytest.mark.siege,
    pytest.mark.timeout(3 * LIMIT_S),
    pytest.mark.skipif(not TEXT.exists(), reason="the text is not there: run `make text`"),
]

NUM_WINDOWS = 10
FLAGS = (
    *("--miners", "2", "--validators", "1", "--misbehave", "garbage:1,malformed:1"),
    *("--windows", str(NUM_WINDOWS), "--block-time", "0.5", "--hold"),
)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLocalnet]:
    """Ended and held: chain and buckets answer, no neuron runs."""
    net = RunningLocalnet(tmp_path_factory.mktemp("audited") / "out", *FLAGS)
    try:
        net.wait_until(lambda: HELD in net.output)
        yield net
        net.process.send_signal(signal.SIGINT)
        net.end()
    finally:
        net.kill_leftovers()


def recompute(net: RunningLocalnet, *words: str | Path) -> subprocess.CompletedProcess[str]:
    validator = next(n["hotkey"] for n in net.report["neurons"] if n["name"] == "val-0")
    return subprocess.run(
        [
            *(sys.executable, "-m", "template.recompute"),
            *("--run", str(net.out / "run.toml"), "--netuid", "1"),
            *("--subtensor.network", net.endpoint, "--validator", validator),
            *map(str, words),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip


def test_a_validator_of_a_localnet_audits_clean(net) -> None:
    done = recompute(net, "--first", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"windows 0 to {NUM_WINDOWS - 1}, from theta_1 on" in done.stdout
    assert "nothing differs from the public objects" in done.stdout.splitlines()[-1]
    tolerance = load_spec(net.out / "run.toml").evaluation.loss_tolerance
    worst = float(done.stdout.rpartition("the worst off by ")[2].split()[0])
    assert worst < tolerance / 2


def test_a_forged_file_is_named(net, tmp_path) -> None:
    path = net.out / "nodes" / "val-0" / "verdicts.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    row = next(r for r in rows if r["kind"] == "verdict" and r["window"] == 8 and r["after"])
    row["after"][2] += 1e-3
    forged = tmp_path / "forged.jsonl"
    forged.write_text("".join(json.dumps(r, sort_keys=True) + "\n" for r in rows))
    done = recompute(net, "--first", "8", forged)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "from theta_9 on" in done.stdout or "from theta_8 on" in done.stdout
    assert f"window 8, uid {row['uid']}: loss after its step on page " in done.stdout
    assert f"window 8, uid {row['uid']}: gain is " in done.stdout
