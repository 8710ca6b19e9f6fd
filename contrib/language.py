"""Counts how the code speaks: pronouns, headless sentences and comments, per package and file.

    python contrib/language.py [--files] [--check] [FOLDER ...]

Reads the docstrings (attribute docstrings too) and the comments of every Python file below the
folders. `--files` adds a line for each file, `--check` exits with status 1 if an aim is missed.
The aims, and what each figure means, stand in docs/language.md.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

PRONOUNS = frozenset(
    ["it", "its", "them", "they", "those", "these", "that", "who", "what", "which", "one", "other"]
)
NEGATIONS = re.compile(r"\b([Nn]obody|none|[Nn]othing|is no)\b")
"""Not `None`, the value."""
HEADLESS = re.compile(r"(?:^|[.!?:]\s+)(What|Who|Whoever|Those|Where|Of)\b")
WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
CHECKED = ("template", "compression", "evaluation")
MAX_PRONOUNS = 35.0
MAX_HEADLESS = 0.5
MIN_COMMENTS_PERCENT = 4.0
COMMENTED = (
    "compression/kernels.py",
    "evaluation/work.py",
    "template/training/outer.py",
    "template/protocol/quorum.py",
    "template/sync/ledger.py",
)
"""Files whose lines need a reason more than others: tricks of bits, orders, tolerances."""


@dataclass(slots=True)
class Count:
    """Sums over some files."""

    words: int = 0
    pronouns: int = 0
    headless: int = 0
    negations: int = 0
    code_lines: int = 0
    comments: int = 0
    functions: int = 0
    one_word_functions: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Count)))

    @property
    def pronouns_per_1000(self) -> float:
        return 1000 * self.pronouns / max(1, self.words)

    @property
    def headless_per_1000(self) -> float:
        return 1000 * self.headless / max(1, self.words)

    @property
    def negations_per_1000(self) -> float:
        return 1000 * self.negations / max(1, self.words)

    @property
    def comments_percent(self) -> float:
        return 100 * self.comments / max(1, self.code_lines)

    @property
    def one_word_percent(self) -> float:
        return 100 * self.one_word_functions / max(1, self.functions)


def count_file(source: str) -> Count:
    """The figures of one file."""
    tree = ast.parse(source)
    count = Count()
    doc_lines: set[int] = set()
    for node in docstrings(tree):
        assert node.end_lineno is not None
        doc_lines.update(range(node.lineno, node.end_lineno + 1))
        text = " ".join(str(node.value).split())
        words = [word.lower() for word in WORD.findall(text)]
        count.words += len(words)
        count.pronouns += sum(word in PRONOUNS for word in words)
        count.headless += len(HEADLESS.findall(text))
        count.negations += len(NEGATIONS.findall(text))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_dunder(node.name):
            count.functions += 1
            count.one_word_functions += "_" not in node.name.strip("_")
    count.code_lines, count.comments = count_lines(source, doc_lines)
    return count


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Every string that stands as a statement: docstrings, and those of attributes."""
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        for statement in body if isinstance(body, list) else []:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value


def is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def count_lines(source: str, doc_lines: set[int]) -> tuple[int, int]:
    """Lines of code, and comments that a person reads (no directive of a tool)."""
    code: set[int] = set()
    comments = 0
    skipped = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments += re.match(r"#\s*(noqa|type:|fmt:|pragma|!)", token.string) is None
        elif token.type not in skipped:
            code.update(set(range(token.start[0], token.end[0] + 1)) - doc_lines)
    return len(code), comments


def table(rows: Sequence[tuple[str, Count]]) -> str:
    """One line per row, for people."""
    width = max(len(name) for name, _ in rows)
    head = f"{'':<{width}}  words  pronouns  headless  negations  comments %  one-word names %"
    lines = [
        f"{name:<{width}}  {c.words:5d}  {c.pronouns_per_1000:8.1f}  {c.headless_per_1000:8.1f}  "
        f"{c.negations_per_1000:9.1f}  {c.comments_percent:10.1f}  {c.one_word_percent:16.0f}"
        for name, c in rows
    ]
    return "\n".join([head, *lines])


def missed_aims(packages: dict[str, Count], files: dict[str, Count]) -> list[str]:
    """A sentence for each aim that a package or a file misses."""
    missed = []
    for name in CHECKED:
        if (count := packages.get(name)) is None:
            continue
        if count.pronouns_per_1000 > MAX_PRONOUNS:
            missed.append(f"{name}: {count.pronouns_per_1000:.1f} pronouns, aim {MAX_PRONOUNS}")
        if count.headless_per_1000 > MAX_HEADLESS:
            missed.append(f"{name}: {count.headless_per_1000:.2f} headless, aim {MAX_HEADLESS}")
    for name in COMMENTED:
        if (count := files.get(name)) and count.comments_percent < MIN_COMMENTS_PERCENT:
            percent = count.comments_percent
            missed.append(f"{name}: {percent:.1f} % comments, aim {MIN_COMMENTS_PERCENT}")
    return missed


def main(argv: Sequence[str]) -> int:
    """0, or 1 if `--check` finds an aim missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", default=[*CHECKED, "localnet"], metavar="FOLDER")
    parser.add_argument("--files", action="store_true", help="a line for each file")
    parser.add_argument("--check", action="store_true", help="status 1 if an aim is missed")
    arguments = parser.parse_args(argv)
    packages: dict[str, Count] = {}
    files: dict[str, Count] = {}
    for folder in arguments.folders:
        paths = [Path(folder)] if folder.endswith(".py") else sorted(Path(folder).rglob("*.py"))
        for path in paths:
            files[path.as_posix()] = count_file(path.read_text(encoding="utf-8"))
            packages[folder] = packages.get(folder, Count()) + files[path.as_posix()]
    rows = [*packages.items(), *(files.items() if arguments.files else ())]
    sys.stdout.write(table(rows) + "\n")
    missed = missed_aims(packages, files) if arguments.check else []
    for sentence in missed:
        sys.stdout.write(f"aim missed: {sentence}\n")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
