"""`tessera init`: find the run, write a neuron's files, let the doctor look, say how to start."""

import os
import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from template import __spec_version__, __version__
from template.chain.bittensor import BittensorChain, ChainOptions
from template.cli.doctor_flags import add_doctor_flags, doctor_config
from template.cli.environment import LOOPBACK_HOSTS, bucket_settings
from template.cli.flags import CHECKOUT, LOCAL_NETWORK, folder_path
from template.cli.init_flags import ENV_FILE, ENV_NETUID, ENV_NETWORK, ENV_WALLETS, InitConfig
from template.cli.parser import Parser
from template.cli.process_state import hide_memory
from template.cli.signals import STOP_LIMIT_S, unwind_on_signals
from template.cli.terminal import complain, say, say_json
from template.commands.doctor import examinations, line_of
from template.commands.init_files import (
    common_flags,
    env_text,
    start_text,
    unit_name,
    unit_text,
)
from template.commands.offered import find_run
from template.commands.publish import write_spec
from template.commands.reading import bucket_opener
from template.doctor.findings import Report, summary, to_json
from template.errors import (
    EXIT_INTERRUPTED,
    ConfigError,
    RecordError,
    SubnetError,
    exit_status,
)
from template.files import reason, remedy
from template.protocol.spec import RunSpec, spec_to_toml

OPTIONS: Final = ChainOptions(read_timeout_s=15.0, read_deadline_s=15.0)
RUN_FILE: Final = "run.toml"
START_FILE: Final = "start"
_SECRET_MODE, _SCRIPT_MODE, _FOLDER_MODE = 0o600, 0o700, 0o700
_UNIT_MODE: Final = 0o644


def run_init(config: InitConfig) -> int:
    """Set everything up; the exit status, which is the doctor's once the files are written."""
    unwind_on_signals(limit_s=STOP_LIMIT_S)
    hide_memory()
    try:
        return _set_up(config)
    except SubnetError as error:
        complain(f"init: {error}")
        return exit_status(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _set_up(config: InitConfig) -> int:
    bucket_settings(config.values)
    _make_folder(config.folder)
    run = config.folder / RUN_FILE
    offered = _fetch_run(config, run)
    _tell(config, offered)
    flags = _write_files(config, run)
    report = _examined(config, ["--run", str(run), *flags] if run.exists() else flags)
    start = config.folder / START_FILE
    if config.is_json:
        files = {"folder": str(config.folder), "start": str(start), "run_id": offered}
        say_json({**to_json(report), **files})
        return report.status
    say(summary(report))
    say(f"files: {config.folder}/ ({ENV_FILE} is for this user's eyes alone)")
    unit = config.folder / unit_name(config.role, config.values[ENV_NETUID])
    if config.role == "owner":
        say(f"publish a run with:  {start} publish --plan PLAN --start-in BLOCKS --out {run}")
        say(f"look at it with:  {start} doctor   and   {start} status")
        return report.status
    say(f"start it with:  {start}")
    say(f"or as a service:  systemctl --user enable --now {shlex.quote(str(unit))}")
    say("so that the service outlives this login:  loginctl enable-linger")
    say(f"look at it with:  {start} status   and   {start} doctor")
    return report.status


def _tell(config: InitConfig, run_id: str) -> None:
    if run_id and not config.is_json:
        say(f"the subnet's owner offers run {run_id}: written to {config.folder / RUN_FILE}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
    except OSError as error:
        raise ConfigError(
            f"--dir {folder}: cannot be made ({reason(error)}); {remedy(folder, error)}. Or name "
            "another folder"
        ) from error


def _fetch_run(config: InitConfig, out: Path) -> str:
    """Write the run spec that the owner offers; its id, or "" for an owner without an offer."""
    network = config.values[ENV_NETWORK]
    is_here = network == LOCAL_NETWORK or urlsplit(network).hostname in LOOPBACK_HOSTS
    chain = BittensorChain(
        endpoint=network,
        netuid=int(config.values[ENV_NETUID]),
        wallet=None,
        version_key=__spec_version__,
        options=OPTIONS,
    )
    with closing(chain):
        try:
            spec = _find(chain, is_here=is_here)
        except ConfigError:
            if config.role != "owner":
                raise
            return ""  # the owner is about to publish the first run
    write_spec(out, spec_to_toml(spec))
    return spec.run_id.hex()


def _find(chain: BittensorChain, *, is_here: bool) -> RunSpec:
    """The offered spec. An endpoint on this machine may serve a localnet or a public chain."""
    if is_here:
        try:
            return find_run(chain, bucket_opener(on_localnet=True)).spec
        except ConfigError as error:
            if not isinstance(error.__cause__, RecordError):
                raise
    return find_run(chain, bucket_opener(on_localnet=False)).spec


def _write_files(config: InitConfig, run: Path) -> list[str]:
    """Write env file, script and unit; the flags of the start without --run."""
    wallets = str(folder_path(config.values[ENV_WALLETS]).resolve())
    role, env_file, start = config.role, config.folder / ENV_FILE, config.folder / START_FILE
    flags = common_flags(config.values, role=role, device=config.device, wallets=wallets)
    try:
        text = env_text(config.values, config.kept)
    except ValueError as error:
        raise ConfigError(
            f"{error}: has a line end or another character that is not printed, which an env file "
            "cannot hold: give another value"
        ) from None
    _write(env_file, text, _SECRET_MODE)
    script = start_text(role=role, env_file=env_file, program=program(), run=run, flags=flags)
    _write(start, script, _SCRIPT_MODE)
    if role != "owner":
        unit = config.folder / unit_name(role, config.values[ENV_NETUID])
        _write(unit, unit_text(role=role, start=start), _UNIT_MODE)
    return flags


def program() -> list[str]:
    """The command `tessera` as a script calls it: of a checkout, or as installed."""
    if (CHECKOUT / "setup.py").is_file():
        return ["env", f"PYTHONPATH={CHECKOUT}", sys.executable, "-m", "template.cli"]
    installed = Path(sys.executable).with_name("tessera")
    return [str(installed)] if installed.is_file() else [sys.executable, "-m", "template.cli"]


def _write(path: Path, text: str, mode: int) -> None:
    """A whole file or none, with its mode from the first byte on."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(number, "w", encoding="utf-8", errors="surrogateescape") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
        part.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({reason(error)}); {remedy(path, error)}"
        ) from error


def _examined(config: InitConfig, argv: list[str]) -> Report:
    """The doctor's findings with the flags of the start, and the variables of the env file."""
    parser = Parser(prog="tessera doctor")
    add_doctor_flags(parser)
    without = ["--without", ",".join(config.without)] if config.without else []
    args = parser.parse_args([config.role, *argv, *without])
    asked = doctor_config(args, config.values)
    found = []
    for finding in examinations(asked):
        found.append(finding)
        if not config.is_json:
            say(line_of(finding))
    return Report(role=config.role, version=__version__, findings=tuple(found))
