"""The subnet owner's commands: publish a run, check a run, tell of a newer version.

The command `tessera owner`, run from a checkout: `python neurons/owner.py --help`.
"""

import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from template.cli.main import run_command, run_script

PROG = "neurons/owner.py"


def main(argv: list[str]) -> int:
    """Run the command in this process; the exit status."""
    return run_command("owner", argv, PROG)


if __name__ == "__main__":
    run_script("owner", PROG)
