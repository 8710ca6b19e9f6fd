"""A neuron that misbehaves on purpose, for localnets: `--behaviour NAME` and its role's flags.

Refuses any chain that is not on this machine.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from template.cli.signals import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()

from localnet.adversaries import BEHAVIOURS
from neurons.compose import run_neuron
from template.cli.config import parse_miner_config, parse_validator_config
from template.errors import ConfigError
from template.settings import MinerConfig
from template.store.endpoints import is_local_chain


def main(argv: list[str]) -> int:
    """Run until the run ends; `argv` starts with --behaviour NAME. Exit status as a neuron's."""
    return run_neuron(
        "misbehaving",
        lambda: _parse(argv),
        lambda context, _config: BEHAVIOURS[argv[1]].build(context),
    )


def _parse(argv: list[str]) -> MinerConfig:
    if len(argv) < 2 or argv[0] != "--behaviour" or argv[1] not in BEHAVIOURS:
        raise ConfigError(f"start with --behaviour and one of {', '.join(sorted(BEHAVIOURS))}")
    is_validator = BEHAVIOURS[argv[1]].role == "validator"
    parse = parse_validator_config if is_validator else parse_miner_config
    config = parse(argv[2:], os.environ)
    if not is_local_chain(config.chain.network):
        raise ConfigError("--subtensor.network: misbehaving is for a chain on this machine")
    return config


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
