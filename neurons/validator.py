"""A validator: scores payloads, votes on chain and sets weights.

The command `tessera validator`, run from a checkout: `python neurons/validator.py --help`.
"""

import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from template.cli.main import run_command, run_script

PROG = "neurons/validator.py"


def main(argv: list[str]) -> int:
    """Run the command in this process; the exit status."""
    return run_command("validator", argv, PROG)


if __name__ == "__main__":
    run_script("validator", PROG)
