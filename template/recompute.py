"""`python -m template.recompute`: the command `tessera recompute`."""

import sys

from template.cli.main import run_command


def main(argv: list[str]) -> int:
    """Run the command; the exit status."""
    return run_command("recompute", argv, prog="python -m template.recompute")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
