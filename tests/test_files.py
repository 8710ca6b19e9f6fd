"""What is said of a failed file, by the system's number; lines go to disk whole or not at all."""

import errno
import os
import resource
from pathlib import Path

import pytest

from template.errors import EXIT_OPERATOR, EXIT_TRY_AGAIN, disk_trouble, exit_status, unreadable
from template.files import append_whole


@pytest.mark.parametrize(
    ("number", "words", "status"),
    [
        (errno.ENOSPC, "free the disk", EXIT_TRY_AGAIN),
        (errno.EDQUOT, "free the disk", EXIT_TRY_AGAIN),
        (errno.EFBIG, "free the disk", EXIT_TRY_AGAIN),
        (errno.EIO, "dmesg", EXIT_TRY_AGAIN),
        (errno.EMFILE, "ulimit -n", EXIT_TRY_AGAIN),
        (errno.EACCES, "belongs to uid", EXIT_OPERATOR),
        (errno.EPERM, "belongs to uid", EXIT_OPERATOR),
        (errno.EROFS, "mount it for writing", EXIT_OPERATOR),
        (errno.EISDIR, "remove the folder", EXIT_OPERATOR),
        (errno.ENOTDIR, "move it away", EXIT_OPERATOR),
        (errno.EEXIST, "move it away", EXIT_OPERATOR),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["OSError", "text of safetensors"])
def test_each_error_has_its_remedy_and_status(
    number: int, words: str, status: int, wrapped: bool, tmp_path: Path
) -> None:
    text = f"I/O error: {os.strerror(number)} (os error {number})"
    error = RuntimeError(text) if wrapped else OSError(number, os.strerror(number))
    for trouble in (disk_trouble(tmp_path, error), unreadable(tmp_path, error)):
        assert words in str(trouble)
        assert "--neuron.state_dir" in str(trouble)
        assert exit_status(trouble) == status
        assert ("free the disk" in str(trouble)) is ("free the disk" in words)


def test_the_file_that_the_system_names_is_the_one_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").mkdir()
    for act in (
        lambda: (tmp_path / "a").replace(tmp_path / "b"),
        lambda: (tmp_path / "b").read_bytes(),
    ):
        with pytest.raises(IsADirectoryError) as caught:
            act()
        assert f"{tmp_path}/b is a folder" in str(disk_trouble(tmp_path, caught.value))


def test_lines_are_whole_after_a_disk_that_was_full_and_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_whole(path, b"one\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            append_whole(path, b"two\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"one\n"
    path.write_bytes(b"one\n" + b"x" * 10_000)
    append_whole(path, b"three\n")
    assert path.read_bytes() == b"one\nthree\n"
    path.write_bytes(b"y" * 9_000)
    append_whole(path, b"four\n")
    assert path.read_bytes() == b"four\n"
