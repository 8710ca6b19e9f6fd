"""A validator: scores payloads on held-out pages, votes on them and sets weights.

`python neurons/validator.py --help` says what it needs.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from neurons.compose import run_neuron
from template.base.validator import Validator
from template.config import parse_validator_config
from template.errors import ConfigError


def main(argv: list[str]) -> int:
    """Run until the run ends; 0 then, 1 for an error, 2 for a wrong flag or variable."""
    try:
        config = parse_validator_config(argv, os.environ)
    except ConfigError as error:
        sys.stderr.write(f"validator: {error}\n")
        return 2
    return run_neuron(
        "validator",
        config,
        lambda context: Validator(context, sets_weights=config.set_weights),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
