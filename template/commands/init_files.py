"""The files that `tessera init` writes: env file, start script, systemd unit. Pure texts."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from template.cli.init_flags import ENV_HOTKEY, ENV_NETUID, ENV_NETWORK, ENV_WALLET
from template.errors import EXIT_OPERATOR


def env_text(values: Mapping[str, str], kept: Sequence[str] = ()) -> str:
    """Lines NAME='value' for a shell, and then the operator's own lines as they are.

    ValueError with the name of a value that has a line end or another character of no print.
    """
    for name, value in values.items():
        if not value.isprintable():
            raise ValueError(name)
    lines = [f"{name}={_quoted(value)}" for name, value in values.items()]
    return "".join(f"{line}\n" for line in (*lines, *kept))


def _quoted(value: str) -> str:
    """Always in quotation marks, unlike shlex.quote; in them a shell reads only ' as a mark."""
    return "'" + value.replace("'", "'\\''") + "'"


def unit_name(role: str, netuid: str) -> str:
    """Of a user's service; neurons of several subnets have their own."""
    return f"tessera-{role}-netuid{netuid}.service"


def _in_unit(text: str) -> str:
    """A word of a unit's command, for quotation marks around it (systemd.service(5), man page).

    ValueError for a line end: systemd would read another setting.
    """
    if "\n" in text or "\r" in text:
        raise ValueError("a line end in a word of a unit")
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return text.replace("%", "%%").replace("$", "$$")


def start_text(
    *, role: str, env_file: Path, program: list[str], run: Path, flags: list[str]
) -> str:
    """A script of /bin/sh: the role's command, or the doctor's or the status of the same flags.

    `flags`: without --run. An owner's command comes from the caller: `start publish --plan ...`.
    """
    command, rest = shlex.join(program), shlex.join(flags)
    with_run = f"{role} --run {shlex.quote(str(run))} {rest}"
    plain = f'owner "$@" {rest}' if role == "owner" else f'{with_run} "$@"'
    return f"""\
#!/bin/sh
# Written by `tessera init`. Without a word: the {role}; with `doctor` or `status`: a look at it.
set -eu
set -a
. {shlex.quote(str(env_file))}
set +a
case "${{1-}}" in
doctor | status)
    word=$1
    shift
    exec {command} "$word" {with_run} "$@"
    ;;
esac
exec {command} {plain}
"""


def unit_text(*, role: str, start: Path) -> str:
    """A systemd unit of a user: restarts but where an operator has to change something first.

    ValueError for a path with a line end.
    """
    # By /bin/sh: systemd reads `$$` as `$` in a word behind the program, and not in the program.
    return f"""\
[Unit]
Description=Tessera {role}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=/bin/sh "{_in_unit(str(start))}"
Restart=on-failure
RestartSec=15
RestartPreventExitStatus={EXIT_OPERATOR}
KillSignal=SIGTERM
TimeoutStopSec=30
NoNewPrivileges=yes
PrivateTmp=yes
UMask=0077

[Install]
WantedBy=default.target
"""


def common_flags(values: Mapping[str, str], *, role: str, device: str, wallets: str) -> list[str]:
    """The flags of a role's start, without --run."""
    flags = ["--netuid", values[ENV_NETUID], "--subtensor.network", values[ENV_NETWORK]]
    flags += ["--wallet.name", values[ENV_WALLET], "--wallet.hotkey", values[ENV_HOTKEY]]
    flags += ["--wallet.path", wallets]
    return flags if role == "owner" else [*flags, "--neuron.device", device]
