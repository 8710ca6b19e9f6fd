"""A validator's verdict logs on disk: no more than needed, whole after a kill, read little."""

import io
import logging
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.verdict_log import decode_log, encode_log, split_logs
from template.audit.logs import read_files
from template.base.log_publisher import (
    LOG_FILE,
    OLDER_LOG_FILE,
    LogFile,
    public_from,
    windows_kept,
    windows_secret,
)
from template.errors import ConfigError, StateError
from template.protocol.run import Run
from template.protocol.spec import RunSpec, parse_spec
from template.scoring.rules import verdict_log_limit_bytes
from tests.support.logs import made_up_log
from tests.support.scoring import SPEC_FILE
from tests.support.successions import successor


def _spec() -> RunSpec:
    spec = parse_spec(SPEC_FILE.read_text(encoding="ascii"))
    return replace(
        spec,
        evaluation=replace(
            spec.evaluation, work_windows=2, held_out_pages=4, claimed_pages=4, max_payloads=1
        ),
        weights=replace(spec.weights, history_windows=2, min_windows=2, duel_share=0.0),
        checkpoint=replace(spec.checkpoint, every_windows=1),
    )


SPEC = _spec()
DUELS = replace(
    SPEC,
    weights=replace(SPEC.weights, duel_share=0.25),
    schedule=replace(SPEC.schedule, tempo_blocks=2 * SPEC.schedule.blocks_per_window),
)
"""Pay periods of two windows."""
KEPT = windows_kept(SPEC)


def _data(window: int) -> bytes:
    return encode_log(made_up_log(window)).encode()


def _windows(folder: Path) -> list[int]:
    """The windows on disk, oldest first; every log whole."""
    texts = [
        text
        for name in (OLDER_LOG_FILE, LOG_FILE)
        if (folder / name).exists()
        for text in split_logs((folder / name).read_text().splitlines(keepends=True))
    ]
    return [decode_log(text).window for text in texts]


def _opened(folder: Path) -> LogFile:
    file = LogFile(folder, Run(SPEC))
    file.recover()
    return file


@pytest.mark.parametrize("restart_every", [1, 3, 1000])
def test_the_windows_needed_stay_and_the_files_stop_growing(
    tmp_path: Path, restart_every: int
) -> None:
    file = _opened(tmp_path)
    for window in range(5 * KEPT):
        if window % restart_every == 0:
            file = _opened(tmp_path)
        file.append(window, _data(window))
        on_disk = _windows(tmp_path)
        assert on_disk == list(range(on_disk[0], window + 1))
        assert min(window + 1, KEPT) <= len(on_disk) <= 2 * KEPT


def test_a_kill_at_any_byte_loses_no_whole_log(tmp_path: Path) -> None:
    before, torn = [_data(w) for w in (3, 4)], _data(5)
    path = tmp_path / LOG_FILE
    for num_bytes in (*range(0, len(torn), 37), len(torn) - 1, len(torn)):
        path.write_bytes(b"".join(before) + torn[:num_bytes])
        file = LogFile(tmp_path, Run(SPEC))
        is_whole = num_bytes == len(torn)
        assert file.recover() == ({5: torn} if is_whole else {4: before[-1]})
        file.append(6, _data(6))
        assert _windows(tmp_path) == [3, 4, *([5] if is_whole else []), 6]


def test_a_kill_in_the_first_log_leaves_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_bytes(_data(0)[:-9])
    file = LogFile(tmp_path, Run(SPEC))
    assert file.recover() == {}
    file.append(1, _data(1))
    assert _windows(tmp_path) == [1]


def test_a_kill_after_the_rename_finds_the_newest_log_in_the_older_file(tmp_path: Path) -> None:
    file = _opened(tmp_path)
    for window in range(KEPT):
        file.append(window, _data(window))
    (tmp_path / LOG_FILE).rename(tmp_path / OLDER_LOG_FILE)
    file = LogFile(tmp_path, Run(SPEC))
    assert file.recover() == {KEPT - 1: _data(KEPT - 1)}
    file.append(KEPT, _data(KEPT))
    assert _windows(tmp_path) == list(range(KEPT + 1))


def test_no_file_is_no_log(tmp_path: Path) -> None:
    assert LogFile(tmp_path, Run(SPEC)).recover() == {}


@pytest.mark.parametrize("content", [b"\xff" * 100, b"no log\n", b"[" * 10_000, b"\n"])
def test_an_unreadable_file_is_told_and_begun_anew(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / LOG_FILE).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        file = LogFile(tmp_path, Run(SPEC))
        assert file.recover() == {}
    assert "cut off" in caplog.text
    file.append(1, _data(1))
    assert _windows(tmp_path) == [1]


def test_an_unreadable_last_log_is_told_and_stays_unpublished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / LOG_FILE).write_bytes(_data(0) + _data(1).replace(b'"uid": 254', b'"uid": -54'))
    with caplog.at_level(logging.WARNING):
        assert LogFile(tmp_path, Run(SPEC)).recover() == {}
    assert "unreadable and stays unpublished" in caplog.text


class _CountingFile(io.FileIO):
    num_bytes = 0

    def readinto(self, buffer):  # the buffered reader's only way to read
        count = super().readinto(buffer)
        type(self).num_bytes += count
        return count

    def readall(self) -> bytes:
        data = super().readall()
        type(self).num_bytes += len(data)
        return data


def test_the_start_reads_no_more_of_a_long_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def counting(path: Path, mode: str = "r", *args, **kwargs):
        if mode == "rb":
            return io.BufferedReader(_CountingFile(path))
        return opened(path, mode, *args, **kwargs)

    read = []
    limit = verdict_log_limit_bytes(SPEC)
    many = 12 * limit // len(_data(0))
    for count in (many // 2, many):
        (tmp_path / LOG_FILE).write_bytes(b"".join(_data(w % 50) for w in range(count)))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", counting)
            _CountingFile.num_bytes = 0
            LogFile(tmp_path, Run(SPEC)).recover()
        read.append(_CountingFile.num_bytes)
    assert 0 < read[1] <= 2 * limit + 2 * io.DEFAULT_BUFFER_SIZE
    assert abs(read[1] - read[0]) <= 2 * io.DEFAULT_BUFFER_SIZE


@pytest.mark.parametrize("split", range(6))
def test_a_restart_finds_every_log_that_is_not_public_yet(tmp_path: Path, split: int) -> None:
    """Whether they lie in one file or in two."""
    assert windows_secret(DUELS) == 4
    logs = {window: _data(window) for window in range(6)}
    (tmp_path / OLDER_LOG_FILE).write_bytes(b"".join(logs[w] for w in range(split)))
    (tmp_path / LOG_FILE).write_bytes(b"".join(logs[w] for w in range(split, 6)))
    assert LogFile(tmp_path, Run(DUELS)).recover() == {w: logs[w] for w in range(2, 6)}


def test_a_log_is_public_once_the_weights_of_the_next_period_are_set() -> None:
    pay_windows = {w for w in range(100) if DUELS.schedule.pay_window(w) == w}
    last = DUELS.schedule.num_windows - 1
    for window in range(min(last, 40)):
        public = public_from(Run(DUELS), window)
        assert public in pay_windows | {last}
        # Two pay windows later than the log's window: its own, and the next.
        assert public == last or len([w for w in pay_windows if window <= w <= public]) == 2
        assert public - window < windows_secret(DUELS)
        assert public_from(Run(SPEC), window) == window
    assert public_from(Run(DUELS), last) == last


def test_a_succession_moves_the_window_from_which_a_log_is_public() -> None:
    """To one that is voted on: the run may end sooner, or go on after a first end."""
    end = DUELS.schedule.num_windows
    shorter = Run(DUELS, successor(DUELS, 8, schedule__num_windows=9))
    assert [public_from(Run(DUELS), w) for w in (5, 6, 7)] == [7, 9, 9]
    assert [public_from(shorter, w) for w in (5, 6, 7, 8)] == [7, 8, 8, 8]
    longer = Run(DUELS, successor(DUELS, end, schedule__num_windows=end + 9))
    assert public_from(Run(DUELS), end - 1) == end - 1
    assert public_from(longer, end - 1) > end - 1, "no period ends the run there any more"
    tempo = 4 * DUELS.schedule.blocks_per_window
    slower = Run(DUELS, successor(DUELS, 8, schedule__tempo_blocks=tempo))
    assert [public_from(slower, w) for w in (5, 6, 7, 8)] == [7, 11, 11, 15]


def test_a_disk_that_refuses_is_a_state_error(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).mkdir()
    with pytest.raises(StateError, match=r"verdicts\.jsonl cannot be written"):
        LogFile(tmp_path, Run(SPEC)).append(0, b"")


def test_a_disk_full_in_mid_log_leaves_whole_logs_and_the_next_is_glued_to_nothing(
    tmp_path: Path,
) -> None:
    """In one process, without a restart between; the kernel refuses as a full disk does."""
    file = _opened(tmp_path)
    file.append(3, _data(3))
    path = tmp_path / LOG_FILE
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
    try:
        with pytest.raises(StateError, match="free the disk"):
            file.append(4, _data(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == _data(3)
    file.append(5, _data(5))
    assert list(read_files([path])) == [3, 5]


def test_a_half_line_that_nobody_could_cut_is_cut_before_the_next_log(tmp_path: Path) -> None:
    file = _opened(tmp_path)
    file.append(3, _data(3))
    with (tmp_path / LOG_FILE).open("ab") as other:
        other.write(_data(4)[:1000])
    file.append(5, _data(5))
    assert (tmp_path / LOG_FILE).read_bytes().endswith(b"\n" + _data(5))


def test_a_reader_names_the_lines_of_a_half_log(tmp_path: Path) -> None:
    path, whole = tmp_path / LOG_FILE, _data(3)
    path.write_bytes(whole + _data(4)[:100] + _data(5))
    line = whole.count(b"\n") + 1
    with pytest.raises(ConfigError, match=rf"verdicts\.jsonl: the log that starts at line {line}:"):
        read_files([path])
