"""Strangers' text on the terminal and in the log: shown, never obeyed, never forged, bounded."""

import ast
import io
import json
import logging
import re
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from template.cli import terminal
from template.cli.log import setup_logging
from template.cli.parser import Parser
from template.cli.process_state import restored_logging
from template.cli.terminal import (
    CONTINUED,
    MAX_LINE_CHARS,
    LineFormatter,
    complain,
    escaped_faults,
    one_line,
    say,
    say_json,
)

ROOT = Path(__file__).parents[2]
OWN_WORDS = (
    "localnet/flags.py", "localnet/bucket_server.py", "localnet/chain/__main__.py",
    "localnet/measure.py",
)  # fmt: skip
"""A listing, and two servers and a measurement of a localnet, whose lines a program reads."""
EVIL = "".join(
    map(
        chr,
        [
            *range(0x20),
            *range(0x7F, 0xA0),
            *range(0x200B, 0x2010),
            *range(0x2028, 0x202F),
            *range(0x2060, 0x2070),
            0xFEFF,
            0xD800,
            0xDFFF,
            0x3164,
            0xFE0F,
            0xE0001,
            0xFFFE,
        ],
    )
)
"""C0, DEL, C1, zero widths, line separators, bidi overrides and isolates, surrogates, fillers."""
ANY_TEXT = st.text(
    st.one_of(st.characters(), st.sampled_from(EVIL), st.sampled_from("<U+0123456789ABCDEF>\\x")),
    max_size=60,
)


def is_harmless(line: str) -> bool:
    return line.isprintable() and not set(line) & set(EVIL)


def decoded(shown: str) -> str:
    """The argument of `one_line` behind its result, for a text within the limit."""
    return re.sub(r"<U\+([0-9A-F]{4,6})>", lambda found: chr(int(found[1], 16)), shown)


@given(ANY_TEXT)
def test_any_text_is_one_harmless_line_from_which_the_text_can_be_told(text: str) -> None:
    line = one_line(text)
    assert is_harmless(line)
    assert decoded(line) == text, "so no two texts look the same"


@given(ANY_TEXT, ANY_TEXT, st.integers(1, 80))
def test_a_long_text_is_cut_and_stays_different(text: str, other: str, limit: int) -> None:
    line = one_line(text, limit)
    assert is_harmless(line)
    assert len(line) <= 10 * limit + 60
    assert (line == one_line(other, limit)) == (text == other)


def test_each_evil_character_is_escaped_and_letters_stay() -> None:
    for char in EVIL:
        assert one_line(f"a{char}b") == f"a<U+{ord(char):04X}>b"
    for text in ("plain", "M\u00fcller \u4e2d\u6587 \u20ac", r"C:\x1b \\", "<b>[red]", "<U-1>"):
        assert one_line(text) == text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@given(text=ANY_TEXT)
def test_what_is_said_is_a_line_in_every_encoding(encoding: str, text: str) -> None:
    for write, name in ((say, "stdout"), (complain, "stderr")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, name, stream)
            write(text)
        written = stream.buffer.getvalue().decode(encoding)
        assert written.count("\n") == 1
        assert is_harmless(written.removesuffix("\n"))


@given(ANY_TEXT)
def test_json_is_printable_and_whole(text: str) -> None:
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        say_json({"wrong": {text: [text * 200]}})
    line = stream.getvalue()
    assert is_harmless(line.removesuffix("\n"))
    assert json.loads(line) == {"wrong": {text: [text * 200]}}


@given(ANY_TEXT)
def test_a_log_record_is_one_line_and_a_traceback_none(text: str) -> None:
    formatter = LineFormatter("%(levelname)s %(message)s")
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "peer says %s", (text,), None)
    assert formatter.format(record) == f"INFO peer says {one_line(text)}"
    try:
        raise ValueError(text)
    except ValueError:
        record.exc_info = sys.exc_info()
    record.exc_text = f"what another handler left\n{text}"
    record.stack_info = f"Stack\n{text}"
    first, *rest = formatter.format(record).split("\n")
    assert first.startswith("INFO")
    assert all(line.startswith(CONTINUED) and is_harmless(line) for line in rest)


def test_an_error_of_many_lines_forges_no_record_and_is_bounded(tmp_path: Path) -> None:
    forged = "2026-01-01T00:00:00.000Z INFO    miner 5Grwvaef w1 template.base.miner: all is well"
    with restored_logging():
        setup_logging("info", tmp_path, role="miner", hotkey="5GrwvaEF")
        try:
            raise ValueError(f"x\n{forged}\n" + "y\n" * 10**5 + "z" * 10**6)
        except ValueError:
            logging.getLogger("template").exception("a fault")
    text = (tmp_path / "miner.log").read_text()
    starts = [line for line in text.splitlines() if not line.startswith(CONTINUED)]
    assert len(starts) == 1
    assert starts[0].endswith("template: a fault")
    assert len(text.splitlines()) <= terminal.MAX_TRACEBACK_LINES + 2
    assert len(text) < 4 * MAX_LINE_CHARS


def test_uncaught_errors_and_libraries_without_a_log_are_escaped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hooks = sys.excepthook, threading.excepthook, logging.lastResort
    evil = ValueError("\x1b[2Jgone\r\nroot: forged\u202e")
    with restored_logging(), escaped_faults():
        root = logging.getLogger()
        root.handlers.clear()
        logging.getLogger("of.a.library").warning("%s", evil)
        sys.excepthook(ValueError, evil, None)

        def fail() -> None:
            raise evil

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("WARNING: <U+001B>[2Jgone<U+000D><U+000A>root: forged")
    assert all(map(is_harmless, said))
    assert all(line.startswith(CONTINUED) for line in said[1:])
    assert sum("<U+001B>[2Jgone<U+000D>" in line for line in said) == 3
    assert hooks == (sys.excepthook, threading.excepthook, logging.lastResort)


def test_a_wrong_flag_is_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        Parser(prog="tessera").parse_args(["--\x1b[2J\n"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert is_harmless(said.removesuffix("\n"))


def test_no_command_writes_past_the_door() -> None:
    """A caller that cannot print cannot forget to escape."""
    doors = {"template/cli/terminal.py", "template/cli/completion.py", *OWN_WORDS}
    past = []
    for folder in ("template", "evaluation", "compression", "neurons", "localnet"):
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            calls = [
                n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)
            ]
            spelled = {ast.unparse(func) for func in calls}
            found = spelled & {"print", "sys.stdout.write", "sys.stderr.write"}
            if found and name not in doors:
                past.append((name, found))
    assert past == []
