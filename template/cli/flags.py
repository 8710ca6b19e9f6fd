"""Flags of one neuron: which exist, which are refused and why, and the text of --help.

The SDK reads no flags, so every dotted flag that operators know from the subnet template is
defined or refused here by name: nothing is accepted and ignored, nothing is abbreviated. Does
not own what the values become (template/settings.py).
"""

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NoReturn
from urllib.parse import urlsplit

from template.cli.environment import ENVIRONMENT
from template.errors import EXIT_STATUSES

Role = Literal["miner", "validator"]

NETWORKS: Final = ("finney", "test", "local")
DEFAULT_NETWORK: Final = "finney"
DEFAULT_WALLET_DIR: Final = "~/.bittensor/wallets"
STATE_DIR: Final = "~/.bittensor/{role}s/{coldkey}/{hotkey}/netuid{netuid}/{name}"
DEFAULT_PROJECT: Final = "tessera"
MAX_NETUID: Final = 65_535
HELP_WIDTH_CHARS: Final = 100

_NO_AXON = "this subnet has no axon; miners publish to their bucket (see TESSERA_BUCKET_*)"
_RUN_SPEC = "set by the run spec (--run), because all nodes must agree on it"

REFUSED_FLAGS: Final[Mapping[str, str]] = {
    "--mock": "there is no mock mode; `make localnet` runs the real neurons on a local chain",
    "--neuron.axon_off": _NO_AXON,
    "--neuron.epoch_length": f"{_RUN_SPEC}: the length of a window in blocks",
    "--neuron.events_retention_size": "metrics.jsonl only grows; use logrotate with copytruncate",
    "--neuron.moving_average_alpha": f"{_RUN_SPEC}: pay is a function of the last windows' scores",
    "--neuron.sample_size": f"{_RUN_SPEC}: the chain draws one sample for all validators",
    "--neuron.num_concurrent_forwards": "a validator evaluates once a window; nothing to set",
    "--neuron.timeout": f"{_RUN_SPEC}: deadlines are blocks of the chain",
    "--neuron.vpermit_tao_limit": "votes count by the chain's validator permits and stake",
}
"""Flags of the subnet template that mean nothing here, with what replaced each."""

REFUSED_PREFIXES: Final[Mapping[str, str]] = {
    "--axon.": _NO_AXON,
    "--blacklist.": "nobody sends a neuron requests here, so there is nobody to refuse",
}
VALIDATOR_ONLY: Final[Mapping[str, str]] = {
    "--neuron.disable_set_weights": "a miner sets no weights; this is a validator's flag",
}


class _Parser(argparse.ArgumentParser):
    """Knows its own flags, and prints one sentence instead of the whole usage on an error."""

    def __init__(self, *, epilog: str, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            usage=f"{prog} --run PATH --netuid N [flags]",
            formatter_class=_help_formatter,
        )

    @property
    def known_flags(self) -> list[str]:
        return sorted(self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=HELP_WIDTH_CHARS)


def parse_flags(role: Role, argv: Sequence[str]) -> argparse.Namespace:
    """The flags of a `role`; on a wrong one prints one sentence and exits with status 2."""
    parser = _build_parser(role)
    _check_names(parser, role, argv)
    args = parser.parse_args(list(argv))
    if args.state_dir is None:
        args.state_dir = _default_state_dir(role, args)
    return args


def _check_names(parser: _Parser, role: Role, argv: Sequence[str]) -> None:
    """Refuse by name before anything else, so that the first message is the useful one."""
    names = [token.split("=", 1)[0] for token in argv if token.startswith("--")]
    for name in names:
        reason = _refusal(role, name)
        if reason:
            parser.error(f"{name}: {reason}")
        if name not in parser.known_flags:
            near = difflib.get_close_matches(name, parser.known_flags, n=1)
            hint = f"did you mean {near[0]}?" if near else "see --help for those there are"
            parser.error(f"{name}: no such flag; {hint}")
        if names.count(name) > 1:
            parser.error(f"{name}: given more than once; only one value can hold")


def _refusal(role: Role, name: str) -> str | None:
    if role == "miner" and name in VALIDATOR_ONLY:
        return VALIDATOR_ONLY[name]
    by_prefix = (why for prefix, why in REFUSED_PREFIXES.items() if name.startswith(prefix))
    return REFUSED_FLAGS.get(name) or next(by_prefix, None)


def _default_state_dir(role: Role, args: argparse.Namespace) -> Path:
    text = STATE_DIR.format(
        role=role,
        coldkey=args.wallet_name,
        hotkey=args.wallet_hotkey,
        netuid=args.netuid,
        name=args.name,
    )
    return Path(text).expanduser()


def _build_parser(role: Role) -> _Parser:
    parser = _Parser(
        prog=f"neurons/{role}.py",
        description=f"Run a Tessera {role}.",
        epilog=_epilog(role),
    )
    _add_run_flags(parser, role)
    add_chain_flags(parser)
    add_wallet_flags(parser)
    _add_logging_flags(parser)
    _add_wandb_flags(parser)
    return parser


def _add_run_flags(parser: _Parser, role: Role) -> None:
    group = parser.add_argument_group("run and process")
    group.add_argument(
        "--run",
        dest="run",
        metavar="PATH",
        type=_file,
        required=True,
        help="run spec (TOML): everything that all nodes must agree on",
    )
    group.add_argument(
        "--neuron.name",
        dest="name",
        metavar="NAME",
        type=_name,
        default=role,
        help=f"name of this process in paths and logs (default: {role})",
    )
    group.add_argument(
        "--neuron.device",
        dest="device",
        metavar="DEVICE",
        type=_device,
        default="auto",
        help="auto, cpu, cuda or cuda:N (default: auto, a GPU if torch sees one)",
    )
    group.add_argument(
        "--neuron.state_dir",
        dest="state_dir",
        metavar="DIR",
        type=_path,
        default=None,
        help="checkpoints, shards, metrics.jsonl (default: see below)",
    )
    group.add_argument(
        "--neuron.dont_save_events",
        dest="save_events",
        action="store_false",
        help="do not write metrics.jsonl",
    )
    if role == "validator":
        group.add_argument(
            "--neuron.disable_set_weights",
            dest="set_weights",
            action="store_false",
            help="evaluate and vote, but set no weights on chain",
        )


def add_chain_flags(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """--netuid and where the chain is: `netuid`, `network`, `chain_endpoint`."""
    group = parser.add_argument_group("chain")
    group.add_argument(
        "--netuid",
        dest="netuid",
        metavar="N",
        type=_netuid,
        required=required,
        help="the subnet's number on the chain",
    )
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "--subtensor.network",
        dest="network",
        metavar="NAME",
        type=_network,
        help=f"{', '.join(NETWORKS)} or a ws:// or wss:// URL (default: {DEFAULT_NETWORK})",
    )
    where.add_argument(
        "--subtensor.chain_endpoint",
        dest="chain_endpoint",
        metavar="URL",
        type=_ws_url,
        help="ws:// or wss:// URL, instead of --subtensor.network",
    )


def add_wallet_flags(parser: argparse.ArgumentParser) -> None:
    """Which keys sign: `wallet_name`, `wallet_hotkey`, `wallet_path`."""
    group = parser.add_argument_group("wallet")
    group.add_argument(
        "--wallet.name",
        dest="wallet_name",
        metavar="NAME",
        type=_name,
        default="default",
        help="coldkey's name (default: default)",
    )
    group.add_argument(
        "--wallet.hotkey",
        dest="wallet_hotkey",
        metavar="NAME",
        type=_name,
        default="default",
        help="hotkey's name (default: default)",
    )
    group.add_argument(
        "--wallet.path",
        dest="wallet_path",
        metavar="DIR",
        type=_path,
        default=Path(DEFAULT_WALLET_DIR).expanduser(),
        help=f"folder of the wallets (default: {DEFAULT_WALLET_DIR})",
    )


def _add_logging_flags(parser: _Parser) -> None:
    group = parser.add_argument_group("logging")
    levels = group.add_mutually_exclusive_group()
    levels.add_argument(
        "--logging.debug",
        dest="level",
        action="store_const",
        const="debug",
        default="info",
        help="log this project's details (default: info)",
    )
    levels.add_argument(
        "--logging.trace",
        dest="level",
        action="store_const",
        const="trace",
        help="log the details of the chain library as well",
    )
    group.add_argument(
        "--logging.logging_dir",
        dest="logging_dir",
        metavar="DIR",
        type=_path,
        help="also write the log to a file in DIR (default: standard error only)",
    )


def _add_wandb_flags(parser: _Parser) -> None:
    group = parser.add_argument_group("Weights & Biases")
    modes = group.add_mutually_exclusive_group()
    modes.add_argument(
        "--wandb.off",
        dest="wandb",
        action="store_const",
        const="off",
        help="do not use it (default, unless WANDB_API_KEY or another --wandb flag is given)",
    )
    modes.add_argument(
        "--wandb.online",
        dest="wandb",
        action="store_const",
        const="online",
        help="send metrics, with WANDB_API_KEY or after `wandb login`",
    )
    modes.add_argument(
        "--wandb.offline",
        dest="wandb",
        action="store_const",
        const="offline",
        help="write to the state directory; upload later with `wandb sync`",
    )
    group.add_argument(
        "--wandb.project_name",
        dest="project_name",
        metavar="NAME",
        help=f"project (default: {DEFAULT_PROJECT})",
    )
    group.add_argument(
        "--wandb.entity",
        dest="entity",
        metavar="NAME",
        help="user or team (default: the account's own)",
    )
    group.add_argument(
        "--wandb.notes",
        dest="notes",
        metavar="TEXT",
        help="free text on the run's page",
    )


def _epilog(role: Role) -> str:
    width = max(len(name) for name in ENVIRONMENT)
    variables = "\n".join(f"  {name:<{width}}  {text}" for name, text in ENVIRONMENT.items())
    state_dir = STATE_DIR.format(
        role=role, coldkey="COLDKEY", hotkey="HOTKEY", netuid="N", name="NAME"
    )
    statuses = "\n".join(f"  {number:<3}  {text}" for number, text in EXIT_STATUSES.items())
    return _EPILOG.format(role=role, variables=variables, state_dir=state_dir, statuses=statuses)


_EPILOG = """\
environment variables (secrets are read from here only, and never logged):
{variables}
  WANDB_API_KEY                key of Weights & Biases; turns it on, unless --wandb.off is given

files (default --neuron.state_dir):
  {state_dir}
      everything that this process writes; keep it, and a restart loses nothing
      metrics.jsonl: one line of JSON per window

exit status:
{statuses}

example:
  export TESSERA_R2_ACCOUNT_ID=... TESSERA_BUCKET_WRITE_KEY_ID=...   (and the other three)
  python neurons/{role}.py --run runs/NAME.toml --netuid 42 --subtensor.network finney \\
      --wallet.name mine --wallet.hotkey {role}1 --neuron.device cuda:0

Not flags: batch, learning rate, window length and whatever else all nodes must agree on.
That is the run spec (--run); two nodes with different specs do not mix.
"""


def _file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no such file: {path}")
    return path


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text).expanduser()


def _name(text: str) -> str:
    """A name that becomes one component of a path."""
    if re.fullmatch(r"[\w.@+ -]+", text) is None or text in (".", ".."):
        raise argparse.ArgumentTypeError("a name is letters, digits, spaces and . _ - @ +")
    return text


def _netuid(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > MAX_NETUID:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {MAX_NETUID}")
    return int(text)


def _device(text: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", text) is None:
        raise argparse.ArgumentTypeError("must be auto, cpu, cuda or cuda:N")
    return text


def _network(text: str) -> str:
    return text if text in NETWORKS else _ws_url(text)


def _ws_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise argparse.ArgumentTypeError(
            f"must be a URL that starts with ws:// or wss:// (or, as a network, one of"
            f" {', '.join(NETWORKS)})"
        )
    return text
