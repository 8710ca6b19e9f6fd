"""Completion scripts for shells, printed by `tessera --print-completion SHELL`."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any, Final

from template.cli.parser import Parser

SHELLS: Final = ("bash", "zsh")
_FILES: Final = ("PATH", "FILE", "LOG")
_FOLDERS: Final = ("DIR", "FOLDER")


class PrintCompletion(argparse.Action):
    """Prints the completion script of the whole parser and exits with status 0."""

    def __call__(self, parser: Any, _namespace: Any, shell: Any, _option: Any = None) -> None:
        # shtab takes 50 ms to load, and no other command needs it.
        import shtab

        for action in _actions(parser):
            if action.metavar in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar in _FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        sys.stdout.write(shtab.complete(parser, shell=shell))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of the parser and of its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def add_completion_flag(parser: Parser) -> None:
    """`--print-completion bash|zsh`."""
    text = "print a completion script for the shell"
    parser.add_argument("--print-completion", action=PrintCompletion, choices=SHELLS, help=text)
