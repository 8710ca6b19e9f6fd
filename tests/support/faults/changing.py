"""Commands by which a run of real processes changes: drafts, support, and what they print."""

import os
import subprocess
import sys
from pathlib import Path

from template.base.supporting import support_path
from template.protocol.spec import RunSpec
from tests.support.faults.subnet import ROOT, NodeStart, Subnet
from tests.support.waiting import wait_until


def reach(subnet: Subnet, spec: RunSpec, window: int, block: int) -> None:
    """Until the chain is so many blocks into a window."""
    wanted = spec.schedule.schedule().first_block(window) + block
    wait_until(lambda: subnet.chain.head() >= wanted, every_s=0.1)


def chain_flags(subnet: Subnet) -> tuple[str, ...]:
    return ("--netuid", "1", "--subtensor.network", subnet.url)


def tessera(*argv: str, env: dict[str, str] | None = None) -> str:
    """The output of a command; AssertionError if the command fails."""
    done = subprocess.run(
        [sys.executable, "-m", "template.cli", *argv],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(env or {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def draft(subnet: Subnet, window: int, *changes: str) -> Path:
    out = subnet.folder / f"next-{window}.toml"
    flags = ("--run", str(subnet.folder / "run.toml"), "--window", str(window), "--out", str(out))
    tessera("succession", "draft", *flags, *changes, *chain_flags(subnet))
    return out


def support(node: NodeStart, spec: Path) -> None:
    tessera("succession", "support", str(spec), "--neuron.state_dir", str(node.state_dir))
    assert support_path(node.state_dir).exists()
