"""A validator: scores payloads on held-out pages, votes on them and sets weights.

`python neurons/validator.py --help` says what it needs.
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
from template.base.validator import Validator
from template.cli.config import parse_validator_config


def main(argv: list[str]) -> int:
    """Run until the run ends; the exit status, see `template.errors.EXIT_STATUSES`."""
    return run_neuron(
        "validator",
        lambda: parse_validator_config(argv, os.environ),
        lambda context, config: Validator(context, sets_weights=config.set_weights),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
