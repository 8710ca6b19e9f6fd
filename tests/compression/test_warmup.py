"""The compiled loops on disk: kept, damaged, and nowhere to be kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOAD = "from compression import load_kernels; load_kernels(); print('loaded')"


def load(folder: Path, code: str = LOAD) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder)},
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
    (tmp_path / "file").touch()
    assert load(tmp_path / "file").stdout == "loaded\n"


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
