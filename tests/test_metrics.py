"""Metrics sinks: whole lines, no step back after a crash, and no way to stop a neuron."""

import json
import logging
import os
import pty
import resource
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from template.metrics import EVENTS_FILE, FanOutMetrics, ForeignMetrics, JsonlMetrics, open_metrics
from template.settings import WandbConfig
from tests.support.waiting import HANG_S, wait_until
from tests.support.wandb_server import WandbServer, serve_wandb

REPOSITORY = Path(__file__).parent.parent
OFF = WandbConfig(mode="off", project_name="test", entity=None, notes="")


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def no_account(monkeypatch, tmp_path):
    """A machine without a wandb login."""
    pytest.importorskip("wandb")
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_ERROR_REPORTING", "WANDB_SERVICE"):  # which wandb sets for good
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("NETRC", raising=False)


def open_with(config: WandbConfig, state_dir: Path, *, save_events: bool = True):
    return open_metrics(
        state_dir=state_dir,
        save_events=save_events,
        wandb_config=config,
        run_name="miner-1",
        run_config={"role": "miner", "run_id": "ab12"},
    )


def test_jsonl_is_on_disk_after_each_call(tmp_path):
    path = tmp_path / "new" / "folder" / "m.jsonl"
    metrics = JsonlMetrics(path, now_s=lambda: 12.3456)
    metrics.log(7, {"loss": 2.5, "peers": 3, "note": "caf\u00e9\nline"})
    assert rows(path) == [
        {"window": 7, "time_s": 12.346, "loss": 2.5, "peers": 3, "note": "caf\u00e9\nline"}
    ]
    metrics.log(8, {})
    assert [row["window"] for row in rows(path)] == [7, 8]
    metrics.close()
    metrics.close()


def test_jsonl_appends_to_what_is_there(tmp_path):
    path = tmp_path / "m.jsonl"
    for window in (1, 2):
        metrics = JsonlMetrics(path)
        metrics.log(window, {"loss": 1.0})
        metrics.close()
    assert [row["window"] for row in rows(path)] == [1, 2]


def test_jsonl_cuts_off_a_torn_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"window": 1}\n{"window": 2, "lo')
    metrics = JsonlMetrics(path)
    metrics.log(3, {})
    metrics.log(4, {})
    assert [row["window"] for row in rows(path)] == [1, 3, 4]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_jsonl_stays_valid_json_without_a_finite_value(tmp_path, value):
    path = tmp_path / "m.jsonl"
    JsonlMetrics(path).log(1, {"loss": value})
    assert rows(path)[0]["loss"] == str(value)


def test_a_full_disk_is_one_logged_error_and_leaves_no_half_line(tmp_path, caplog):
    """Planted as a limit on the size of files: the kernel takes a part, and then refuses."""
    path = tmp_path / "m.jsonl"
    metrics = JsonlMetrics(path, now_s=lambda: 1.0)
    metrics.log(0, {"loss": 1.0})
    whole = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, hard))
    try:
        for window in (1, 2, 3):
            metrics.log(window, {"loss": 1.0})
            assert path.read_bytes() == whole
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    metrics.log(4, {"loss": 1.0})
    assert [row["window"] for row in rows(path)] == [0, 4]
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    for words in (str(path), "windows are left out meanwhile", "free the disk"):
        assert words in errors[0].getMessage()


@pytest.mark.parametrize("key", ["window", "time_s"])
def test_reserved_keys_are_the_callers_mistake(tmp_path, key):
    metrics = open_with(OFF, tmp_path)
    with pytest.raises(ValueError, match=key):
        metrics.log(1, {key: 2})
    assert (tmp_path / EVENTS_FILE).read_bytes() == b""


def test_nothing_is_written_when_all_is_off(tmp_path):
    metrics = open_with(OFF, tmp_path / "state", save_events=False)
    metrics.log(1, {"loss": 1.0})
    metrics.close()
    assert not (tmp_path / "state").exists()


def test_off_does_not_import_wandb(tmp_path):
    code = (
        "import sys; from pathlib import Path; from template.settings import WandbConfig;"
        "from template.metrics import open_metrics;"
        "open_metrics(state_dir=Path(sys.argv[1]), save_events=True, run_name='n', run_config={},"
        " wandb_config=WandbConfig(mode='off', project_name='p', entity=None, notes=''));"
        "sys.exit('wandb' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, cwd=REPOSITORY, timeout=HANG_S)


class Raising:
    """A sink with a library that raises, or that never returns until `is_free`."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.is_free, self.rows = error, threading.Event(), list[int]()

    def log(self, window, values) -> None:
        self.rows.append(window)
        if self.error is not None:
            raise self.error
        self.is_free.wait(HANG_S)

    def close(self) -> None:
        self.log(-1, {})


def foreign(sink, **limits) -> ForeignMetrics:
    return ForeignMetrics(lambda: sink, name="wandb", remedy="or pass --wandb.off", **limits)


WHATEVER = [OSError("gone"), ValueError(""), RuntimeError("a\nb"), SystemExit(1), MemoryError()]


@pytest.mark.parametrize("error", WHATEVER, ids=repr)
def test_whatever_a_library_raises_is_one_error_and_the_end_of_its_sink(caplog, error):
    sink, beside = Raising(error), Raising(None)
    beside.is_free.set()
    metrics = FanOutMetrics([foreign(sink), beside])
    for window in range(5):
        metrics.log(window, {"loss": 1.0})
    metrics.close()
    assert sink.rows == [0]
    assert beside.rows == [0, 1, 2, 3, 4, -1]
    (record,) = caplog.records
    assert record.getMessage().startswith("wandb: ")
    assert "--wandb.off" in record.getMessage()


@pytest.mark.parametrize("error", WHATEVER, ids=repr)
def test_whatever_a_library_raises_at_its_start_is_one_error(caplog, error):
    def open_sink():
        raise error

    metrics = ForeignMetrics(open_sink, name="wandb", remedy="or pass --wandb.off")
    metrics.log(1, {"loss": 1.0})
    metrics.close()
    assert len(caplog.records) == 1


def test_a_library_that_hangs_holds_neither_a_window_nor_the_end(caplog):
    """At most one row is in its hands and two wait; the rest is left out, with one error."""
    sink = Raising(None)
    metrics = foreign(sink, close_limit_s=0.05, max_waiting=2)
    for window in range(1000):
        metrics.log(window, {"loss": 1.0})
    metrics.close()
    wait_until(lambda: sink.rows == [0])
    assert len(caplog.records) == 1
    sink.is_free.set()


def test_a_library_that_hangs_at_its_start_or_its_end_is_left_behind(caplog):
    is_free = threading.Event()

    def open_sink() -> None:
        is_free.wait(HANG_S)

    metrics = ForeignMetrics(
        open_sink,
        name="wandb",
        remedy="",
        open_limit_s=0.05,
        close_limit_s=0.05,
    )
    metrics.log(1, {"loss": 1.0})
    metrics.close()
    assert "does not end" in caplog.text
    is_free.set()


def test_a_sink_of_ours_that_raises_is_one_error_and_is_tried_again(caplog):
    sink, beside = Raising(TypeError("no number")), Raising(None)
    beside.is_free.set()
    metrics = FanOutMetrics([sink, beside])
    for window in range(3):
        metrics.log(window, {"loss": 1.0})
    metrics.close()
    assert sink.rows == beside.rows == [0, 1, 2, -1]
    assert len(caplog.records) == 1


def test_events_that_cannot_be_written_are_one_error(tmp_path, caplog):
    (tmp_path / EVENTS_FILE).mkdir()
    metrics = open_with(OFF, tmp_path)
    metrics.log(1, {"loss": 1.0})
    metrics.close()
    assert [EVENTS_FILE in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"WANDB_SERVICE": "3-1-tcp-localhost-1"},
        {"WANDB_SERVICE": "what"},
        {"WANDB__SERVICE_WAIT": "soon"},
        {"WANDB_MODE": "sometimes"},
        {"WANDB_INIT_TIMEOUT": "soon"},
        {"WANDB_RUN_ID": "a/b"},
        {"WANDB_DIR": "/dev/null/x"},
    ],
    ids=lambda v: "=".join(*v.items()),
)
def test_no_variable_of_wandbs_ends_a_neuron(tmp_path, no_account, variables):
    done = record("offline", tmp_path, **variables)
    assert [row["held_out_loss"] for row in rows(tmp_path / EVENTS_FILE)] == [2.5, 2.25]
    lines = done.stderr.decode().splitlines()
    assert len([line for line in lines if line.startswith("ERROR")]) <= 1, lines
    assert not [line for line in lines if "Traceback" in line], lines


KILLED = """
import os, signal, subprocess, sys
from pathlib import Path
from template.settings import WandbConfig
from template.metrics import open_metrics
import logging; logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
config = WandbConfig(mode="offline", project_name="p", entity=None, notes="")
metrics = open_metrics(state_dir=Path(sys.argv[1]), save_events=True, wandb_config=config,
    run_name="miner-1", run_config={})
metrics.log(0, {"held_out_loss": 0.0})
threads = [t.read_text().split() for t in Path("/proc/self/task").glob("*/children")]
for pid in {pid for found in threads for pid in found}:
    print(pid, flush=True)
    os.kill(int(pid), int(sys.argv[2]))
for window in range(1, 6):
    metrics.log(window, {"held_out_loss": float(window)})
metrics.close()
print("ended", flush=True)
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_wandbs_process_killed_or_stopped_stops_no_neuron(tmp_path, no_account, sign):
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(int(sign))]
    # A file each, because wandb's process inherits both and outlives a pipe's reader.
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        subprocess.run(
            command, stdout=stdout, stderr=stderr, check=True, cwd=REPOSITORY, timeout=HANG_S
        )
    *pids, last = out.read_text().split()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    assert pids
    assert last == "ended"
    assert [row["held_out_loss"] for row in rows(tmp_path / EVENTS_FILE)] == [0, 1, 2, 3, 4, 5]
    errors = [line for line in err.read_text().splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1
    assert "--wandb.off" in errors[0]


RECORD = """
import logging, sys
from pathlib import Path
from template.settings import WandbConfig
from template.metrics import open_metrics
logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
config = WandbConfig(mode=sys.argv[1], project_name="p", entity=None, notes="a note")
metrics = open_metrics(state_dir=Path(sys.argv[2]), save_events=True, wandb_config=config,
    run_name="miner-1", run_config={"role": "miner", "run_id": "ab12"})
metrics.log(5, {"held_out_loss": 2.5, "accepted_uids": "3,4"})
metrics.log(3, {"held_out_loss": 2.25})
metrics.close()
"""
API_KEY = "0123456789abcdef0123456789abcdef01234567"
VALUES = [(5, 2.5), (3, 2.25)]


def record(
    mode: str, state_dir: Path, *argv: str, **env: str
) -> subprocess.CompletedProcess[bytes]:
    """A process that logs VALUES; with a `tail` of arguments that must stay private."""
    return subprocess.run(
        [sys.executable, "-c", RECORD, mode, str(state_dir), *argv],
        capture_output=True, check=True, cwd=REPOSITORY, env={**os.environ, **env}, timeout=HANG_S,
    )  # fmt: skip


def sent(server: WandbServer) -> list[tuple[object, object]]:
    return [(row["window"], row["held_out_loss"]) for row in server.history]


def check_run(server: WandbServer, state_dir: Path) -> None:
    """The recorded run has our values and names, and no data of the machine."""
    assert sent(server) == VALUES
    assert server.history[0]["accepted_uids"] == "3,4"
    assert (server.runs[0]["displayName"], server.runs[0]["notes"]) == ("miner-1", "a note")
    config = json.loads(server.runs[0]["config"])
    assert config["run_id"]["value"] == "ab12"
    text = json.dumps(server.runs)
    assert socket.gethostname() not in text
    assert "endpoint-token" not in text
    assert str(state_dir) not in text
    assert [row["held_out_loss"] for row in rows(state_dir / EVENTS_FILE)] == [2.5, 2.25]


@pytest.mark.slow
def test_an_offline_run_is_read_back_by_wandbs_own_sync(tmp_path, no_account):
    state_dir = tmp_path / "state"
    done = record("offline", state_dir, "wss://host/endpoint-token")
    assert done.stderr == b""
    (folder,) = state_dir.glob("wandb/offline-run-*")
    wandb = Path(sys.executable).with_name("wandb")
    with serve_wandb() as server:
        env = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY}
        subprocess.run(
            [wandb, "sync", folder],
            check=True,
            cwd=tmp_path,
            env=env,
            capture_output=True,
            timeout=HANG_S,
        )
        check_run(server, state_dir)


@pytest.mark.slow
def test_an_online_run_arrives(tmp_path, no_account):
    state_dir = tmp_path / "state"
    with serve_wandb() as server:
        env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY}
        done = record("online", state_dir, "wss://host/endpoint-token", **env)
        check_run(server, state_dir)
    assert done.stderr == b""
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "debug-internal.log" for path in files)
    assert not [path for path in files if API_KEY.encode() in path.read_bytes()]


def one_error(output: bytes) -> str:
    """The one line that was logged, without the key and without wandb's second full stop."""
    (line,) = output.decode().splitlines()
    assert line.startswith("ERROR template.metrics wandb: ")
    assert API_KEY not in line
    assert ".." not in line.replace("offline-run", "")
    return line


def recorded_anyway(state_dir: Path) -> None:
    (folder,) = state_dir.glob("wandb/offline-run-*")
    (file,) = folder.glob("*.wandb")
    assert b"held_out_loss" in file.read_bytes()
    assert len(rows(state_dir / EVENTS_FILE)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refuses", "gives a page", "is not there"])
def test_a_server_that_is_of_no_use_is_one_error_and_an_offline_run(tmp_path, no_account, kind):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    answer = {"refuses": (401, b'{"errors":[{"message":"not logged in."}]}')}
    with serve_wandb(answer.get(kind, (400, b"<html>\n<p>what?</p></html>"))) as server:
        url = f"http://127.0.0.1:{port}" if kind == "is not there" else server.url
        done = record("online", tmp_path, WANDB_BASE_URL=url, WANDB_API_KEY=API_KEY)
    line = one_error(done.stderr)
    assert f"`wandb sync {tmp_path / 'wandb' / 'offline-run-*'}`" in line
    recorded_anyway(tmp_path)


@pytest.mark.slow
def test_a_key_that_is_none_is_one_error_that_does_not_show_it(tmp_path, no_account):
    line = one_error(record("online", tmp_path, WANDB_API_KEY="too-short-a-key").stderr)
    assert "too-short-a-key" not in line
    assert "WANDB_API_KEY" in line
    assert len(rows(tmp_path / EVENTS_FILE)) == 2


def test_wandb_refuses_quietly_after_close(tmp_path, no_account):
    metrics = open_with(replace(OFF, mode="offline"), tmp_path, save_events=False)
    metrics.close()
    metrics.log(1, {"loss": 1.0})
    metrics.close()


@pytest.mark.parametrize("project", ["test", "a/b"])
def test_wandb_online_without_a_key_is_one_error_and_jsonl_goes_on(
    tmp_path, no_account, caplog, project
):
    metrics = open_with(replace(OFF, mode="online", project_name=project), tmp_path)
    metrics.log(1, {"loss": 1.0})
    metrics.close()
    errors = [record for record in caplog.records if record.name == "template.metrics"]
    assert len(errors) == 1
    assert "--wandb.off" in errors[0].getMessage()
    assert ".." not in errors[0].getMessage()
    assert rows(tmp_path / EVENTS_FILE)[0]["loss"] == 1.0


def test_wandb_never_asks_at_a_terminal(tmp_path, no_account):
    """With a terminal and no key, wandb's own default is to wait for an answer for ever."""
    code = (
        "import sys; from pathlib import Path; from template.settings import WandbConfig;"
        "from template.metrics import open_metrics;"
        "open_metrics(state_dir=Path(sys.argv[1]), save_events=False, run_name='n', run_config={},"
        " wandb_config=WandbConfig(mode='online', project_name='p', entity=None, notes=''))"
    )
    master, slave = pty.openpty()
    try:
        command = [sys.executable, "-c", code, str(tmp_path)]
        env = {**os.environ, "TERM": "xterm"}
        subprocess.run(
            command, stdin=slave, stdout=slave, stderr=slave, check=True, cwd=REPOSITORY, env=env,
            timeout=HANG_S,
        )  # fmt: skip
        assert b"--wandb.off" in os.read(master, 65536)
    finally:
        os.close(master)
        os.close(slave)
