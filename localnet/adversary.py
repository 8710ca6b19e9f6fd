"""`python -m localnet.adversary --behaviour NAME`: a neuron that misbehaves on purpose.

Takes the flags of the behaviour's role; refuses every chain but one on this machine.
"""

import os
import sys

from template.cli.signals import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()

from localnet.adversaries import BEHAVIOURS
from template.cli.main import parse_command
from template.cli.neuron_flags import miner_config, validator_config
from template.commands.neuron import run_neuron
from template.errors import ConfigError
from template.settings import MinerConfig
from template.store.endpoints import is_local_chain


def main(argv: list[str]) -> int:
    """Run until the run ends; `argv` starts with --behaviour NAME. A neuron's exit status."""
    return run_neuron(
        "misbehaving",
        lambda: _parse(argv),
        lambda context, _config: BEHAVIOURS[argv[1]].build(context),
    )


def _parse(argv: list[str]) -> MinerConfig:
    if len(argv) < 2 or argv[0] != "--behaviour" or argv[1] not in BEHAVIOURS:
        raise ConfigError(f"start with --behaviour and one of {', '.join(sorted(BEHAVIOURS))}")
    role = BEHAVIOURS[argv[1]].role
    args = parse_command(role, argv[2:], prog="python -m localnet.adversary")
    settings = validator_config if role == "validator" else miner_config
    config = settings(args, os.environ)
    if not is_local_chain(config.chain.network):
        raise ConfigError("--subtensor.network: misbehaving is for a chain on this machine")
    return config


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
