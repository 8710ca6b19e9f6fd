"""Node config: what one neuron is told by its flags and environment, as frozen values.

Owns what belongs to one machine: chain endpoint, wallet, device, paths, bucket credentials.
What all nodes must agree on is the run spec, of which only the path is known here. Parsed
once, in neurons/; importing this module reads neither argv nor the environment.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from template.environment import BucketKey, BucketSettings, bucket_settings
from template.flags import DEFAULT_NETWORK, DEFAULT_PROJECT, parse_flags

__all__ = [
    "BucketKey",
    "BucketSettings",
    "ChainConfig",
    "LoggingConfig",
    "MinerConfig",
    "NeuronConfig",
    "ValidatorConfig",
    "WalletConfig",
    "WandbConfig",
    "bucket_settings",
    "parse_miner_config",
    "parse_validator_config",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainConfig:
    """Which subnet of which chain; `network` is finney, test, local or a ws:// or wss:// URL."""

    netuid: int
    network: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WalletConfig:
    """Where the keys are: `path`/`name` is the coldkey's folder, `hotkey` a file below it."""

    name: str
    hotkey: str
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggingConfig:
    """How much to log, and the folder of the log file (None: standard error only)."""

    level: Literal["info", "debug", "trace"]
    directory: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NeuronConfig:
    """This process. `device` is a torch device or "auto"; `run` is the path of the run spec."""

    name: str
    device: str
    state_dir: Path
    save_events: bool
    run: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbConfig:
    """What Weights & Biases gets; "off" does not even import it."""

    mode: Literal["online", "offline", "off"]
    project_name: str
    entity: str | None
    notes: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MinerConfig:
    """Everything that neurons/miner.py is told."""

    chain: ChainConfig
    wallet: WalletConfig
    logging: LoggingConfig
    neuron: NeuronConfig
    wandb: WandbConfig
    bucket: BucketSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidatorConfig(MinerConfig):
    """Everything that neurons/validator.py is told."""

    set_weights: bool


def parse_miner_config(argv: Sequence[str], env: Mapping[str, str]) -> MinerConfig:
    """Flags (without the program's name) and environment of a miner.

    A wrong flag prints one sentence on standard error and exits with status 2, as argparse
    does. A wrong environment raises ConfigError naming the variable, never its value.
    """
    return _node_config(parse_flags("miner", argv), env)


def parse_validator_config(argv: Sequence[str], env: Mapping[str, str]) -> ValidatorConfig:
    """Flags and environment of a validator; fails as `parse_miner_config` does."""
    args = parse_flags("validator", argv)
    node = _node_config(args, env)
    return ValidatorConfig(
        chain=node.chain,
        wallet=node.wallet,
        logging=node.logging,
        neuron=node.neuron,
        wandb=node.wandb,
        bucket=node.bucket,
        set_weights=args.set_weights,
    )


def _node_config(args: argparse.Namespace, env: Mapping[str, str]) -> MinerConfig:
    return MinerConfig(
        chain=ChainConfig(
            netuid=args.netuid, network=args.chain_endpoint or args.network or DEFAULT_NETWORK
        ),
        wallet=WalletConfig(
            name=args.wallet_name, hotkey=args.wallet_hotkey, path=args.wallet_path
        ),
        logging=LoggingConfig(level=args.level, directory=args.logging_dir),
        neuron=_neuron_config(args),
        wandb=_wandb_config(args, env),
        bucket=bucket_settings(env),
    )


def _wandb_config(args: argparse.Namespace, env: Mapping[str, str]) -> WandbConfig:
    """Nothing leaves this machine unasked: a key or a flag of wandb's own asks."""
    asked = (env.get("WANDB_API_KEY"), args.project_name, args.entity, args.notes)
    return WandbConfig(
        mode=args.wandb or ("online" if any(asked) else "off"),
        project_name=args.project_name or DEFAULT_PROJECT,
        entity=args.entity,
        notes=args.notes or "",
    )


def _neuron_config(args: argparse.Namespace) -> NeuronConfig:
    return NeuronConfig(
        name=args.name,
        device=args.device,
        state_dir=args.state_dir,
        save_events=args.save_events,
        run=args.run,
    )
