"""Flags of `replay` and `recompute`, and the settings that follow."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from template.cli.flags import add_chain_flags, chain_config
from template.cli.parser import Parser
from template.errors import ConfigError
from template.protocol.run import Run
from template.protocol.spec.files import load_spec
from template.protocol.spec.run import RunSpec
from template.protocol.ss58 import public_key
from template.settings import ChainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """Settings of a replay. `since`: oldest window to start from; `out`: folder for the model."""

    run: Path
    spec: RunSpec
    chain: ChainConfig
    since: int
    out: Path | None
    audit: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RecomputeConfig:
    """Settings for following verdict logs without a chain. `run`: as far as its specs are given."""

    run: Run
    logs: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig:
    """Settings of an audit. Without `logs` the audit reads the validator's bucket.

    `first` None: the first window of the logs, or the newest checkpoint's; `last` None: the last
    window of the logs, or of the run.
    """

    run: Path
    spec: RunSpec
    chain: ChainConfig
    validator: str
    first: int | None
    last: int | None
    logs: tuple[Path, ...]


def replay_config(args: argparse.Namespace) -> ReplayConfig:
    """Settings of `replay`; ConfigError for a wrong run spec or chain."""
    spec = load_spec(args.run)
    return ReplayConfig(
        run=args.run,
        spec=spec,
        chain=chain_config(args, spec.schedule),
        since=args.since,
        out=args.out,
        audit=args.audit,
    )


def recompute_config(args: argparse.Namespace) -> RecomputeConfig | AuditConfig:
    """Settings of `recompute`; ConfigError for an incomplete set of an audit's flags."""
    first, *later = args.run
    spec = load_spec(first)
    if args.validator is not None:
        if later:
            raise ConfigError(
                f"--run {later[0]}: has no use in an audit, which finds the specs after the first "
                "by itself; name the first alone"
            )
        if args.netuid is None:
            raise ConfigError("--netuid: an audit reads the chain, name the subnet")
        _check_validator(args.validator)
        _check_windows(args.first, args.last)
        _check_logs(args.logs)
        return AuditConfig(
            run=first,
            spec=spec,
            chain=chain_config(args, spec.schedule),
            validator=args.validator,
            first=args.first,
            last=args.last,
            logs=tuple(args.logs),
        )
    of_audit = (
        args.netuid,
        args.network,
        args.chain_endpoint,
        args.fallbacks,
        args.first,
        args.last,
    )
    if any(value is not None for value in of_audit):
        raise ConfigError("--validator: an audit is of one validator, name its hotkey")
    if not args.logs:
        raise ConfigError("name verdict logs, or a --validator and its chain; see --help")
    _check_logs(args.logs)
    return RecomputeConfig(run=_run_of(spec, later), logs=tuple(args.logs))


def _run_of(first: RunSpec, later: Sequence[Path]) -> Run:
    """The run of these specs; ConfigError names a file that does not follow the one before."""
    run = Run(first)
    for path in later:
        spec = load_spec(path)
        try:
            run.extend(spec)
        except ConfigError as error:
            raise ConfigError(
                f"--run {path}: {error}. Name the run's specs in their order, the first one first"
            ) from error
    return run


def _check_validator(hotkey: str) -> None:
    try:
        public_key(hotkey)
    except ValueError as error:
        raise ConfigError(f"--validator: {error}") from error


def _check_logs(paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file: name verdict logs")


def _check_windows(first: int | None, last: int | None) -> None:
    for flag, window in (("--first", first), ("--last", last)):
        if window is not None and window < 0:
            raise ConfigError(f"{flag}: windows are counted from 0")
    if first is not None and last is not None and first > last:
        raise ConfigError("--first: lies behind --last")


def add_replay_flags(parser: Parser) -> None:
    """Flags and help of `replay`."""
    parser.description = _REPLAY_TEXT
    parser.epilog = _REPLAY_EPILOG.format(command=parser.command_line)
    add = parser.add_argument
    add("--run", metavar="PATH", type=Path, required=True, help="run spec (TOML)")
    add_chain_flags(parser)
    add(
        "--since", metavar="W", type=int, default=1, help="start from theta_W or later (default: 1)"
    )
    text = "write the model to FOLDER, in the layout of from_pretrained"
    add("--out", metavar="FOLDER", type=Path, help=text)
    text = "also compute the losses of every validator's logs again"
    add("--audit", action="store_true", help=text)


def add_recompute_flags(parser: Parser) -> None:
    """Flags and help of `recompute`."""
    parser.usage = f"{parser.prog} --run PATH [audit's flags] [LOG ...]"
    parser.description = _RECOMPUTE_TEXT
    parser.epilog = _RECOMPUTE_EPILOG.format(command=parser.command_line)
    text = "verdict log, from the validator's bucket or verdicts.jsonl of its state folder"
    parser.add_argument("logs", nargs="*", type=Path, metavar="LOG", help=text)
    text = "run spec (TOML), the run's first; without a chain again for each spec that continues it"
    parser.add_argument(
        "--run", metavar="PATH", type=Path, action="append", required=True, help=text
    )
    add_chain_flags(parser, required=False)
    add = parser.add_argument_group("audit").add_argument
    add("--validator", metavar="HOTKEY", help="the validator's hotkey (SS58)")
    text = "first window (default: the first of the LOGs, or from the newest checkpoint on)"
    add("--first", metavar="W", type=int, help=text)
    text = "last window (default: the last of the LOGs, or of the run)"
    add("--last", metavar="W", type=int, help=text)


_REPLAY_TEXT = """\
Compute the model again, to the bit, from public objects alone: chain and buckets, without a wallet.

The replay starts from theta_0, or from the oldest published checkpoint after which buckets still
keep every payload, and takes every step that leads to the root with most of the voting stake now.
The last line of output is JSON: window, root, digest of all tensors, and every validator with a
vote that does not follow, as far back as the chain's endpoint keeps state."""

_REPLAY_EPILOG = """\
exit status:
  0  the replay ends at the majority's root, and every audited figure follows
  1  the replay ends elsewhere, or a vote or an audited figure does not follow
  2  unknown: a flag is wrong, the chain is away, or an object is missing

example:
  {command} --run run.toml --netuid 42 --subtensor.network test --out model
"""

_RECOMPUTE_TEXT = """\
Check that the published decisions of a validator follow from the published losses, and in an
audit that the losses are right.

With LOGs alone: compute every figure but the losses again, bit for bit on the same platform, and
name each figure that differs. Decisions, ratings and weights depend on earlier windows: without
the logs of those windows only the gains and effects of a window are compared. A window is judged by
the spec that holds there: of a run that has changed, name all specs in their order, each by --run
(the draft that was handed out, or the folder specs in the state of any node).

With --validator, an audit: read chain and buckets without a wallet, join the run at a published
checkpoint, follow the run window by window, and also compute seed, pages and their owners, uids,
refusals and every loss. A loss within evaluation.loss_tolerance of the run spec is right. Points
that only the validator could know are listed as "cannot tell". Without --last, or with a --last in
the future, the audit follows the run, and says until when. Past windows need a chain endpoint that
keeps their state and buckets that keep their payloads: windows that buckets keep no longer end the
command with the windows that can be audited."""

_RECOMPUTE_EPILOG = """\
exit status:
  0  everything follows
  1  a figure differs
  2  unknown: a flag is wrong, the chain is away, or a log or a spec is missing

examples:
  {command} --run run.toml verdicts.jsonl
  {command} --run run.toml --run next.toml verdicts.jsonl
  {command} --run run.toml --netuid 42 --subtensor.network test --validator 5F...
"""
