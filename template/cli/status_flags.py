"""Flags of `tessera status`: a role's own flags, so that a start command serves again."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

from template.cli.doctor_flags import role_commands
from template.cli.flags import chain_config, wallet_config, whole
from template.cli.neuron_flags import NO_RUN_FILE, neuron_config
from template.cli.parser import Parser, aligned
from template.errors import ConfigError
from template.protocol.spec.files import load_spec
from template.protocol.spec.run import RunSpec
from template.settings import ALONE, ChainConfig, NeuronConfig, WalletConfig

MAX_WINDOWS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusConfig:
    """Settings of `tessera status`. `neuron` None: an owner, who has no process."""

    role: str
    spec: RunSpec
    chain: ChainConfig
    wallet: WalletConfig
    neuron: NeuronConfig | None
    num_windows: int
    is_json: bool


def status_config(args: argparse.Namespace, _env: Mapping[str, str]) -> StatusConfig:
    """Settings of the glance; needs no variable and no secret. ConfigError names a wrong flag."""
    if args.run is None:
        raise ConfigError(NO_RUN_FILE.format(netuid=args.netuid))
    spec = load_spec(args.run)
    return StatusConfig(
        role=args.role,
        spec=spec,
        chain=chain_config(args, spec.schedule),
        wallet=wallet_config(args),
        neuron=None if args.role == "owner" else neuron_config(args, ALONE),
        num_windows=args.num_windows,
        is_json=args.is_json,
    )


def add_status_flags(parser: Parser) -> None:
    """The subcommands `miner`, `validator` and `owner`, each with the flags of its role."""
    parser.description = _TEXT
    parser.epilog = _EPILOG.format(command=parser.command_line, statuses=aligned(STATUSES))
    for role, command in role_commands(parser, "status_command", "one's own {} at a glance"):
        command.description = f"Show one's own {role} at a glance; changes nothing."
        command.epilog = f"exit status:\n{aligned(STATUSES)}\n"
        group = command.add_argument_group("status")
        text = "print one JSON object instead of tables (see docs/outputs_operating.md)"
        group.add_argument("--json", dest="is_json", action="store_true", help=text)
        text = f"windows to tell of, the newest first (default: 8, at most {MAX_WINDOWS})"
        group.add_argument(
            "--show", dest="num_windows", metavar="N", type=_windows, default=8, help=text
        )


def _windows(text: str) -> int:
    return whole(text, 1, MAX_WINDOWS)


STATUSES = {
    0: "the neuron runs, and nothing needs a look",
    1: "something needs a look: the last lines say what",
    2: "a flag is wrong, or the hotkey's file is missing",
    130: "it was interrupted (Ctrl-C or SIGTERM)",
}

_TEXT = """\
Show one's own neuron at a glance: window and phase, the last payloads and what became of them,
pay, the next deadline. Reads the state folder and the chain, and changes nothing; needs no
secret."""

_EPILOG = """\
The flags of each role are those of `tessera ROLE`: a start command shows its neuron by the word
`status` before the role.

exit status:
{statuses}

example:
  {command} miner --run run.toml --netuid 42 --subtensor.network test --wallet.name mine
"""
