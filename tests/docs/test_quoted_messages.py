"""The guides quote messages of the program: each quoted message is one that the program can say."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
GUIDES = sorted((PROJECT / "docs").glob("running_on_*.md"))
WORDS_OF_OTHERS = frozenset({"No space left"})
"""Said by the operating system."""


@cache
def said_by_the_program() -> str:
    """Every string of the packages, f-strings in their constant parts."""
    found = set()
    for package in ("template", "localnet", "evaluation", "compression"):
        for path in (PROJECT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return "\n".join(sorted(found))


def quoted_messages(guide: str) -> list[str]:
    """The messages in the first column of a guide, cut where the guide leaves words out."""
    rows = re.findall(r"^\| (`.*?) \|", guide, re.MULTILINE)
    pieces = [
        piece.strip()
        for row in rows
        for quote in re.findall(r"`([^`]+)`", row)
        for piece in quote.split("...")
    ]
    return [piece for piece in pieces if piece]


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_every_message_quoted_in_a_guide_is_said_by_the_program(path: Path) -> None:
    said = said_by_the_program()
    quotes = quoted_messages(path.read_text(encoding="utf-8"))
    assert [q for q in quotes if q not in said and q not in WORDS_OF_OTHERS] == []


def test_the_guides_quote_messages() -> None:
    assert sum(len(quoted_messages(path.read_text(encoding="utf-8"))) for path in GUIDES) >= 10
