"""Logging of a neuron: one line per event, with role, hotkey and window, and nothing forged."""

import asyncio
import logging
import re
import resource
from pathlib import Path

import pytest

from template.cli.log import setup_logging, setup_warnings
from template.cli.process_state import restored_logging
from template.errors import ConfigError
from template.log_context import window_context

HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


@pytest.fixture(autouse=True)
def _logging_as_before():
    """Restore the logging of the process after each test."""
    with restored_logging():
        yield


def lines(directory: Path) -> list[str]:
    return (directory / "miner.log").read_text().splitlines()


def test_a_line_says_when_who_and_which_window(tmp_path, capsys):
    setup_logging("info", tmp_path / "logs", role="miner", hotkey=HOTKEY)
    log = logging.getLogger("template.base.miner")
    log.info("before")
    with window_context(12):
        log.warning("inside %d", 3)
        with window_context(13):
            log.info("deeper")
        log.info("back")
    log.info("after")
    found = lines(tmp_path / "logs")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    miner 5GrwvaEF w- template.base.miner:"
        r" before",
        found[0],
    )
    assert "WARNING miner 5GrwvaEF w12 template.base.miner: inside 3" in found[1]
    assert [line.split()[4] for line in found] == ["w-", "w12", "w13", "w12", "w-"]
    assert capsys.readouterr().err.splitlines() == found


def test_window_follows_asyncio_into_tasks_and_threads(tmp_path):
    setup_logging("info", tmp_path, role="miner", hotkey=HOTKEY)
    log = logging.getLogger("template")

    async def one(window: int) -> None:
        with window_context(window):
            await asyncio.sleep(0)
            log.info("task %d", window)
            await asyncio.to_thread(log.info, "thread %d", window)

    async def both() -> None:
        await asyncio.gather(one(1), one(2))

    asyncio.run(both())
    for line in lines(tmp_path):
        assert f" w{line[-1]} " in line
    assert len(lines(tmp_path)) == 4


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("info", ["ours info"]),
        ("debug", ["ours debug", "ours info"]),
        ("trace", ["ours debug", "ours info", "chain debug"]),
    ],
)
def test_levels(tmp_path, level, shown):
    setup_logging("trace", None, role="miner", hotkey=HOTKEY)
    setup_logging(level, tmp_path, role="miner", hotkey=HOTKEY)
    logging.getLogger("template.x").debug("ours debug")
    logging.getLogger("evaluation.x").info("ours info")
    logging.getLogger("bittensor.x").debug("chain debug")
    logging.getLogger("botocore.auth").debug("signed request")
    logging.getLogger("bittensor.transport.raw_websocket").debug("a frame with a read key")
    logging.getLogger("urllib3").info("connection")
    assert [line.split(": ", 1)[1] for line in lines(tmp_path)] == shown


def test_a_strangers_text_cannot_forge_a_line(tmp_path):
    setup_logging("info", tmp_path, role="miner", hotkey=HOTKEY)
    logging.getLogger("template").info("peer says %s", "x\n2026-01-01 INFO forged\r\x1b[2J\u2028y")
    (line,) = lines(tmp_path)
    assert line.endswith("peer says x<U+000A>2026-01-01 INFO forged<U+000D><U+001B>[2J<U+2028>y")


def test_a_traceback_keeps_its_lines(tmp_path):
    setup_logging("info", tmp_path, role="miner", hotkey=HOTKEY)
    try:
        raise ValueError("cause")
    except ValueError:
        logging.getLogger("template").exception("window failed")
    found = lines(tmp_path)
    assert "window failed" in found[0]
    assert found[1].startswith("| Traceback")
    assert found[-1] == "| ValueError: cause"


def test_setting_up_twice_logs_once(tmp_path):
    for _ in range(2):
        setup_logging("info", tmp_path, role="miner", hotkey=HOTKEY)
    logging.getLogger("template").info("once")
    assert len(lines(tmp_path)) == 1


def test_a_full_disk_is_said_once_and_the_other_log_goes_on(tmp_path, capsys):
    """Planted as a limit on the size of files, which the kernel refuses like a full disk."""
    setup_logging("info", tmp_path, role="miner", hotkey=HOTKEY)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        for number in range(9):
            logging.getLogger("template").info("line %d", number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert said.count("--logging.logging_dir") == 1
    assert "free the disk" in said
    assert "Traceback" not in said
    assert all(f"line {number}" in said for number in range(9))


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--logging\.logging_dir"):
        setup_logging("info", tmp_path / "file", role="miner", hotkey=HOTKEY)


def test_a_traceback_shows_a_strangers_text_escaped(tmp_path, capsys):
    setup_logging("info", tmp_path / "logs", role="miner", hotkey=HOTKEY)
    try:
        raise ValueError("\x1b[2Jgone\r\x85")
    except ValueError:
        logging.getLogger("template.base.miner").exception("a fault")
    said = capsys.readouterr().err
    assert "<U+001B>[2Jgone<U+000D><U+0085>" in said
    assert said.replace("\n", "").isprintable()
    assert "Traceback" in lines(tmp_path / "logs")[1]


def test_bytes_of_a_buckets_answer_are_not_logged(tmp_path, capsys):
    """urllib3 quotes what it cannot parse, with a traceback for each answer."""
    setup_logging("trace", None, role="validator", hotkey=HOTKEY)
    logging.getLogger("urllib3.connection").warning("Failed to parse headers: %r", b"secret")
    assert capsys.readouterr().err == ""


def test_a_connection_closed_for_want_of_room_is_no_warning(capsys):
    with restored_logging():
        setup_warnings()
        logging.getLogger("urllib3.connectionpool").warning("Connection pool is full")
    assert capsys.readouterr().err == ""
