"""A payslip as lines of text for a terminal."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Final

from template.public.causes import cause_of
from template.public.statements import Payslip, Statement, ValidatorRow, percent

WIDTH_CHARS: Final = 100
TITLES: Final = {
    "sent": "What was sent",
    "delivered": "Could every validator fetch it?",
    "decided": "Accepted or refused, and why",
    "gain": "Gain",
    "work": "Work test",
    "credit": "Credit",
    "share": "Share of the pay",
    "weights": "Weights on chain",
    "emission": "Emission",
    "more": "What would have been needed for more",
    "vote": "Vote",
    "log": "Verdict log",
}


def payslip_lines(slip: Payslip) -> Iterator[str]:
    """The lines, of at most about `WIDTH_CHARS` characters but for commands and keys."""
    uid = "no uid" if slip.uid is None else f"uid {slip.uid}"
    yield f"Payslip of {slip.hotkey} ({uid}, {slip.role}), window {slip.window}"
    yield ""
    yield from _wrapped(slip.headline)
    for name in slip.causes[1:]:
        yield from _wrapped(f"{name}: {cause_of(name).words}.", "  - ")
    sources = dict.fromkeys(source for each in slip.statements for source in each.sources)
    notes = {source: number for number, source in enumerate(sources, start=1)}
    for statement in slip.statements:
        yield ""
        yield from _statement_lines(statement, notes)
    if slip.validators:
        yield ""
        yield "By validator, most stake first"
        yield from _rows(slip.validators)
    yield ""
    yield "Public objects"
    for source, number in notes.items():
        yield f"  [{number}] {source}"


def _statement_lines(statement: Statement, notes: Mapping[str, int]) -> Iterator[str]:
    yield TITLES.get(statement.topic, statement.topic)
    yield from _wrapped(statement.words, "  ")
    if statement.rule:
        yield from _wrapped(f"Rule: {statement.rule} ({statement.where})", "    ")
    numbers = " ".join(f"[{notes[source]}]" for source in statement.sources)
    if numbers:
        yield from _wrapped(f"From: {numbers}", "    ")
    if statement.command:
        yield f"    Check: {statement.command}"


def _rows(rows: tuple[ValidatorRow, ...]) -> Iterator[str]:
    yield (
        f"  {'uid':>4} {'stake':>7} {'vote':<8} {'log':<10} {'fetched':<8} {'status':<13} "
        f"{'gain +- error':<22} {'share':>8} {'weight':>8}"
    )
    for row in rows:
        gain = "" if row.gain is None else f"{row.gain:+.5f} +- {row.gain_error or 0.0:.5f}"
        fetched = "?" if row.fetched is None else "yes" if row.fetched else "no"
        yield (
            f"  {row.uid:>4} {percent(row.stake_share):>7} {row.vote:<8} {row.log:<10} "
            f"{fetched:<8} {row.status:<13} {gain:<22} {_share(row.logged_share):>8} "
            f"{_share(row.weight):>8}"
        )


def _share(value: float | None) -> str:
    return "?" if value is None else percent(value)


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH_CHARS,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )
