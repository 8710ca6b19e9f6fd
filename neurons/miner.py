"""A miner: trains on its assigned pages and publishes compressed pseudo-gradients.

`python neurons/miner.py --help` says what it needs.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from template.cli.signals import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()

from neurons.compose import run_neuron
from template.base.miner import Miner
from template.cli.config import parse_miner_config


def main(argv: list[str]) -> int:
    """Run until the run ends; the exit status, see `template.errors.EXIT_STATUSES`."""
    return run_neuron(
        "miner",
        lambda: parse_miner_config(argv, os.environ),
        lambda context, _config: Miner(context),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
