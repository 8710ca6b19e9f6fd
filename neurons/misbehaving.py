"""A miner that misbehaves on purpose, for localnets: `--behaviour NAME` and a miner's flags.

Refuses any chain that is not on this machine.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from neurons.compose import run_neuron
from template.config import parse_miner_config
from template.errors import ConfigError
from template.localnet.behaviours import BEHAVIOURS
from template.store.endpoints import is_loopback


def main(argv: list[str]) -> int:
    """Run until the run ends; `argv` starts with --behaviour NAME."""
    try:
        if len(argv) < 2 or argv[0] != "--behaviour" or argv[1] not in BEHAVIOURS:
            raise ConfigError(f"start with --behaviour and one of {', '.join(sorted(BEHAVIOURS))}")
        config = parse_miner_config(argv[2:], os.environ)
        if not is_loopback(config.chain.network):
            raise ConfigError("--subtensor.network: misbehaving is for a chain on this machine")
    except ConfigError as error:
        sys.stderr.write(f"misbehaving: {error}\n")
        return 2
    return run_neuron("miner", config, BEHAVIOURS[argv[1]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
