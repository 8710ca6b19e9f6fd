"""Flags of `owner publish`, `owner check`, `owner notice` and `newcomer`, and their settings."""

import argparse
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from template.cli.environment import LOOPBACK_HOSTS, bucket_settings
from template.cli.flags import (
    LOCAL_NETWORK,
    add_chain_flags,
    add_text_flags,
    add_wallet_flags,
    chain_config,
    check_folder_of,
    check_text,
    statuses_text,
    variables_text,
    wallet_config,
)
from template.cli.parser import Parser
from template.errors import ConfigError
from template.files import reason, remedy
from template.protocol.notice import VersionNotice
from template.protocol.record import MAX_UIDS, RUN_BYTES
from template.protocol.spec.files import load_spec
from template.protocol.spec.plan import RunChoices, check_plan, load_plan
from template.protocol.spec.run import RunSpec
from template.protocol.spec.timing import ScheduleSpec
from template.settings import BucketSettings, ChainConfig, WalletConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishConfig:
    """Settings of `owner publish`; `num_windows` None keeps the plan's.

    `plan`: the file; `table`: its content, checked. `data`: a prepared dataset, instead of `text`.
    `over`: first bytes of the ids of runs that are over, hexadecimal.
    """

    plan: Path
    table: Mapping[str, Any]
    text: Path
    data: Path | None
    out: Path
    force: bool
    start_in_blocks: int
    seed: int
    num_windows: int | None
    chain: ChainConfig
    wallet: WalletConfig
    bucket: BucketSettings
    over: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig:
    """Settings of `owner check` and `newcomer` for a run spec on disk."""

    run: Path
    spec: RunSpec
    chain: ChainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class FindConfig:
    """Settings of `owner check` and `newcomer` for the run offered by the subnet's owner.

    `is_local`: the chain and the buckets are on this machine; `out`: file for the spec.
    """

    out: Path | None
    chain: ChainConfig
    is_local: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class NoticeConfig:
    """Settings of `owner notice`. `is_local`: the chain and the bucket are on this machine."""

    notice: VersionNotice
    chain: ChainConfig
    wallet: WalletConfig
    bucket: BucketSettings
    is_local: bool


OwnerConfig = PublishConfig | CheckConfig | FindConfig | NoticeConfig

NOBODY: Final = "5C4hrfjw9DjXZTzV3MwzrrAr9P1MJhSrvWGWqi1eSuyUpnhM"
"""The hotkey of 32 zero bytes."""
FAR_BLOCK: Final = 2**31


def owner_config(args: argparse.Namespace, env: Mapping[str, str]) -> OwnerConfig:
    """Settings of one owner command. ConfigError names a wrong flag, file or TESSERA_* variable."""
    if args.owner_command == "check":
        return check_config(args)
    if args.owner_command == "notice":
        return _notice_config(args, env)
    _check_out(args)
    text = check_text(args)
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
        text=text,
        data=args.data,
        out=args.out,
        force=args.force,
        start_in_blocks=args.start_in,
        seed=args.seed,
        num_windows=args.windows,
        chain=chain_config(args, schedule),
        wallet=wallet_config(args),
        bucket=bucket_settings(env),
        over=tuple(_run_prefix(text) for text in args.over),
    )


def _run_prefix(text: str) -> str:
    """The first bytes of a run id, as records have them."""
    if not re.fullmatch("[0-9a-f]{16,32}", text):
        raise ConfigError(f"--over {text}: name a run by the first 16 hexadecimal digits of its id")
    return text[: 2 * RUN_BYTES]


def check_config(args: argparse.Namespace) -> CheckConfig | FindConfig:
    """Settings of `owner check` and `newcomer`; ConfigError for a wrong run spec, file or chain."""
    if args.run is None:
        return _find_config(args)
    for flag, value in (("--out", args.out), ("--local", args.local), ("--force", args.force)):
        if value:
            raise ConfigError(f"{flag}: has no use beside --run; leave one of the two out")
    spec = load_spec(args.run)
    return CheckConfig(run=args.run, spec=spec, chain=chain_config(args, spec.schedule))


def _find_config(args: argparse.Namespace) -> FindConfig:
    chain, is_local = _chain_without_spec(args, "without a run spec (--run) nothing else")
    if args.out is not None:
        _check_out(args)
    return FindConfig(out=args.out, chain=chain, is_local=is_local)


def _chain_without_spec(args: argparse.Namespace, nothing_else: str) -> tuple[ChainConfig, bool]:
    """The chain that the flags alone name, and whether the chain is on this machine."""
    flag = "--subtensor.chain_endpoint" if args.chain_endpoint else "--subtensor.network"
    network = args.chain_endpoint or args.network or (LOCAL_NETWORK if args.local else None)
    if network is None:
        raise ConfigError(
            f"{flag}: missing; {nothing_else} says on which chain the "
            "subnet is: name finney, test, or a node by its ws:// or wss:// URL"
        )
    is_local = args.local or network == LOCAL_NETWORK
    if is_local and network != LOCAL_NETWORK and urlsplit(network).hostname not in LOOPBACK_HOSTS:
        raise ConfigError(
            f"--local: {flag} names a chain that is not on this machine; leave one out"
        )
    return ChainConfig(netuid=args.netuid, network=network), is_local


def _notice_config(args: argparse.Namespace, env: Mapping[str, str]) -> NoticeConfig:
    chain, is_local = _chain_without_spec(args, "nothing else")
    try:
        notice = VersionNotice(
            version=args.version,
            kind="tag" if args.wheel is None else "wheel",
            digest=args.tag_sha256 if args.wheel is None else _wheel_digest(args),
        )
    except ValueError as error:
        raise ConfigError(f"--version: {error}") from error
    return NoticeConfig(
        notice=notice,
        chain=chain,
        wallet=wallet_config(args),
        bucket=bucket_settings(env),
        is_local=is_local,
    )


def _wheel_digest(args: argparse.Namespace) -> bytes:
    """SHA-256 of --wheel; ConfigError for a file that is no wheel of --version."""
    wheel: Path = args.wheel
    named = re.fullmatch(r"[^-]+-([^-]+)-.+\.whl", wheel.name)
    if named is None or named[1] != args.version:
        raise ConfigError(
            f"--wheel {wheel}: the name is not that of a wheel of version {args.version} "
            "(NAME-VERSION-...whl); name the file as it was built, or correct --version"
        )
    try:
        with wheel.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise ConfigError(
            f"--wheel {wheel}: cannot be read ({reason(error)}); {remedy(wheel, error)}"
        ) from error


def _check_out(args: argparse.Namespace) -> None:
    if args.out.exists() and not args.force:
        raise ConfigError(
            f"--out {args.out}: exists; name another file, or replace it with --force"
        )
    check_folder_of("--out", args.out)


def _check_start(start_in_blocks: int, schedule: ScheduleSpec) -> None:
    margin_blocks = schedule.vote_margin_blocks
    if start_in_blocks <= margin_blocks:
        raise ConfigError(
            f"--start-in {start_in_blocks}: must be more than the plan's "
            f"schedule.vote_margin_blocks ({margin_blocks}), and long enough to hand out --out"
        )


def add_owner_flags(parser: Parser) -> None:
    """The subcommands `publish`, `check` and `notice` with their flags."""
    parser.description = (
        "The subnet owner's part of a run: publish the run, check it, tell of a newer version."
    )
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
        commands.add_parser(
            "check", help="find a run by the netuid, look for all that its spec names"
        )
    )
    _add_notice_flags(
        commands.add_parser("notice", help="tell neurons of a newer version, with its digest")
    )


def add_newcomer_flags(parser: Parser) -> None:
    """Flags and help of `newcomer`, and of `owner check`."""
    parser.description = _CHECK_TEXT
    parser.epilog = _CHECK_EPILOG.format(command=parser.command_line, statuses=statuses_text())
    group = parser.add_argument_group("run")
    text = "run spec (TOML); default: the one that the subnet's owner offers on chain"
    group.add_argument("--run", metavar="PATH", type=Path, default=None, help=text)
    text = "without --run: file for the run spec that was found"
    group.add_argument("--out", metavar="PATH", type=Path, default=None, help=text)
    group.add_argument("--force", action="store_true", help="replace --out if it exists")
    text = "without --run: the subnet is a localnet, with its chain and buckets on this machine"
    group.add_argument("--local", action="store_true", help=text)
    add_chain_flags(parser)


def _add_publish_flags(parser: Parser) -> None:
    add = parser.add_argument_group("run").add_argument
    add("--plan", metavar="PATH", type=Path, required=True, help="plan (TOML), as in runs/")
    add_text_flags(add)
    text = "blocks from the chain's head at the start of this command to window 0"
    add("--start-in", metavar="BLOCKS", type=_positive, required=True, help=text)
    text = "seed of the first parameters; another seed makes another run (default: 0)"
    add("--seed", metavar="S", type=int, default=0, help=text)
    text = (
        "a run of this subnet that is over, by its id; its validators' old votes then say nothing"
    )
    add("--over", metavar="RUN_ID", action="append", default=[], help=text)
    text = "length of the run (default: the plan's num_windows)"
    add("--windows", metavar="N", type=_positive, default=None, help=text)
    text = "file for the run spec; miners and validators get theirs by `tessera newcomer`"
    add("--out", metavar="PATH", type=Path, required=True, help=text)
    add("--force", action="store_true", help="replace --out if it exists")


def _add_notice_flags(parser: Parser) -> None:
    parser.description = _NOTICE_TEXT
    parser.epilog = _NOTICE_EPILOG.format(command=parser.command_line, statuses=statuses_text())
    group = parser.add_argument_group("version")
    text = "the version of the release"
    group.add_argument("--version", metavar="X.Y.Z", required=True, help=text)
    what = group.add_mutually_exclusive_group(required=True)
    text = "the release's wheel: its SHA-256 is in the notice"
    what.add_argument("--wheel", metavar="FILE", type=Path, default=None, help=text)
    text = "SHA-256 of the signed tag: `git cat-file tag vX.Y.Z | sha256sum`"
    what.add_argument("--tag-sha256", metavar="HEX", type=_sha256, default=None, help=text)
    text = "the subnet is a localnet, with its chain and buckets on this machine"
    group.add_argument("--local", action="store_true", help=text)
    add_chain_flags(parser)
    add_wallet_flags(parser)


def _sha256(text: str) -> bytes:
    if re.fullmatch(r"[0-9a-fA-F]{64}", text) is None:
        raise argparse.ArgumentTypeError("must be 64 hexadecimal digits")
    return bytes.fromhex(text)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, 1 or more")
    return int(text)


_PUBLISH_TEXT = """\
Make a run from a plan: check the bucket, build the dataset and the first parameters, upload both
and the run spec, publish the bucket's address and the run id in the owner's record on chain, wait
until the record is final, write the run spec.
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
first parameters that the run spec names. Without --run, find the run first: the record of the
subnet's owner on chain offers a run id, and the owner's bucket has the run spec, whose content
must give that id. Needs neither a wallet nor a bucket."""

_CHECK_EPILOG = """\
examples:
  {command} --netuid 42 --subtensor.network test --out run.toml
  {command} --run run.toml --netuid 42 --subtensor.network test

exit status:
{statuses}
"""

_NOTICE_TEXT = """\
Tell neurons and readers of a newer version: sign a notice with the hotkey of the subnet's owner,
put it into the owner's bucket, and read it back as neurons do. A neuron asks once an hour, and says
version and digest in its log; the pages of `tessera site` show both. No neuron updates itself:
operators compare the digest of their download, and install. A later notice replaces this one. The
owner's record on chain must name the bucket: `tessera owner publish` sees to it."""

_NOTICE_EPILOG = """\
example:
  {command} --version 0.2.0 --wheel dist/tessera_subnet-0.2.0-py3-none-any.whl \\
      --netuid 42 --subtensor.network test --wallet.name owner --wallet.hotkey default

exit status:
{statuses}
"""

_OWNER_EPILOG = """\
environment variables of `publish` and `notice` (the only source of secrets, which are never shown):
{variables}

exit status:
{statuses}

`{command} publish --help`, `{command} check --help` and `{command} notice --help` say more.
"""
