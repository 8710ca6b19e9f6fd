"""Flags of `tessera init`, and the values it needs: from flags, environment, file or terminal.

A value is looked for in this order: a flag, a variable, the env file of an earlier `init`, a
question at the terminal. Without a terminal a missing value is an error that names the variable.
"""

import argparse
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from template.cli.environment import (
    ENV_R2_JURISDICTION,
    ENV_READ_KEY,
    ENV_READ_KEY_ID,
    ENV_READ_SECRET,
    ENV_WRITE_KEY,
    ENV_WRITE_KEY_ID,
    ENV_WRITE_SECRET,
    ENVIRONMENT,
)
from template.cli.flags import DEFAULT_WALLET_DIR, NETWORKS, folder_path, path_name
from template.cli.neuron_flags import device_name
from template.cli.parser import Parser, aligned
from template.errors import ConfigError
from template.settings import ENV_ENDPOINT, ENV_R2_ACCOUNT

ENV_NETWORK: Final = "TESSERA_NETWORK"
ENV_NETUID: Final = "TESSERA_NETUID"
ENV_WALLET: Final = "TESSERA_WALLET_NAME"
ENV_HOTKEY: Final = "TESSERA_WALLET_HOTKEY"
ENV_WALLETS: Final = "TESSERA_WALLET_PATH"

SETTINGS: Final[Mapping[str, str]] = {
    ENV_NETWORK: f"chain: {', '.join(NETWORKS)}, or a ws:// or wss:// URL",
    ENV_NETUID: "the subnet's number on the chain",
    ENV_WALLET: "coldkey's name (default: default)",
    ENV_HOTKEY: "hotkey's name (default: default)",
    ENV_WALLETS: f"folder of the wallets (default: {DEFAULT_WALLET_DIR})",
    **ENVIRONMENT,
}
"""Every variable of `init`; the bucket's are those of a neuron."""
DEFAULTS: Final[Mapping[str, str]] = {
    ENV_WALLET: "default",
    ENV_HOTKEY: "default",
    ENV_WALLETS: DEFAULT_WALLET_DIR,
}
_FLAGS: Final = {
    ENV_NETWORK: "network",
    ENV_NETUID: "netuid",
    ENV_WALLET: "wallet_name",
    ENV_HOTKEY: "wallet_hotkey",
    ENV_WALLETS: "wallet_path",
}
_PAIRS: Final = {
    ENV_WRITE_KEY: (ENV_WRITE_KEY_ID, ENV_WRITE_SECRET),
    ENV_READ_KEY: (ENV_READ_KEY_ID, ENV_READ_SECRET),
}
_DROPS: Final = {
    ENV_ENDPOINT: (ENV_R2_ACCOUNT, ENV_R2_JURISDICTION),
    ENV_R2_ACCOUNT: (ENV_ENDPOINT,),
    **_PAIRS,
    **{part: (pair,) for pair, parts in _PAIRS.items() for part in parts},
}
"""Variable -> those that say the same in another spelling."""
SECRETS: Final = frozenset({ENV_WRITE_KEY, ENV_READ_KEY, ENV_WRITE_SECRET, ENV_READ_SECRET})
ENV_FILE: Final = "tessera.env"
FOLDER: Final = "~/.config/tessera/{role}-netuid{netuid}"

Ask = Callable[[str, str], str]
"""(variable, question) -> the answer of a person; an empty answer takes the default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InitConfig:
    """Settings of `tessera init`: `values` by variable, secrets among them: never shown.

    `kept`: the operator's own lines of the env file, as they are.
    """

    role: str
    folder: Path
    values: Mapping[str, str]
    kept: tuple[str, ...]
    device: str
    without: tuple[str, ...]
    is_json: bool

    def __repr__(self) -> str:
        return f"InitConfig(role={self.role!r}, folder={self.folder!r})"


def init_config(
    args: argparse.Namespace, env: Mapping[str, str], ask: Ask | None = None
) -> InitConfig:
    """Settings of `init`; `ask` None: nobody answers. ConfigError names a missing variable."""
    given = {name: str(value) for name, flag in _FLAGS.items() if (value := getattr(args, flag))}
    given = {**{n: env[n] for n in SETTINGS if env.get(n)}, **given}
    values: dict[str, str] = {}
    netuid = _value(ENV_NETUID, {ENV_NETUID: given.get(ENV_NETUID, "")}, ask)
    if re.fullmatch(r"[0-9]{1,5}", netuid) is None:
        raise ConfigError(f"{ENV_NETUID} {netuid}: must be a whole number from 0 to 65535")
    folder = args.folder or folder_path(FOLDER.format(role=args.role, netuid=netuid))
    folder = folder.resolve()  # a service starts in another folder than this shell
    if re.search(r"[\x00-\x1f\x7f]", str(folder)):
        raise ConfigError(
            f"--dir {str(folder)!r}: has a line end or another control character, which no service "
            "file can hold: name another folder"
        )
    earlier = read_env_file(folder / ENV_FILE)
    # What is given now counts in its own spelling: the file's other spelling would contradict it.
    dropped = {other for name in given for other in _DROPS.get(name, ())}
    filed = {name: value for name, value in earlier.values.items() if name not in dropped}
    known = {**filed, **given, ENV_NETUID: netuid}
    for name in (ENV_NETWORK, ENV_NETUID, ENV_WALLET, ENV_HOTKEY, ENV_WALLETS):
        values[name] = _value(name, known, ask)
    values |= _bucket_values(known, ask)
    return InitConfig(
        role=args.role,
        folder=folder,
        values=values,
        kept=earlier.others,
        device=args.device,
        without=args.without,
        is_json=args.is_json,
    )


def _bucket_values(known: Mapping[str, str], ask: Ask | None) -> dict[str, str]:
    """The bucket's place and both keys, each in the spelling that was given."""
    names = [name for name in ENVIRONMENT if known.get(name)]
    values = {name: known[name] for name in names}
    if ENV_ENDPOINT not in values and ENV_R2_ACCOUNT not in values:
        values[ENV_R2_ACCOUNT] = _value(ENV_R2_ACCOUNT, known, ask)
    for pair, parts in _PAIRS.items():
        if not any(part in values for part in (pair, *parts)):
            values[pair] = _value(pair, known, ask)
    return values


def _value(name: str, known: Mapping[str, str], ask: Ask | None) -> str:
    default = DEFAULTS.get(name, "")
    if known.get(name):
        return known[name]
    if ask is None or default:
        if not default:
            raise ConfigError(
                f"{name} is not set ({SETTINGS[name]}): set the variable, or start `tessera init` "
                "at a terminal, where it asks"
            )
        return default
    answer = ask(name, SETTINGS[name]).strip()
    if not answer:
        raise ConfigError(f"{name}: no answer; it is: {SETTINGS[name]}")
    return answer


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvFile:
    """An env file: the values of `init` by variable, and every other line as it is."""

    values: Mapping[str, str]
    others: tuple[str, ...]

    def __repr__(self) -> str:
        return f"EnvFile(names={sorted(self.values)})"


def read_env_file(path: Path) -> EnvFile:
    """The values of an earlier `init`, and the operator's lines; nothing without the file.

    ConfigError for a file that cannot be read, or a value that a shell would not take as one word.
    """
    try:
        # Not splitlines: it also splits at characters that end no line of a shell.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        return EnvFile(values={}, others=())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read; move it away, or mend it") from error
    found, others = {}, []
    for line in lines:
        name, equals, value = line.strip().removeprefix("export ").lstrip().partition("=")
        if equals and name in SETTINGS:
            found[name] = _unquoted(path, name, value)
        elif line:
            others.append(line)
    return EnvFile(values=found, others=tuple(others))


def _unquoted(path: Path, name: str, value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError:
        words = ["", ""]
    if len(words) > 1:
        raise ConfigError(f"{path}: the value of {name} is ill-formed: write {name}='VALUE'")
    return words[0] if words else ""


def add_init_flags(parser: Parser) -> None:
    """Role, values that are no secret, and the place of the files."""
    parser.allow_repeats = False
    parser.description = _TEXT
    parser.epilog = _EPILOG.format(
        command=parser.command_line, variables=aligned(SETTINGS), statuses=aligned(STATUSES)
    )
    add = parser.add_argument_group("init").add_argument
    text = "what this machine shall run"
    add("--role", choices=("miner", "validator", "owner"), required=True, help=text)
    text = f"folder of the files to write (default: {FOLDER})"
    add("--dir", dest="folder", metavar="DIR", type=folder_path, default=None, help=text)
    text = "device of the neuron, as --neuron.device (default: auto)"
    add("--device", metavar="DEVICE", type=device_name, default="auto", help=text)
    text = "checks of the doctor to leave out, as its --without"
    add("--without", metavar="NAME[,NAME]", type=_names, default=(), help=text)
    text = "print the findings and the files as one JSON object"
    add("--json", dest="is_json", action="store_true", help=text)
    add = parser.add_argument_group("values (or variables, or answers)").add_argument
    add("--netuid", metavar="N", default=None, help=SETTINGS[ENV_NETUID])
    text = SETTINGS[ENV_NETWORK]
    add("--subtensor.network", "--network", dest="network", metavar="NAME", help=text)
    for flag, name in (("name", ENV_WALLET), ("hotkey", ENV_HOTKEY)):
        text = SETTINGS[name]
        add(f"--wallet.{flag}", dest=f"wallet_{flag}", metavar="NAME", type=path_name, help=text)
    text = SETTINGS[ENV_WALLETS]
    add("--wallet.path", dest="wallet_path", metavar="DIR", type=folder_path, help=text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


STATUSES: Final = {
    0: "the files are written, and the doctor found nothing to mend",
    1: "the files are written, and the doctor found something to mend",
    2: "a value is missing or wrong, or a file cannot be written",
    130: "it was interrupted (Ctrl-C or SIGTERM)",
}

_TEXT = """\
Set up a miner, a validator or an owner on this machine: take what is needed from flags and
environment, ask for the rest, find the run, write an env file that only this user can read, a start
script and a service file, let the doctor check everything, and print the one command to start."""

_EPILOG = """\
environment variables (asked for at a terminal where they are missing; secrets are never shown):
{variables}

files in --dir, made anew at each call (an earlier {command} is asked before a person is):
  tessera.env                the values above, mode 0600
  run.toml                   the run spec that the subnet's owner offers
  start                      starts the neuron; `start doctor` and `start status` look at it
  tessera-ROLE.service       a systemd unit of this user

exit status:
{statuses}

example:
  {command} --role miner --netuid 42 --subtensor.network test
"""
