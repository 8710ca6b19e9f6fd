"""From flags and environment variables to a neuron's settings.

Does not own the settings themselves (`template.settings`), the flags (`template.cli.flags`) or the
variables (`template.cli.environment`).
"""

import argparse
from collections.abc import Mapping, Sequence

from template.cli.environment import bucket_settings
from template.cli.flags import DEFAULT_NETWORK, DEFAULT_PROJECT, parse_flags
from template.settings import (
    ChainConfig,
    LoggingConfig,
    MinerConfig,
    NeuronConfig,
    ValidatorConfig,
    WalletConfig,
    WandbConfig,
)


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
