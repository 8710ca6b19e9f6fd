"""Flags of `explain` and `site`, and the settings that follow."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from template.cli.environment import bucket_settings
from template.cli.flags import add_chain_flags, chain_config
from template.cli.parser import Parser
from template.errors import ConfigError
from template.protocol.spec.files import load_spec
from template.protocol.spec.run import RunSpec
from template.protocol.ss58 import public_key
from template.settings import BucketSettings, ChainConfig

DEFAULT_WINDOWS: Final = 100
MAX_WINDOWS: Final = 1000
"""Windows on a page: each window has a page of its own, and its logs are held in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainConfig:
    """Settings of `explain`; `window` None: the newest whose votes are final."""

    run: Path
    spec: RunSpec
    chain: ChainConfig
    hotkey: str
    window: int | None
    as_json: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteConfig:
    """Settings of `site`; `windows`: the newest so many. `watch`: render again each window.

    `shelf`: the hotkey into whose bucket the pages go too, and the bucket; None: the folder alone.
    """

    run: Path
    spec: RunSpec
    chain: ChainConfig
    out: Path
    windows: int
    watch: bool
    shelf: tuple[str, BucketSettings] | None = None


def explain_config(args: argparse.Namespace) -> ExplainConfig:
    """Settings of `explain`; ConfigError for a wrong hotkey, window, run spec or chain."""
    spec = load_spec(args.run)
    try:
        public_key(args.hotkey)
    except ValueError as error:
        raise ConfigError(f"HOTKEY: {error}") from error
    if args.window is not None and args.window < 0:
        raise ConfigError("--window: windows are counted from 0")
    return ExplainConfig(
        run=args.run,
        spec=spec,
        chain=chain_config(args, spec.schedule),
        hotkey=args.hotkey,
        window=args.window,
        as_json=args.json,
    )


def site_config(args: argparse.Namespace, env: Mapping[str, str]) -> SiteConfig:
    """Settings of `site`; ConfigError for a wrong number, hotkey, run spec, chain or variable."""
    spec = load_spec(args.run)
    if args.bucket_of is not None:
        try:
            public_key(args.bucket_of)
        except ValueError as error:
            raise ConfigError(f"--bucket-of: {error}") from error
    if not 1 <= args.windows <= MAX_WINDOWS:
        raise ConfigError(f"--windows: 1 to {MAX_WINDOWS}")
    return SiteConfig(
        run=args.run,
        spec=spec,
        chain=chain_config(args, spec.schedule),
        out=args.out,
        windows=args.windows,
        watch=args.watch,
        shelf=None if args.bucket_of is None else (args.bucket_of, bucket_settings(env)),
    )


def add_explain_flags(parser: Parser) -> None:
    """Flags and help of `explain`."""
    parser.usage = f"{parser.prog} HOTKEY [--window W] --run PATH --netuid N [flags]"
    parser.description = _EXPLAIN_TEXT
    parser.epilog = _EXPLAIN_EPILOG.format(command=parser.command_line)
    parser.add_argument("hotkey", metavar="HOTKEY", help="any hotkey of the subnet (SS58)")
    add = parser.add_argument
    text = "the window (default: the newest whose votes are final)"
    add("--window", metavar="W", type=int, default=None, help=text)
    add("--run", metavar="PATH", type=Path, required=True, help="run spec (TOML)")
    add_chain_flags(parser)
    text = "print the payslip as one line of JSON (docs/outputs.md)"
    add("--json", action="store_true", help=text)


def add_site_flags(parser: Parser) -> None:
    """Flags and help of `site`."""
    parser.usage = f"{parser.prog} --out DIR [--watch] --run PATH --netuid N [flags]"
    parser.description = _SITE_TEXT
    parser.epilog = _SITE_EPILOG.format(command=parser.command_line)
    add = parser.add_argument
    text = "folder of the pages; of an older rendering, pages are replaced"
    add("--out", metavar="DIR", type=Path, required=True, help=text)
    add("--watch", action="store_true", help="render again in each window, until the run ends")
    text = f"the newest N windows (default: {DEFAULT_WINDOWS})"
    add("--windows", metavar="N", type=int, default=DEFAULT_WINDOWS, help=text)
    text = (
        "put the pages into this hotkey's bucket too, under RUN_ID/site/; TESSERA_BUCKET_* name "
        "the bucket and its write key"
    )
    add("--bucket-of", metavar="HOTKEY", default=None, help=text)
    add("--run", metavar="PATH", type=Path, required=True, help="run spec (TOML)")
    add_chain_flags(parser)


_EXPLAIN_TEXT = """\
Explain a hotkey's pay in a window, from public objects alone: chain, buckets and verdict logs,
without a wallet. What was sent, who could fetch it, why it was accepted or refused, gain, work
test, credit, share, weight by validator, emission, and what would have been needed for more. Each
statement names the objects that it is read from, its rule, and a command that computes its
figures again. A validator's hotkey gets its vote, log and weights beside the others'.

What cannot be read is said: a bucket that does not answer, a log not published yet, a block that
the chain endpoint no longer has."""

_EXPLAIN_EPILOG = """\
exit status:
  0  the payslip is printed
  1  the chain is away
  2  a flag is wrong

example:
  {command} 5F... --run run.toml --netuid 42 --subtensor.network test
"""

_SITE_TEXT = """\
Render a run as static pages from public objects alone, without a wallet and without a server: loss
curve, miners and validators, payloads accepted and refused, votes, checkpoints, the run spec; a
page for each hotkey and for each window; the same as JSON beside each page. The pages load nothing
from elsewhere, and work from a file system and in a bucket."""

_SITE_EPILOG = """\
exit status:
  0  the pages are in DIR; with --watch the run has ended
  1  the chain or the bucket is away, or DIR cannot be written
  2  a flag is wrong

example:
  {command} --out site --watch --run run.toml --netuid 42 --subtensor.network test
"""
