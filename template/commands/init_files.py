"""The files that `tessera init` writes: env file, start script, systemd unit. Pure texts."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from template.cli.init_flags import ENV_HOTKEY, ENV_NETUID, ENV_NETWORK, ENV_WALLET
from template.errors import EXIT_OPERATOR


def env_text(values: Mapping[str, str]) -> str:
    """Lines NAME='value' for a shell and for systemd; no value may hold a quotation mark.

    ValueError for a value that one of the two would read as something else.
    """
    for name, value in values.items():
        if not value.isascii() or not value.isprintable() or set(value) & set("'\\$`"):
            raise ValueError(name)
    return "".join(f"{name}='{value}'\n" for name, value in values.items())


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
    """A systemd unit of a user: restarts but where an operator has to change something first."""
    return f"""\
[Unit]
Description=Tessera {role}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart="{start}"
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
