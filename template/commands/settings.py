"""The settings of each command, checked as far as flags, variables and files on disk go.

Loads neither torch nor the SDK, which take seconds: a wrong flag, a missing file or a missing
variable is reported before the libraries load.
"""

import argparse
from collections.abc import Mapping

from template.chain.wallet_files import hotkey_file
from template.cli.bucket_flags import BucketConfig, bucket_config
from template.cli.devices import check_device
from template.cli.neuron_flags import miner_config, rank_config, validator_config
from template.cli.owner_flags import NoticeConfig, OwnerConfig, PublishConfig, owner_config
from template.cli.torchrun import find_place
from template.settings import MinerConfig, RankConfig, ValidatorConfig, WalletConfig


def miner_settings(args: argparse.Namespace, env: Mapping[str, str]) -> MinerConfig | RankConfig:
    """A miner's settings, or those of a rank that obeys rank 0.

    ConfigError also without the hotkey's file or the device.
    """
    place = find_place(env)
    if place.rank:
        check_device(args.device)
        return rank_config(args, place)
    config = miner_config(args, env)
    check_device(config.neuron.device)
    _require_hotkey(config.wallet)
    return config


def validator_settings(
    args: argparse.Namespace, env: Mapping[str, str]
) -> ValidatorConfig | RankConfig:
    """As `miner_settings`, for a validator."""
    place = find_place(env)
    if place.rank:
        check_device(args.device)
        return rank_config(args, place)
    config = validator_config(args, env)
    check_device(config.neuron.device)
    _require_hotkey(config.wallet)
    return config


def owner_settings(args: argparse.Namespace, env: Mapping[str, str]) -> OwnerConfig:
    """Settings of one owner command; ConfigError also without the hotkey's file, if needed."""
    config = owner_config(args, env)
    if isinstance(config, PublishConfig | NoticeConfig):
        _require_hotkey(config.wallet)
    return config


def bucket_settings(args: argparse.Namespace, env: Mapping[str, str]) -> BucketConfig:
    """Settings of one bucket command; ConfigError also without a hotkey in a flag or a file."""
    config = bucket_config(args, env)
    if config.hotkey is None:
        _require_hotkey(config.wallet)
    return config


def _require_hotkey(wallet: WalletConfig) -> None:
    hotkey_file(wallet.name, wallet.hotkey, wallet.path)
