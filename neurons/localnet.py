"""A whole subnet on this machine: local chain, bucket server, validators and miners.

The command `tessera localnet`, run from a checkout: `python neurons/localnet.py --help`.
"""

import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from template.cli.main import run_command, run_script

PROG = "neurons/localnet.py"


def main(argv: list[str]) -> int:
    """Run the command in this process; the exit status."""
    return run_command("localnet", argv, PROG)


if __name__ == "__main__":
    run_script("localnet", PROG)
