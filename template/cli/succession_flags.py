"""Flags of `succession draft|show|support|withdraw`, and the settings that follow."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from template.cli.flags import (
    add_chain_flags,
    chain_config,
    check_dataset_in,
    check_folder_of,
    folder_path,
    whole,
)
from template.cli.parser import Parser
from template.errors import ConfigError
from template.protocol.spec.constraints import Version
from template.protocol.spec.files import load_spec, parse_toml, read_toml
from template.protocol.spec.run import RunSpec
from template.protocol.spec.timing import MAX_WINDOWS
from template.protocol.strangers import shown
from template.settings import ChainConfig

MAX_PARTS: Final = 3
"""Parts of a dotted key: a table, a table within it, a key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftConfig:
    """Settings of `draft`. `file_changes`, of the file `changes_file`, are laid over the newest
    spec, then `changes` over both: table -> key -> value, a mapping for a table within a table,
    None for a key to be left out. `data`: a prepared dataset, whose fields come first.
    """

    run: Path
    spec: RunSpec
    chain: ChainConfig
    window: int
    changes: Mapping[str, Any]
    name: str | None
    least_version: str
    out: Path
    changes_file: Path | None = None
    file_changes: Mapping[str, Any] = field(default_factory=dict)
    data: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowConfig:
    """Settings of `show`."""

    run: Path
    spec: RunSpec
    chain: ChainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SupportConfig:
    """Settings of `support`, and of `withdraw` without a spec."""

    proposal: RunSpec | None
    state_dir: Path


def succession_config(args: argparse.Namespace) -> DraftConfig | ShowConfig | SupportConfig:
    """Settings of one command; ConfigError for a wrong run spec, chain, change or folder."""
    if args.succession_command in ("support", "withdraw"):
        return _support_config(args)
    spec = load_spec(args.run)
    chain = chain_config(args, spec.schedule)
    if args.succession_command == "show":
        return ShowConfig(run=args.run, spec=spec, chain=chain)
    if args.out.exists():
        raise ConfigError(f"--out {args.out}: exists; name another file")
    check_folder_of("--out", args.out)
    if args.data is not None:
        check_dataset_in(args.data)
    return DraftConfig(
        run=args.run,
        spec=spec,
        chain=chain,
        window=args.window,
        changes=_changes(args.set, args.unset),
        name=args.name,
        least_version=args.least_version,
        out=args.out,
        changes_file=args.changes,
        file_changes={} if args.changes is None else file_changes(args.changes),
        data=args.data,
    )


def file_changes(path: Path) -> dict[str, Any]:
    """The tables of a file of changes: a part of a plan. ConfigError for another file."""
    table = read_toml(path, f"--changes {path}")
    for key, value in table.items():
        if not isinstance(value, dict):
            raise ConfigError(
                f"--changes {path}: {key}: stands above the tables; a file of changes has tables, "
                "and --name changes the name"
            )
    return table


def _support_config(args: argparse.Namespace) -> SupportConfig:
    if not args.state_dir.is_dir():
        raise ConfigError(
            f"--neuron.state_dir {args.state_dir}: no such folder: name the one of the running "
            "validator"
        )
    proposal = None
    if args.succession_command == "support":
        proposal = load_spec(args.spec, "SPEC")
        if proposal.continues is None:
            raise ConfigError(
                f"SPEC {args.spec}: continues no run: make one by `tessera succession draft`"
            )
    return SupportConfig(proposal=proposal, state_dir=args.state_dir)


def _changes(given: list[str], removed: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in given:
        path, equals, value = text.partition("=")
        if not (equals and _is_key(path)):
            raise ConfigError(
                f"--set {shown(text)}: write TABLE.KEY=VALUE, such as training.inner_lr=1e-3"
            )
        _put(found, path, _toml_value(f"--set {shown(text)}", value))
    for path in removed:
        if not _is_key(path):
            raise ConfigError(
                f"--unset {shown(path)}: write TABLE.KEY, such as schedule.num_windows"
            )
        _put(found, path, None)
    return found


def _is_key(path: str) -> bool:
    """Whether a dotted path names a key in a table, or in a table within one."""
    return 2 <= len(path.split(".")) <= MAX_PARTS


def _toml_value(what: str, value: str) -> Any:
    try:
        table = parse_toml(f"value = {value}", what)
    except ConfigError as error:
        raise ConfigError(f"{error}: a text is in quotes, a list in brackets") from error
    if table.keys() != {"value"}:
        raise ConfigError(f"{what}: more than one value: give --set once for each key")
    return table["value"]


def _put(table: dict[str, Any], path: str, value: object) -> None:
    """Set the key of a dotted path, with the tables on the way."""
    *names, key = path.strip().split(".")
    for name in names:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):  # set as a whole before
            inner = table[name] = {}
        table = inner
    table[key] = value


def add_succession_flags(parser: Parser) -> None:
    """The subcommands with their flags."""
    parser.description = _TEXT
    parser.epilog = _EPILOG.format(command=parser.command_line)
    commands = parser.add_subparsers(dest="succession_command", required=True, metavar="COMMAND")
    draft = commands.add_parser("draft", help="make a spec that continues a run from a window on")
    _add_run(draft)
    add = draft.add_argument
    text = "first window under the new spec; the votes six windows before decide"
    add("--window", metavar="W", type=_window, required=True, help=text)
    text = "file with keys that change, as in a plan (TOML), such as runs/changes/anneal.toml"
    add("--changes", metavar="FILE", type=Path, default=None, help=text)
    text = "folder of a prepared dataset: its digest, tokenizer, segments and chat table"
    add("--data", metavar="DIR", type=folder_path, default=None, help=text)
    text = "a key that changes, with its value as in TOML; may be given several times"
    add("--set", metavar="TABLE.KEY=VALUE", action="append", default=[], help=text)
    text = "an optional key that goes back to its default, such as schedule.num_windows"
    add("--unset", metavar="TABLE.KEY", action="append", default=[], help=text)
    add("--name", metavar="TEXT", default=None, help="another name of the run, for people")
    text = "oldest version of the software that can follow (default: any)"
    add("--least-version", metavar="X.Y.Z", type=_version, default="0.0.0", help=text)
    add("--out", metavar="PATH", type=Path, required=True, help="file for the new spec")
    show = commands.add_parser("show", help="the specs of a run, and what validators support")
    _add_run(show)
    support = commands.add_parser("support", help="let this machine's validator support a spec")
    support.add_argument("spec", metavar="SPEC", type=Path, help="the new spec (TOML)")
    _add_state(support)
    withdraw = commands.add_parser("withdraw", help="support no new spec any more")
    _add_state(withdraw)


def _window(text: str) -> int:
    return whole(text, 1, MAX_WINDOWS - 1)


def _version(text: str) -> str:
    if Version().fault(text):
        raise argparse.ArgumentTypeError(f"must be {Version.allowed}")
    return text


def _add_run(parser: Parser) -> None:
    text = "the run's first spec (TOML); the ones after it are found by themselves"
    parser.add_argument("--run", metavar="PATH", type=Path, required=True, help=text)
    add_chain_flags(parser)


def _add_state(parser: Parser) -> None:
    parser.add_argument(
        "--neuron.state_dir",
        dest="state_dir",
        metavar="DIR",
        type=Path,
        required=True,
        help="state folder of the validator, which may run meanwhile",
    )


_TEXT = """\
Change a run at a window, by the stake that votes, while nobody stops. A new spec continues the run;
validators that support it say so in their records. If more than half of the voting stake supports
it at the ballot six windows before its first window, all nodes switch there by themselves.
Otherwise nothing happens."""

_EPILOG = """\
exit status:
  0  done
  1  the chain is away, or nobody serves a spec
  2  a flag, a file or the change is wrong

examples:
  {command} draft --run run.toml --window 400 --set outer.outer_lr=3.0 --out next.toml \\
      --netuid 42 --subtensor.network test
  {command} draft --run run.toml --window 400 --changes runs/changes/sft.toml --data chat \\
      --out next.toml --netuid 42 --subtensor.network test
  {command} support next.toml --neuron.state_dir ~/.tessera/validator
  {command} show --run run.toml --netuid 42 --subtensor.network test
"""
