"""Command lines and environments of a localnet's processes; the launcher starts them."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from localnet.config import LocalnetConfig
from localnet.onchain import NETUID
from localnet.processes import Command
from localnet.roster import HONEST, Participant
from localnet.weed import BucketIdentity
from template.protocol.spec.plan import load_plan

ROOT = Path(__file__).resolve().parents[1]
INHERITED = ("PATH", "LANG", "TMPDIR")
"""The only variables passed on from the launcher's environment: no operator's credentials."""
SITE_FOLDER = "site"
WANDB_VARIABLES = ("WANDB_API_KEY", "WANDB_BASE_URL")


def chain_command(
    config: LocalnetConfig, port: int, endowments_tao: Mapping[str, int], block_time_s: float
) -> Command:
    """The local chain; a restart continues from the journal on the same port, at the same pace."""
    schedule = load_plan(config.plan)["schedule"]
    argv = [sys.executable, "-m", "localnet.chain", "--port", str(port)]
    argv += ["--state", str(config.out / "chain.journal")]
    argv += ["--block-time", str(block_time_s), "--pace", str(pace_path(config))]
    argv += ["--finality-lag", str(schedule["finality_lag_blocks"])]
    argv += ["--tempo", str(schedule["tempo_blocks"])]
    argv += ["--weights-rate-limit", str(schedule["blocks_per_window"])]
    argv += ["--commit-reveal", config.commit_reveal]
    for address, tao in endowments_tao.items():
        argv += ["--endow", f"{address}={tao}"]
    return Command(
        name="chain", argv=argv, env=_environment(config.out), log_path=log_path(config, "chain")
    )


def pace_path(config: LocalnetConfig) -> Path:
    """The file that paces the chain."""
    return config.out / "chain.pace"


def measure_command(config: LocalnetConfig, number: int, owner: str) -> Command:
    """A measurement of a neuron's work, with a neuron's environment; `owner`: a hotkey."""
    name = f"measure-{number}"
    argv = [sys.executable, "-m", "localnet.measure", "--plan", str(config.plan), "--owner", owner]
    return Command(
        name=name, argv=argv, env=_environment(config.out), log_path=log_path(config, name)
    )


def neuron_command(
    config: LocalnetConfig,
    participant: Participant,
    *,
    chain_url: str,
    bucket_url: str,
    identity: BucketIdentity,
) -> Command:
    """A participant's neuron; a restart continues from the state folder."""
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


def site_command(config: LocalnetConfig, chain_url: str, *, watch: bool) -> Command:
    """The run's page, rendered as any stranger would; at the lowest priority."""
    argv = ["nice", "-n", "19", sys.executable, "-m", "template.cli", "site"]
    argv += ["--out", str(config.out / SITE_FOLDER), "--run", str(config.out / "run.toml")]
    argv += ["--netuid", str(NETUID), "--subtensor.network", chain_url]
    return Command(
        name="site",
        argv=[*argv, "--watch"] if watch else argv,
        env=_environment(config.out),
        log_path=log_path(config, "site"),
    )


def log_path(config: LocalnetConfig, name: str) -> Path:
    """The file for both outputs of a process."""
    return config.out / "logs" / f"{name}.log"


def _neuron_argv(config: LocalnetConfig, participant: Participant, chain_url: str) -> list[str]:
    out, name = config.out, participant.name
    argv = [sys.executable, "-m"]
    if participant.ranks > 1:
        # Alone on this machine: torchrun finds a free port for the ranks to meet at.
        argv += ["torch.distributed.run", "--standalone"]
        argv += ["--nproc-per-node", str(participant.ranks), "-m", "--"]
    if participant.speed < 1.0:
        argv += ["localnet.slowed", "--speed", str(participant.speed)]
    elif participant.behaviour == HONEST:
        argv += ["template.cli", participant.role]
    else:
        argv += ["localnet.adversary", "--behaviour", participant.behaviour]
    argv += ["--netuid", str(NETUID), "--subtensor.network", chain_url]
    argv += ["--wallet.name", name, "--wallet.hotkey", "default"]
    argv += ["--wallet.path", str(out / "wallets"), "--run", str(out / "run.toml")]
    argv += ["--neuron.device", "cpu", "--neuron.state_dir", str(out / "nodes" / name)]
    if participant.role == "miner":
        # Several neurons share this machine: none of them may widen its steps by itself.
        argv += ["--neuron.width", str(participant.width)]
    if participant.parts > 1:
        argv += ["--neuron.parts", str(participant.parts)]
    argv += [f"--wandb.{config.wandb}"]
    return [*argv, "--logging.debug"] if config.debug else argv


def _wandb_environment(config: LocalnetConfig) -> dict[str, str]:
    if config.wandb != "online":
        return {}
    return {name: os.environ[name] for name in WANDB_VARIABLES if name in os.environ}


def _environment(out: Path) -> dict[str, str]:
    """A short list of the launcher's variables, and one thread per process."""
    home = out / "home"
    home.mkdir(exist_ok=True)
    return {
        **{name: os.environ[name] for name in INHERITED if name in os.environ},
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        # Without this, `python -m` takes a package of the current folder before the installed one.
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
