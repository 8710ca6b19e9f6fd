"""`python -m template.replay`: the command `tessera replay`."""

import sys

from template.cli.main import run_command


def main(argv: list[str]) -> int:
    """Run the command; the exit status."""
    return run_command("replay", argv, prog="python -m template.replay")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
