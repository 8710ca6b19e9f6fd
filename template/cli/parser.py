"""The argument parser of every command: refuses an unknown flag with the remedy, in one sentence.

Owns how flags are checked and how an error reads. The flags themselves are in the modules
`*_flags` of this package.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

from template.cli.terminal import complain
from template.errors import EXIT_OPERATOR

HELP_WIDTH_CHARS: Final = 100
SCRIPTS: Final = "neurons/"

Refusal = Callable[[str], str | None]
"""Maps a flag's name to the reason for refusing the flag, or to None."""


class Parser(argparse.ArgumentParser):
    """Accepts full flag names only; exits with status 2 and one sentence on an error.

    The last value of a repeated flag counts, unless `allow_repeats` is False: then a repeated
    flag is an error, in two spellings too.
    """

    def __init__(
        self,
        *,
        refusal: Refusal = lambda _: None,
        allow_repeats: bool = True,
        width_chars: int = HELP_WIDTH_CHARS,
        **options: Any,
    ) -> None:
        super().__init__(
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
                prog, max_help_position=width_chars // 3, width=width_chars
            ),
            **options,
        )
        self.refusal = refusal
        self.allow_repeats = allow_repeats

    @property
    def command_line(self) -> str:
        """The command as an operator types it."""
        return f"python {self.prog}" if self.prog.startswith(SCRIPTS) else self.prog

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Check the names of all flags first, so that the first message is the useful one."""
        self._check_names(list(args))
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_OPERATOR, f"{self.prog}: {message}; see --help\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        if message:
            complain(message.removesuffix("\n"))
        sys.exit(status)

    def _check_names(self, argv: Sequence[str]) -> None:
        known = sorted(self._option_string_actions)
        names = list(self._own_names(argv))
        given = [self._option_string_actions.get(name) for name in names]
        for name in names:
            reason = self.refusal(name)
            if reason:
                self._refuse(name, reason)
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else "see --help for the flags"
                self._refuse(name, f"no such flag; {hint}")
            if given.count(self._option_string_actions[name]) > 1 and not self.allow_repeats:
                self._refuse(name, "given more than once; only one value can hold")

    def _own_names(self, argv: Sequence[str]) -> Iterator[str]:
        """The flags before a subcommand; the subcommand's parser checks the rest.

        A short flag is a word of its own: `-wallet.name` must not read as `-w allet.name`.
        """
        for token in argv:
            if self._subparsers is not None and not token.startswith("-"):
                return
            if re.match("--|-[A-Za-z]", token):
                yield token.split("=", 1)[0]

    def _refuse(self, name: str, reason: str) -> NoReturn:
        self.exit(EXIT_OPERATOR, f"{self.prog}: {name}: {reason}\n")


def aligned(rows: Mapping[Any, str]) -> str:
    """Rows of a help text: key, two spaces, text."""
    width = max(len(str(key)) for key in rows)
    return "\n".join(f"  {key!s:<{width}}  {text}" for key, text in rows.items())
