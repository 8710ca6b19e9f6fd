"""Flags of `bucket name` and `bucket check`, and the settings that follow."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

from template.cli.environment import bucket_settings
from template.cli.flags import add_wallet_flags, statuses_text, variables_text, wallet_config
from template.cli.parser import Parser
from template.errors import ConfigError
from template.protocol.ss58 import public_key
from template.settings import BucketSettings, WalletConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketConfig:
    """Settings of a bucket command: `hotkey` None means the wallet's; `bucket` is for `check`."""

    hotkey: str | None
    wallet: WalletConfig
    bucket: BucketSettings | None


def bucket_config(args: argparse.Namespace, env: Mapping[str, str]) -> BucketConfig:
    """Settings of one bucket command. ConfigError names a wrong hotkey or TESSERA_* variable."""
    return BucketConfig(
        hotkey=_checked_hotkey(args.hotkey),
        wallet=wallet_config(args),
        bucket=bucket_settings(env) if args.bucket_command == "check" else None,
    )


def _checked_hotkey(hotkey: str | None) -> str | None:
    if hotkey is not None:
        try:
            public_key(hotkey)
        except ValueError as error:
            raise ConfigError(f"--hotkey: {error}") from error
    return hotkey


def add_bucket_flags(parser: Parser) -> None:
    """The subcommands `name` and `check` with their flags."""
    parser.description = "Print the name that a hotkey's bucket must have, or test the bucket."
    parser.epilog = _EPILOG.format(
        command=parser.command_line, variables=variables_text(), statuses=statuses_text()
    )
    commands = parser.add_subparsers(dest="bucket_command", required=True, metavar="COMMAND")
    for name, text in (
        ("name", "print the name that this hotkey's bucket must have"),
        ("check", "test the bucket and both keys, and name every fault"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text.capitalize()}.")
        group = command.add_argument_group("hotkey")
        text = "the hotkey's address, instead of a wallet on this machine"
        group.add_argument("--hotkey", metavar="SS58", default=None, help=text)
        add_wallet_flags(command)


_EPILOG = """\
environment variables of `check` (the only source of secrets; secrets are never shown):
{variables}

exit status:
{statuses}

examples:
  {command} name --wallet.name mine --wallet.hotkey miner1
  {command} name --hotkey 5F...
  {command} check --wallet.name mine --wallet.hotkey miner1
"""
