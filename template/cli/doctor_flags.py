"""Flags of `tessera doctor` and the settings that follow: a role's own flags, and a few more.

A start command becomes a doctor's by one word before the role. Settings that are missing or wrong
are kept as the errors they are: each is a finding of a check, and the other checks go on.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote

from template.cli.environment import (
    ENV_READ_KEY,
    ENV_READ_SECRET,
    ENV_WRITE_KEY,
    ENV_WRITE_SECRET,
    bucket_settings,
)
from template.cli.flags import (
    add_chain_flags,
    add_wallet_flags,
    chain_config,
    folder_path,
    run_file,
    variables_text,
    wallet_config,
)
from template.cli.neuron_flags import (
    NO_RUN_FILE,
    add_miner_flags,
    add_validator_flags,
    neuron_config,
)
from template.cli.parser import Parser, aligned
from template.errors import ConfigError
from template.protocol.spec.files import load_spec
from template.protocol.spec.run import RunSpec
from template.secret import Secret
from template.settings import (
    ALONE,
    ENV_ENDPOINT,
    BucketSettings,
    ChainConfig,
    NeuronConfig,
    WalletConfig,
)

T = TypeVar("T")

CHECK_NAMES: Final = (
    "run spec", "wallet", "chain", "clock", "subnet", "registration", "balance", "version",
    "weights", "offer", "bucket keys", "bucket closed", "line", "run objects", "state folder",
    "disk", "memory", "accelerator", "codec", "inner step",
)  # fmt: skip
"""Every check of any role; `template.doctor.checks` has the order of each role."""
SECRET_VARIABLES: Final = (
    ENV_WRITE_SECRET, ENV_READ_SECRET, "WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
)  # fmt: skip
SECRET_PREFIXES: Final = ("BT_PW_", "BT_WALLET_PASSWORD")


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorConfig:
    """Settings of `tessera doctor`. `neuron` None: the role has no process of its own.

    `secrets`: every secret of the environment, for the search through an archive.
    """

    role: str
    run: Path | None
    spec: RunSpec | ConfigError
    chain: ChainConfig | ConfigError
    wallet: WalletConfig
    neuron: NeuronConfig | ConfigError | None
    bucket: BucketSettings | ConfigError
    logging_dir: Path | None
    bundle: Path | None
    is_json: bool
    without: tuple[str, ...]
    secrets: tuple[Secret, ...]


def doctor_config(args: argparse.Namespace, env: Mapping[str, str]) -> DoctorConfig:
    """Settings of the doctor; ConfigError for a folder of --bundle that is not there."""
    if args.bundle is not None and not args.bundle.parent.is_dir():
        raise ConfigError(
            f"--bundle {args.bundle}: there is no folder {args.bundle.parent}; create it"
        )
    spec = attempt(lambda: _spec(args))
    return DoctorConfig(
        role=args.role,
        run=args.run,
        spec=spec,
        chain=attempt(lambda: _chain(args, spec)),
        wallet=wallet_config(args),
        neuron=None if args.role == "owner" else attempt(lambda: _neuron(args)),
        bucket=attempt(lambda: bucket_settings(env)),
        logging_dir=getattr(args, "logging_dir", None),
        bundle=args.bundle,
        is_json=args.is_json,
        without=args.without,
        secrets=(*env_secrets(env), *_flag_secrets(args)),
    )


def attempt(ask: Callable[[], T]) -> T | ConfigError:
    """The setting, or the ConfigError raised on the way."""
    try:
        return ask()
    except ConfigError as error:
        return error


def given(value: T | ConfigError) -> T:
    """A setting of `attempt`; raises what was wrong with it."""
    if isinstance(value, ConfigError):
        raise value
    return value


def env_secrets(env: Mapping[str, str]) -> tuple[Secret, ...]:
    """The values of every variable that holds a secret."""
    names = (n for n in env if n in SECRET_VARIABLES or n.startswith(SECRET_PREFIXES))
    values = [env[name] for name in sorted(names)]
    # Of ID:SECRET the secret alone, too: it may stand somewhere without its id.
    values += [env.get(name, "").partition(":")[2] for name in (ENV_WRITE_KEY, ENV_READ_KEY)]
    values += url_secrets(env.get(ENV_ENDPOINT, ""))
    return tuple(Secret(value) for value in values if value)


def _flag_secrets(args: argparse.Namespace) -> tuple[Secret, ...]:
    """The hidden parts of every chain endpoint of the flags, right or wrong."""
    urls = (args.chain_endpoint, args.network, *(args.fallbacks or ()))
    return tuple(Secret(part) for url in urls for part in url_secrets(url or ""))


def url_secrets(url: str) -> list[str]:
    """User, password, path and query of a URL, whole and in parts: each may be a token.

    Nothing for a text that is no URL.
    """
    # Not urlsplit: an ill-formed port or host makes urlsplit refuse what still holds a password.
    head, marks, rest = url.partition("://")
    if not head or not marks:
        return []
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    behind = rest[len(place) :]
    path, _mark, query = behind.partition("#")[0].partition("?")
    user, at, _host = place.rpartition("@")
    found = [user, *user.split(":", 1)] if at else []
    found += [behind.strip("/"), path.strip("/"), *path.split("/"), query, url.partition("#")[2]]
    found += [part.partition("=")[2] for part in query.split("&")]
    return [word for part in found for word in dict.fromkeys((part, unquote(part))) if word]


def _spec(args: argparse.Namespace) -> RunSpec:
    if args.run is None:
        raise ConfigError(NO_RUN_FILE.format(netuid=args.netuid))
    return load_spec(args.run)


def _chain(args: argparse.Namespace, spec: RunSpec | ConfigError) -> ChainConfig:
    """The chain of the flags; of the run spec's kind, where there is a run spec."""
    if not isinstance(spec, ConfigError):
        return chain_config(args, spec.schedule)
    network = args.chain_endpoint or args.network
    if network is None:
        raise spec
    return ChainConfig(netuid=args.netuid, network=network, fallbacks=args.fallbacks or ())


def _neuron(args: argparse.Namespace) -> NeuronConfig:
    args.run = args.run or Path("run.toml")
    return neuron_config(args, ALONE)


def add_doctor_flags(parser: Parser) -> None:
    """The subcommands `miner`, `validator` and `owner`, each with the flags of its role."""
    parser.description = _TEXT
    parser.epilog = _EPILOG.format(command=parser.command_line, statuses=aligned(STATUSES))
    for role, command in role_commands(
        parser, "doctor_command", "check everything that a {} needs"
    ):
        command.description = f"Check everything that a {role} needs, and name each remedy."
        command.epilog = _ROLE_EPILOG.format(
            command=command.command_line,
            role=role,
            variables=variables_text(),
            statuses=aligned(STATUSES),
        )
        _add_own_flags(command)


def role_commands(parser: Parser, dest: str, summary: str) -> Iterator[tuple[str, Parser]]:
    """A subcommand for each role, with the role's own flags. `summary`: with {} for the role."""
    commands = parser.add_subparsers(dest=dest, required=True, metavar="ROLE")
    for role, add in (
        ("miner", add_miner_flags),
        ("validator", add_validator_flags),
        ("owner", add_owner_flags),
    ):
        command = commands.add_parser(role, help=summary.format(role))
        add(command)
        yield role, command


def add_owner_flags(parser: Parser) -> None:
    parser.set_defaults(role="owner")
    text = "run spec (TOML) that `tessera owner publish` has written"
    parser.add_argument("--run", metavar="PATH", type=run_file, default=None, help=text)
    add_chain_flags(parser)
    add_wallet_flags(parser)


def _add_own_flags(parser: Parser) -> None:
    group = parser.add_argument_group("doctor")
    text = "print one JSON object instead of lines (see docs/outputs_operating.md)"
    group.add_argument("--json", dest="is_json", action="store_true", help=text)
    text = (
        "also write a support archive (.tar.gz): these findings, versions, run spec, the last "
        "lines of log and metrics; without secrets"
    )
    group.add_argument("--bundle", metavar="FILE", type=folder_path, default=None, help=text)
    text = f"names of checks to leave out, of: {', '.join(CHECK_NAMES)}"
    group.add_argument("--without", metavar="NAME[,NAME]", type=_check_names, default=(), help=text)


def _check_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in CHECK_NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no such check: {', '.join(unknown)}; there are {', '.join(CHECK_NAMES)}"
        )
    return names


STATUSES: Final = {
    0: "no check failed; warnings do not count",
    1: "a check failed: each line says what to mend",
    2: "a flag of this command is wrong, or --bundle cannot be written",
    130: "it was interrupted (Ctrl-C or SIGTERM)",
}

_TEXT = """\
Check, before a start or beside a running neuron, everything that the role needs: wallet,
registration, balance, chain, clock, bucket and both keys, line, disk, memory, device, run spec and
dataset. Each line is ok, or says what to mend."""

_EPILOG = """\
The flags of each role are those of `tessera ROLE`: a start command becomes a doctor's by the word
`doctor` before the role.

exit status:
{statuses}

examples:
  {command} miner --run run.toml --netuid 42 --subtensor.network test --wallet.name mine
  {command} owner --run run.toml --netuid 42 --subtensor.network test --wallet.name owner
"""

_ROLE_EPILOG = """\
environment variables (as of a {role}; secrets are never shown):
{variables}

exit status:
{statuses}

example, with an archive for whoever helps:
  {command} --run run.toml --netuid 42 --subtensor.network test --bundle support.tar.gz
"""
