"""A miner: trains on its assigned pages and publishes compressed pseudo-gradients.

`python neurons/miner.py --help` says what it needs.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from neurons.compose import run_neuron
from template.base.miner import Miner
from template.config import parse_miner_config
from template.errors import ConfigError


def main(argv: list[str]) -> int:
    """Run until the run ends; 0 then, 1 for an error, 2 for a wrong flag or variable."""
    try:
        config = parse_miner_config(argv, os.environ)
    except ConfigError as error:
        sys.stderr.write(f"miner: {error}\n")
        return 2
    return run_neuron("miner", config, Miner)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
