"""Flags of `data mix` and `data upload`, and the settings that follow."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from template.cli.environment import bucket_settings
from template.cli.flags import (
    add_wallet_flags,
    folder_path,
    statuses_text,
    variables_text,
    wallet_config,
    whole,
)
from template.cli.parser import Parser
from template.errors import ConfigError
from template.settings import BucketSettings, WalletConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class MixConfig:
    """Settings of `data mix`. `shares`: folder -> share of the segments, together 1. `segments` 0:
    as many as need no repeat; `held_out` None: the first folder's.
    """

    shares: Mapping[Path, Fraction]
    out: Path
    segments: int
    held_out: Path | None
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadConfig:
    """Settings of `data upload`."""

    folder: Path
    wallet: WalletConfig
    bucket: BucketSettings


def mix_config(args: argparse.Namespace) -> MixConfig:
    """Settings of `data mix`; ConfigError for shares that make no whole."""
    shares: dict[Path, Fraction] = {}
    for text in args.sources:
        folder, share = _share(text)
        if folder in shares:
            raise ConfigError(f"{text}: the folder is given twice; name it once, with its share")
        shares[folder] = share
    total = sum(shares.values())
    if total != 1:
        raise ConfigError(
            f"DIR:SHARE: the shares make {float(total):g} together, and must make 1, as in "
            "better:0.7 replay:0.3"
        )
    return MixConfig(
        shares=shares,
        out=args.out,
        segments=args.segments,
        held_out=args.held_out,
        seed=args.seed,
    )


def upload_config(args: argparse.Namespace, env: Mapping[str, str]) -> UploadConfig:
    """Settings of `data upload`; ConfigError names a wrong TESSERA_* variable."""
    return UploadConfig(folder=args.folder, wallet=wallet_config(args), bucket=bucket_settings(env))


def _share(text: str) -> tuple[Path, Fraction]:
    name, colon, share = text.rpartition(":")
    try:
        found = Fraction(share.removesuffix("%")) / (100 if share.endswith("%") else 1)
    except (ValueError, ZeroDivisionError):
        found = Fraction(0)
    if not (colon and name and 0 < found <= 1):
        raise ConfigError(
            f"{text}: write DIR:SHARE, a dataset's folder and its share between 0 and 1, as in "
            "better:0.7"
        )
    return folder_path(name), found


def add_mix_flags(parser: Parser) -> None:
    """Flags and help of `data mix`."""
    parser.usage = f"{parser.prog} --out DIR [flags] DIR:SHARE DIR:SHARE ..."
    parser.description = _MIX_TEXT
    parser.epilog = _MIX_EPILOG.format(command=parser.command_line, statuses=statuses_text())
    add = parser.add_argument
    text = "folder of a prepared dataset, and its share of the mixture, as better:0.7"
    add("sources", nargs="+", metavar="DIR:SHARE", help=text)
    add("--out", metavar="DIR", type=folder_path, required=True, help="folder for the mixture")
    text = "segments of the mixture; a source with fewer is repeated (default: no repeats)"
    add("--segments", metavar="N", type=_count, default=0, help=text)
    text = "dataset whose held-out pages are held out (default: the first one)"
    add("--held-out", metavar="DIR", type=folder_path, default=None, help=text)
    text = "seed of the sample and of its order (default: 0)"
    add("--seed", metavar="S", type=_seed, default=0, help=text)


def add_upload_flags(parser: Parser) -> None:
    """Flags and help of `data upload`."""
    parser.description = _UPLOAD_TEXT
    parser.epilog = _UPLOAD_EPILOG.format(
        command=parser.command_line, variables=variables_text(), statuses=statuses_text()
    )
    text = "folder of a prepared dataset"
    parser.add_argument("folder", metavar="DIR", type=folder_path, help=text)
    add_wallet_flags(parser)


def _count(text: str) -> int:
    return whole(text, 1, 2**32)


def _seed(text: str) -> int:
    return whole(text, 0, 2**63 - 1)


_MIX_TEXT = """\
Make a dataset whose training segments come from two or more prepared datasets, in the shares named:
the mixture of an anneal, better text with a replay of the run's own. Pages are drawn from all
segments alike, so a share of the segments is a share of what is trained on. The datasets must have
the same tokenizer, pages and segments. From a source with more segments than needed a seeded sample
is taken; one with fewer is repeated, and the command says how often."""

_MIX_EPILOG = """\
examples:
  {command} --out anneal better:0.7 data:0.3
  {command} --out anneal --segments 20000 better:0.7 data:0.3

exit status:
{statuses}
"""

_UPLOAD_TEXT = """\
Put a prepared dataset into this hotkey's bucket, whence a run reads it if the hotkey is in the
spec's data.mirrors: before a succession that names the dataset. What is there already is compared,
and not sent again. The bucket's address must be in the hotkey's record on chain, as that of a run's
owner or of a validator is."""

_UPLOAD_EPILOG = """\
example:
  {command} chat --wallet.name owner --wallet.hotkey default

environment variables (the only source of secrets, which are never shown):
{variables}

exit status:
{statuses}
"""
