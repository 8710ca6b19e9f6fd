"""`python -m template.cli`: the command `tessera` where no console script is installed."""

from template.cli.main import entry

if __name__ == "__main__":
    entry()
