"""The holder of a state folder: a process, none, or unknown because the lock cannot be read."""

import fcntl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from template.base.preflight import LOCK_FILE
from template.commands.status import holder, process_of


def test_a_folder_without_a_lock_file_or_with_a_free_one_has_no_process(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    assert holder(tmp_path / "none") is None
    (tmp_path / LOCK_FILE).write_text("77")
    assert holder(tmp_path) is None


def test_the_process_is_named_by_the_lock(tmp_path: Path) -> None:
    with (tmp_path / LOCK_FILE).open("w") as lock:
        lock.write("77")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert holder(tmp_path) == 77


def test_a_lock_that_cannot_be_read_is_a_warning_that_names_it(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(IsADirectoryError):
        holder(tmp_path)
    config: Any = SimpleNamespace(neuron=SimpleNamespace(state_dir=tmp_path))
    pid, fault = process_of(config)
    assert pid is None
    assert str(tmp_path / LOCK_FILE) in fault
    assert "nobody knows whether the neuron runs" in fault
