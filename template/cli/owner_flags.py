"""Flags of `owner publish`, `owner check` and `newcomer`, and the settings that follow."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from template.cli.environment import bucket_settings
from template.cli.flags import (
    DEFAULT_TEXT,
    TEXT_REMEDY,
    add_chain_flags,
    add_wallet_flags,
    chain_config,
    statuses_text,
    variables_text,
    wallet_config,
)
from template.cli.parser import Parser
from template.errors import ConfigError
from template.protocol.record import MAX_UIDS
from template.protocol.spec.files import load_spec
from template.protocol.spec.plan import RunChoices, check_plan, load_plan
from template.protocol.spec.run import RunSpec
from template.protocol.spec.timing import ScheduleSpec
from template.settings import BucketSettings, ChainConfig, WalletConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishConfig:
    """Settings of `owner publish`; `num_windows` None keeps the plan's.

    `plan`: the file; `table`: its content, checked.
    """

    plan: Path
    table: Mapping[str, Any]
    text: Path
    out: Path
    force: bool
    start_in_blocks: int
    seed: int
    num_windows: int | None
    chain: ChainConfig
    wallet: WalletConfig
    bucket: BucketSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig:
    """Settings of `owner check` and `newcomer`."""

    run: Path
    spec: RunSpec
    chain: ChainConfig


NOBODY: Final = "5C4hrfjw9DjXZTzV3MwzrrAr9P1MJhSrvWGWqi1eSuyUpnhM"
"""The hotkey of 32 zero bytes."""
FAR_BLOCK: Final = 2**31


def owner_config(args: argparse.Namespace, env: Mapping[str, str]) -> PublishConfig | CheckConfig:
    """Settings of one owner command. ConfigError names a wrong flag, file or TESSERA_* variable."""
    if args.owner_command == "check":
        return check_config(args)
    _check_files(args)
    table = load_plan(args.plan)
    # Any owner and block will do: only the keys that the plan has are judged here.
    choices = RunChoices(
        owner_hotkey=NOBODY,
        start_block=FAR_BLOCK,
        seed=args.seed,
        num_windows=args.windows,
        max_hotkeys=MAX_UIDS,
    )
    schedule = check_plan(args.plan, table, choices).schedule
    _check_start(args.start_in, schedule)
    return PublishConfig(
        plan=args.plan,
        table=table,
        text=args.text,
        out=args.out,
        force=args.force,
        start_in_blocks=args.start_in,
        seed=args.seed,
        num_windows=args.windows,
        chain=chain_config(args, schedule),
        wallet=wallet_config(args),
        bucket=bucket_settings(env),
    )


def check_config(args: argparse.Namespace) -> CheckConfig:
    """Settings of `owner check` and `newcomer`; ConfigError for a wrong run spec or chain."""
    spec = load_spec(args.run)
    return CheckConfig(run=args.run, spec=spec, chain=chain_config(args, spec.schedule))


def _check_files(args: argparse.Namespace) -> None:
    if args.out.exists() and not args.force:
        raise ConfigError(
            f"--out {args.out}: exists; name another file, or replace it with --force"
        )
    if not args.out.parent.is_dir():
        raise ConfigError(f"--out {args.out}: there is no folder {args.out.parent}; create it")
    if not args.text.is_file():
        raise ConfigError(f"--text {args.text}: {TEXT_REMEDY}")


def _check_start(start_in_blocks: int, schedule: ScheduleSpec) -> None:
    margin_blocks = schedule.vote_margin_blocks
    if start_in_blocks <= margin_blocks:
        raise ConfigError(
            f"--start-in {start_in_blocks}: must be more than the plan's "
            f"schedule.vote_margin_blocks ({margin_blocks}), and long enough to hand out --out"
        )


def add_owner_flags(parser: Parser) -> None:
    """The subcommands `publish` and `check` with their flags."""
    parser.description = "The subnet owner's part of a run: publish the run, and check it."
    parser.epilog = _OWNER_EPILOG.format(
        command=parser.command_line, variables=variables_text(), statuses=statuses_text()
    )
    commands = parser.add_subparsers(dest="owner_command", required=True, metavar="COMMAND")
    publish = commands.add_parser(
        "publish", help="make a run spec from a plan, and upload every object the spec names"
    )
    publish.description = _PUBLISH_TEXT
    publish.epilog = _PUBLISH_EPILOG.format(command=publish.command_line, statuses=statuses_text())
    _add_publish_flags(publish)
    add_chain_flags(publish)
    add_wallet_flags(publish)
    add_newcomer_flags(
        commands.add_parser("check", help="look for every object that a run spec names")
    )


def add_newcomer_flags(parser: Parser) -> None:
    """Flags and help of `newcomer`, and of `owner check`."""
    parser.description = _CHECK_TEXT
    parser.epilog = _CHECK_EPILOG.format(command=parser.command_line, statuses=statuses_text())
    group = parser.add_argument_group("run")
    group.add_argument("--run", metavar="PATH", type=Path, required=True, help="run spec (TOML)")
    add_chain_flags(parser)


def _add_publish_flags(parser: Parser) -> None:
    add = parser.add_argument_group("run").add_argument
    add("--plan", metavar="PATH", type=Path, required=True, help="plan (TOML), as in runs/")
    text = "source distribution with the text (default: the file that `make text` downloads)"
    add("--text", metavar="PATH", type=Path, default=DEFAULT_TEXT, help=text)
    text = "blocks from the chain's head at the start of this command to window 0"
    add("--start-in", metavar="BLOCKS", type=_positive, required=True, help=text)
    text = "seed of the first parameters; another seed makes another run (default: 0)"
    add("--seed", metavar="S", type=int, default=0, help=text)
    text = "length of the run (default: the plan's num_windows)"
    add("--windows", metavar="N", type=_positive, default=None, help=text)
    text = "file for the run spec; miners and validators need a copy"
    add("--out", metavar="PATH", type=Path, required=True, help=text)
    add("--force", action="store_true", help="replace --out if it exists")


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, 1 or more")
    return int(text)


_PUBLISH_TEXT = """\
Make a run from a plan: check the bucket, build the dataset and the first parameters, upload both,
publish the owner's access record on chain, wait until the record is final, write the run spec.
After an interruption, start the command again: objects already in the bucket are not sent again."""

_PUBLISH_EPILOG = """\
example (300 blocks are an hour on a public network; miners and validators need the file before):
  {command} --plan runs/testnet.toml --out run.toml --start-in 300 \\
      --netuid 42 --subtensor.network test --wallet.name owner --wallet.hotkey default

exit status:
{statuses}
"""

_CHECK_TEXT = """\
Read a run as a newcomer does: look on every mirror for the access record, the dataset and the
first parameters that the run spec names. Needs neither a wallet nor a bucket."""

_CHECK_EPILOG = """\
example:
  {command} --run run.toml --netuid 42 --subtensor.network test

exit status:
{statuses}
"""

_OWNER_EPILOG = """\
environment variables of `publish` (the only source of secrets; secrets are never shown):
{variables}

exit status:
{statuses}

`{command} publish --help` and `{command} check --help` say more.
"""
