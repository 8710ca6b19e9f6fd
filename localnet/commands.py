"""What a localnet is asked for, and the command lines and environments that follow from it.

Owns which flags and variables each process gets. Does not start anything (`launcher`).
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localnet.onchain import NETUID
from localnet.processes import Command
from localnet.roster import HONEST, Participant
from localnet.weed import BucketIdentity
from template.commands.plan import load_plan

ROOT = Path(__file__).resolve().parents[1]
INHERITED = ("PATH", "LANG", "TMPDIR")
"""All that a process gets of the launcher's environment: no operator's credentials."""
WANDB_VARIABLES = ("WANDB_API_KEY", "WANDB_BASE_URL")


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalnetConfig:
    """What the command line asks for. `text`: the sdist with the corpus. `restarts`: how often
    each process that died is started again. `hold`: chain and bucket server outlive the run.
    """

    roster: tuple[Participant, ...]
    num_windows: int
    out: Path
    plan: Path
    text: Path
    block_time_s: float
    seed: int
    debug: bool
    restarts: int
    hold: bool
    wandb: Literal["off", "offline", "online"]


def chain_command(config: LocalnetConfig, port: int, endowments_tao: Mapping[str, int]) -> Command:
    """The local chain; started again, it goes on from its journal on the same port."""
    schedule = load_plan(config.plan)["schedule"]
    argv = [sys.executable, "-m", "localnet.chain", "--port", str(port)]
    argv += ["--state", str(config.out / "chain.journal")]
    argv += ["--block-time", str(config.block_time_s)]
    argv += ["--finality-lag", str(schedule["finality_lag_blocks"])]
    argv += ["--tempo", str(schedule["tempo_blocks"])]
    argv += ["--weights-rate-limit", str(schedule["blocks_per_window"])]
    for address, tao in endowments_tao.items():
        argv += ["--endow", f"{address}={tao}"]
    return Command(
        name="chain", argv=argv, env=_environment(config.out), log_path=log_path(config, "chain")
    )


def neuron_command(
    config: LocalnetConfig,
    participant: Participant,
    *,
    chain_url: str,
    bucket_url: str,
    identity: BucketIdentity,
) -> Command:
    """A participant's neuron; started again, it goes on from its state directory."""
    credentials = {
        "TESSERA_BUCKET_ENDPOINT": bucket_url,
        "TESSERA_BUCKET_WRITE_KEY_ID": identity.rw.access_key_id,
        "TESSERA_BUCKET_WRITE_SECRET": identity.rw.secret_access_key.reveal(),
        "TESSERA_BUCKET_READ_KEY_ID": identity.ro.access_key_id,
        "TESSERA_BUCKET_READ_SECRET": identity.ro.secret_access_key.reveal(),
    }
    return Command(
        name=participant.name,
        argv=_neuron_argv(config, participant, chain_url),
        env={**_environment(config.out), **credentials, **_wandb_environment(config)},
        log_path=log_path(config, participant.name),
    )


def log_path(config: LocalnetConfig, name: str) -> Path:
    """Where both outputs of a process go."""
    return config.out / "logs" / f"{name}.log"


def _neuron_argv(config: LocalnetConfig, participant: Participant, chain_url: str) -> list[str]:
    out, name = config.out, participant.name
    script = f"{participant.role}.py" if participant.behaviour == HONEST else "adversary.py"
    argv = [sys.executable, str(ROOT / "neurons" / script)]
    if participant.behaviour != HONEST:
        argv += ["--behaviour", participant.behaviour]
    argv += ["--netuid", str(NETUID), "--subtensor.network", chain_url]
    argv += ["--wallet.name", name, "--wallet.hotkey", "default"]
    argv += ["--wallet.path", str(out / "wallets"), "--run", str(out / "run.toml")]
    argv += ["--neuron.device", "cpu", "--neuron.state_dir", str(out / "nodes" / name)]
    argv += [f"--wandb.{config.wandb}"]
    return [*argv, "--logging.debug"] if config.debug else argv


def _wandb_environment(config: LocalnetConfig) -> dict[str, str]:
    if config.wandb != "online":
        return {}
    return {name: os.environ[name] for name in WANDB_VARIABLES if name in os.environ}


def _environment(out: Path) -> dict[str, str]:
    """Little of the launcher's own, and one thread per process."""
    home = out / "home"
    home.mkdir(exist_ok=True)
    return {
        **{name: os.environ[name] for name in INHERITED if name in os.environ},
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
