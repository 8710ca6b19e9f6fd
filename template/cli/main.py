"""The command `tessera`: a parser for all subcommands, and the function behind each.

The only module of this package with imports of commands, made after the flags are parsed: --help
and a wrong flag need neither torch nor the SDK.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, NoReturn

from template.cli.audit_flags import (
    add_recompute_flags,
    add_replay_flags,
    recompute_config,
    replay_config,
)
from template.cli.bucket_flags import add_bucket_flags, bucket_config
from template.cli.completion import add_completion_flag
from template.cli.neuron_flags import (
    add_miner_flags,
    add_validator_flags,
    miner_config,
    validator_config,
)
from template.cli.owner_flags import (
    add_newcomer_flags,
    add_owner_flags,
    check_config,
    owner_config,
)
from template.cli.parser import Parser
from template.cli.process_state import restored_process_state
from template.cli.signals import (
    STOP_LIMIT_S,
    end_process,
    leave_on_signals,
    unwind_on_signals,
)
from template.errors import EXIT_OPERATOR

Run = Callable[[argparse.Namespace], int]
SCREEN_CHARS: Final = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A subcommand. `load` imports the libraries and returns the function to run."""

    summary: str
    add_flags: Callable[[Parser], None]
    load: Callable[[], Run]


def _add_localnet_flags(parser: Parser) -> None:
    if find_spec("localnet") is not None:
        from localnet.flags import add_localnet_flags

        add_localnet_flags(parser)


def _load_localnet() -> Run:
    from localnet.main import run_localnet

    return run_localnet


def _load_miner() -> Run:
    from template.commands.neuron import run_miner

    return lambda args: run_miner(lambda: miner_config(args, os.environ))


def _load_validator() -> Run:
    from template.commands.neuron import run_validator

    return lambda args: run_validator(lambda: validator_config(args, os.environ))


def _load_owner() -> Run:
    from template.commands.owner import run_owner

    return lambda args: run_owner("owner", lambda: owner_config(args, os.environ))


def _load_bucket() -> Run:
    from template.commands.bucket import run_bucket

    return lambda args: run_bucket(lambda: bucket_config(args, os.environ))


def _load_replay() -> Run:
    from template.commands.replay import run_replay_command

    return lambda args: run_replay_command(replay_config(args))


def _load_recompute() -> Run:
    from template.commands.recompute import run_recompute

    return lambda args: run_recompute(lambda: recompute_config(args))


def _load_newcomer() -> Run:
    from template.commands.owner import run_owner

    return lambda args: run_owner("newcomer", lambda: check_config(args))


COMMANDS: Final[Mapping[str, Command]] = {
    "localnet": Command(
        summary="run a whole subnet on this machine",
        add_flags=_add_localnet_flags,
        load=_load_localnet,
    ),
    "miner": Command(
        summary="train on assigned pages and publish pseudo-gradients",
        add_flags=add_miner_flags,
        load=_load_miner,
    ),
    "validator": Command(
        summary="score payloads, vote on chain and set weights",
        add_flags=add_validator_flags,
        load=_load_validator,
    ),
    "owner": Command(
        summary="publish a run, and check it",
        add_flags=add_owner_flags,
        load=_load_owner,
    ),
    "bucket": Command(
        summary="print the name of a bucket, or test a bucket",
        add_flags=add_bucket_flags,
        load=_load_bucket,
    ),
    "replay": Command(
        summary="compute a run's model again from public objects",
        add_flags=add_replay_flags,
        load=_load_replay,
    ),
    "recompute": Command(
        summary="check a validator's verdict logs, or audit a validator",
        add_flags=add_recompute_flags,
        load=_load_recompute,
    ),
    "newcomer": Command(
        summary="look for every object that a run spec names",
        add_flags=add_newcomer_flags,
        load=_load_newcomer,
    ),
}
"""In the order of --help."""

_EPILOG = """\
`tessera COMMAND --help` lists flags, environment variables and exit statuses.
"""
_NO_LOCALNET = (
    "the local chain is a package of its own: `pip install ./localnet` in a checkout of the "
    "subnet installs it"
)


def entry() -> NoReturn:
    """The console script `tessera`."""
    leave_on_signals()
    name = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    _require_installed(name)
    args = build_parser().parse_args(sys.argv[1:])
    _run_unwinding(args.command, args)


def run_script(name: str, prog: str) -> NoReturn:
    """A script of a single command; `prog`: the name of the script in help texts."""
    leave_on_signals()
    _run_unwinding(name, parse_command(name, sys.argv[1:], prog))


def run_command(name: str, argv: Sequence[str], prog: str) -> int:
    """Run a command and restore the state of the process afterwards; returns the exit status."""
    args = parse_command(name, argv, prog)
    with restored_process_state():
        return COMMANDS[name].load()(args)


def parse_command(name: str, argv: Sequence[str], prog: str) -> argparse.Namespace:
    """The flags of a command; a wrong flag prints a sentence and exits with status 2."""
    parser = Parser(prog=prog)
    COMMANDS[name].add_flags(parser)
    return parser.parse_args(list(argv))


def build_parser() -> Parser:
    """The parser of `tessera` with every subcommand."""
    parser = Parser(
        prog="tessera",
        usage="tessera COMMAND [flags]",
        description="A Bittensor subnet on which strangers pre-train one language model.",
        epilog=_EPILOG,
        width_chars=SCREEN_CHARS,
    )
    add_completion_flag(parser)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands", prog="tessera"
    )
    for name, command in COMMANDS.items():
        command.add_flags(commands.add_parser(name, help=command.summary))
    return parser


def _run_unwinding(name: str, args: argparse.Namespace) -> NoReturn:
    """Run a command; after the imports, the first signal raises KeyboardInterrupt."""
    run = COMMANDS[name].load()
    # A localnet ends its processes in turn, and writes its report.
    unwind_on_signals(limit_s=None if name == "localnet" else STOP_LIMIT_S)
    end_process(run(args))


def _require_installed(name: str) -> None:
    if name == "localnet" and find_spec("localnet") is None:
        sys.stderr.write(f"tessera localnet: {_NO_LOCALNET}\n")
        sys.exit(EXIT_OPERATOR)
