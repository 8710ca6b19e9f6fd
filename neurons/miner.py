"""A miner: trains on assigned pages and publishes pseudo-gradients.

The command `tessera miner`, run from a checkout: `python neurons/miner.py --help`.
"""

import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from template.cli.main import run_command, run_script

PROG = "neurons/miner.py"


def main(argv: list[str]) -> int:
    """Run the command in this process; the exit status."""
    return run_command("miner", argv, PROG)


if __name__ == "__main__":
    run_script("miner", PROG)
