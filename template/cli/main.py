"""The command `tessera`: a parser for all subcommands, and the function behind each.

The only module of this package with imports of commands. Everything an operator can have got wrong
on this machine is checked before torch and the SDK load: flags, variables, run spec, files.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NoReturn

from template.cli.audit_flags import (
    add_recompute_flags,
    add_replay_flags,
    recompute_config,
    replay_config,
)
from template.cli.bucket_flags import add_bucket_flags
from template.cli.completion import add_completion_flag
from template.cli.data_flags import add_data_flags, data_config
from template.cli.doctor_flags import add_doctor_flags, doctor_config
from template.cli.init_flags import add_init_flags, init_config
from template.cli.model_flags import add_model_flags, model_config
from template.cli.neuron_flags import add_miner_flags, add_validator_flags
from template.cli.owner_flags import add_newcomer_flags, add_owner_flags, check_config
from template.cli.parser import Parser
from template.cli.plan_flags import add_plan_flags, plan_config
from template.cli.process_state import restored_process_state
from template.cli.public_flags import (
    add_explain_flags,
    add_site_flags,
    explain_config,
    site_config,
)
from template.cli.signals import (
    STOP_LIMIT_S,
    end_process,
    leave_on_signals,
    unwind_on_signals,
)
from template.cli.status_flags import add_status_flags, status_config
from template.cli.succession_flags import add_succession_flags, succession_config
from template.cli.surroundings import clear_environment, cleared_line
from template.cli.terminal import ask_person, complain, escaped_faults, guard_faults
from template.cli.torchrun import without_torchrun
from template.commands.settings import (
    bucket_settings,
    miner_settings,
    owner_settings,
    validator_settings,
)
from template.errors import EXIT_OPERATOR, SubnetError, exit_status

Settings = Callable[[argparse.Namespace, Mapping[str, str]], Any]
Run = Callable[[Any], int]
SCREEN_CHARS: Final = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A subcommand.

    `settings` checks flags, variables and files, and loads no library; raises ConfigError. `load`
    imports the libraries and returns the function to run with the settings.
    """

    summary: str
    add_flags: Callable[[Parser], None]
    settings: Settings
    load: Callable[[], Run]


def _add_localnet_flags(parser: Parser) -> None:
    if find_spec("localnet") is not None:
        from localnet.flags import add_localnet_flags

        add_localnet_flags(parser)


def _localnet_settings(args: argparse.Namespace, _env: Mapping[str, str]) -> Any:
    from localnet.flags import localnet_config

    return localnet_config(args)


def _load_localnet() -> Run:
    from localnet.main import run_localnet

    return run_localnet


def _load_miner() -> Run:
    from template.commands.neuron import run_miner

    return run_miner


def _load_validator() -> Run:
    from template.commands.neuron import run_validator

    return run_validator


def _load_owner() -> Run:
    from template.commands.owner import run_owner

    return partial(run_owner, "owner")


def _load_data() -> Run:
    from template.commands.data import run_data

    return run_data


def _load_model() -> Run:
    from template.commands.model import run_model

    return run_model


def _load_bucket() -> Run:
    from template.commands.bucket import run_bucket

    return run_bucket


def _load_replay() -> Run:
    from template.commands.replay import run_replay_command

    return run_replay_command


def _load_recompute() -> Run:
    from template.commands.recompute import run_recompute

    return run_recompute


def _load_explain() -> Run:
    from template.commands.explain import run_explain

    return run_explain


def _load_succession() -> Run:
    from template.commands.succession import run_succession

    return run_succession


def _load_site() -> Run:
    from template.commands.site import run_site

    return run_site


def _load_newcomer() -> Run:
    from template.commands.owner import run_owner

    return partial(run_owner, "newcomer")


def _load_doctor() -> Run:
    from template.commands.doctor import run_doctor

    return run_doctor


def _init_settings(args: argparse.Namespace, env: Mapping[str, str]) -> Any:
    return init_config(args, env, ask_person if sys.stdin.isatty() else None)


def _load_init() -> Run:
    from template.commands.init import run_init

    return run_init


def _load_status() -> Run:
    from template.commands.status import run_status

    return run_status


def _load_plan() -> Run:
    from template.commands.planning import run_planning

    return run_planning


COMMANDS: Final[Mapping[str, Command]] = {
    "localnet": Command(
        summary="run a whole subnet on this machine",
        add_flags=_add_localnet_flags,
        settings=_localnet_settings,
        load=_load_localnet,
    ),
    "miner": Command(
        summary="train on assigned pages and publish pseudo-gradients",
        add_flags=add_miner_flags,
        settings=miner_settings,
        load=_load_miner,
    ),
    "validator": Command(
        summary="score payloads, vote on chain and set weights",
        add_flags=add_validator_flags,
        settings=validator_settings,
        load=_load_validator,
    ),
    "owner": Command(
        summary="publish a run, and check it",
        add_flags=add_owner_flags,
        settings=owner_settings,
        load=_load_owner,
    ),
    "data": Command(
        summary="make a dataset of texts or conversations, mix datasets, put one into a bucket",
        add_flags=add_data_flags,
        settings=data_config,
        load=_load_data,
    ),
    "bucket": Command(
        summary="print the name of a bucket, or test a bucket",
        add_flags=add_bucket_flags,
        settings=bucket_settings,
        load=_load_bucket,
    ),
    "model": Command(
        summary="fetch the model, write with it, measure it, publish it",
        add_flags=add_model_flags,
        settings=model_config,
        load=_load_model,
    ),
    "init": Command(
        summary="set up a neuron on this machine, and check it",
        add_flags=add_init_flags,
        settings=_init_settings,
        load=_load_init,
    ),
    "doctor": Command(
        summary="check all that a role needs, and name each remedy",
        add_flags=add_doctor_flags,
        settings=doctor_config,
        load=_load_doctor,
    ),
    "status": Command(
        summary="one's own neuron at a glance",
        add_flags=add_status_flags,
        settings=status_config,
        load=_load_status,
    ),
    "replay": Command(
        summary="compute a run's model again from public objects",
        add_flags=add_replay_flags,
        settings=lambda args, _env: replay_config(args),
        load=_load_replay,
    ),
    "recompute": Command(
        summary="check a validator's verdict logs, or audit a validator",
        add_flags=add_recompute_flags,
        settings=lambda args, _env: recompute_config(args),
        load=_load_recompute,
    ),
    "explain": Command(
        summary="explain a hotkey's pay in a window",
        add_flags=add_explain_flags,
        settings=lambda args, _env: explain_config(args),
        load=_load_explain,
    ),
    "site": Command(
        summary="render a run as static pages",
        add_flags=add_site_flags,
        settings=site_config,
        load=_load_site,
    ),
    "succession": Command(
        summary="change a run at a window, by the voting stake",
        add_flags=add_succession_flags,
        settings=lambda args, _env: succession_config(args),
        load=_load_succession,
    ),
    "newcomer": Command(
        summary="find a run by its netuid, and look for all it names",
        add_flags=add_newcomer_flags,
        settings=lambda args, _env: check_config(args),
        load=_load_newcomer,
    ),
    "plan": Command(
        summary="calculate what a run needs, and what it costs",
        add_flags=add_plan_flags,
        settings=lambda args, _env: plan_config(args),
        load=_load_plan,
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
    guard_faults()
    leave_on_signals()
    name = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    _require_installed(name)
    args = build_parser().parse_args(sys.argv[1:])
    _run_unwinding(args.command, args)


def run_script(name: str, prog: str) -> NoReturn:
    """A script of a single command; `prog`: the name of the script in help texts."""
    guard_faults()
    leave_on_signals()
    _run_unwinding(name, parse_command(name, sys.argv[1:], prog))


def run_command(name: str, argv: Sequence[str], prog: str) -> int:
    """Run a command and restore the state of the process afterwards; returns the exit status."""
    args = parse_command(name, argv, prog)
    _require_home(name)
    with restored_process_state(), escaped_faults():
        try:
            settings = COMMANDS[name].settings(args, os.environ)
        except SubnetError as error:
            return report(name, error)
        clear_surroundings(name)
        return COMMANDS[name].load()(settings)


def clear_surroundings(name: str) -> None:
    """Remove variables that the run spec decides, and say so on standard error."""
    names = clear_environment(os.environ)
    if name in ("miner", "validator"):
        names = without_torchrun(names)  # taken, and no surprise
    if names:
        complain(f"{name}: {cleared_line(names)}".rstrip("\n"))


def report(name: str, error: SubnetError) -> int:
    """Write an error to standard error; the exit status."""
    complain(f"{name}: {error}")
    return exit_status(error)


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
    _require_home(name)
    try:
        settings = COMMANDS[name].settings(args, os.environ)
    except SubnetError as error:
        sys.exit(report(name, error))
    clear_surroundings(name)
    run = COMMANDS[name].load()
    # A localnet ends its processes in turn, and writes its report.
    unwind_on_signals(limit_s=None if name == "localnet" else STOP_LIMIT_S)
    end_process(run(settings))


def _require_installed(name: str) -> None:
    if name == "localnet" and find_spec("localnet") is None:
        complain(f"tessera localnet: {_NO_LOCALNET}")
        sys.exit(EXIT_OPERATOR)


def _require_home(name: str) -> None:
    """The chain's library asks for the home folder when imported, and fails without one."""
    try:
        Path.home()
    except RuntimeError:
        complain(
            f"tessera {name}: HOME is not set, and uid {os.getuid()} has no entry in /etc/passwd: "
            "set HOME to a folder of this user"
        )
        sys.exit(EXIT_OPERATOR)
