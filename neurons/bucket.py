"""The bucket of a hotkey: print the bucket's name, or test the bucket.

The command `tessera bucket`, run from a checkout: `python neurons/bucket.py --help`.
"""

import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from template.cli.main import run_command, run_script

PROG = "neurons/bucket.py"


def main(argv: list[str]) -> int:
    """Run the command in this process; the exit status."""
    return run_command("bucket", argv, PROG)


if __name__ == "__main__":
    run_script("bucket", PROG)
