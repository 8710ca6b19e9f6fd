"""The compiled loops on disk: kept, damaged, and nowhere to be kept."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from compression import KernelCacheError, jit, load_kernels

ROOT = Path(__file__).resolve().parents[2]
LOAD = "from compression import load_kernels; load_kernels(); print('loaded')"


def load(folder: Path, code: str = LOAD, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder), **variables},
        check=False,
    )


@pytest.mark.slow
def test_what_is_kept_is_used_again_and_what_is_damaged_is_named(tmp_path: Path) -> None:
    assert load(tmp_path).stdout == "loaded\n"
    kept = sorted(tmp_path.rglob("*.nbi"))
    assert len(kept) >= 6
    before = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.nb?"))]
    assert load(tmp_path).stdout == "loaded\n"
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.nb?"))] == before
    for path in kept:
        path.write_bytes(b"")
    damaged = load(tmp_path)
    assert damaged.returncode == 1
    assert "KernelCacheError: the compiled codec" in damaged.stderr
    assert "NUMBA_CACHE_DIR" in damaged.stderr


@pytest.mark.slow
def test_where_nothing_can_be_kept_it_is_compiled_anew(tmp_path: Path) -> None:
    """And each start says so once: it costs the CPU of a window."""
    (tmp_path / "file").touch()
    code = "from template.base.preflight import load_codec; load_codec(); print('loaded')"
    done = load(tmp_path / "file", code, NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator")
    assert done.stdout == "loaded\n"
    assert done.stderr.count("each start compiles it anew") == 1
    assert "set NUMBA_CACHE_DIR" in done.stderr


@pytest.fixture
def no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has compiled nothing yet."""
    monkeypatch.setattr(jit, "_own_folders", set())
    monkeypatch.setattr(jit, "_shared_folders", set())


def one_more(number: int) -> int:
    return number + 1


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_code_that_others_may_write_is_not_loaded_and_told(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_folders: None
) -> None:
    """Numba's index is a pickle: who may write the folder runs code in the node."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(mode)
    assert jit.compiled(one_more)(1) == 2
    assert list(tmp_path.rglob("*.nb?")) == []
    assert not jit.is_kept()
    with pytest.raises(KernelCacheError, match=rf"NUMBA_CACHE_DIR {tmp_path}: others may write"):
        load_kernels()


def test_a_folder_of_this_user_alone_is_used_and_made_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_folders: None
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o755)
    umask = os.umask(0)
    try:
        jit.compiled(one_more)
    finally:
        assert os.umask(umask) == 0
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert jit.is_kept()


def test_a_shared_folder_of_the_package_is_left_for_a_private_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_folders: None
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jit, "others_may_write", lambda path: tmp_path not in path.parents)
    jit.compiled(one_more)
    assert jit.is_kept()
    assert jit.shared_folders()
    assert (tmp_path / "tessera" / "codec").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("mode", "above", "is_shared"),
    [
        (0o700, 0o755, False),
        (0o755, 0o755, False),
        (0o770, 0o755, True),
        (0o707, 0o755, True),
        (0o700, 0o777, True),
        (0o700, 0o1777, False),
    ],
)
def test_who_may_write_a_folder(mode: int, above: int, is_shared: bool, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    tmp_path.chmod(above)
    assert jit.others_may_write(folder) is is_shared


def test_another_users_folder_is_not_this_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = tmp_path.stat().st_uid
    if owner == 0:
        os.chown(tmp_path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert jit.others_may_write(tmp_path)


@pytest.mark.slow
def test_compiled_loops_stay_within_their_arrays(tmp_path: Path) -> None:
    """Random shapes, densities and spoilt bodies, with Numba's own checks of every index."""
    code = "from tests.support.codec_models import main; main(300)"
    env = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    good, refused = map(int, done.stdout.split())
    assert good >= 300
    assert refused >= 300
