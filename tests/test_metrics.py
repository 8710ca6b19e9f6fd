"""Metrics sinks: whole lines, no step back after a crash, and no way to stop a neuron."""

import json
import logging
import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from template.config import WandbConfig
from template.metrics import EVENTS_FILE, JsonlMetrics, open_metrics

REPOSITORY = Path(__file__).parent.parent
OFF = WandbConfig(mode="off", project_name="test", entity=None, notes="")


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def no_account(monkeypatch, tmp_path):
    """A machine on which nobody has logged in to wandb."""
    pytest.importorskip("wandb")
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
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


def test_jsonl_starts_a_fresh_line_after_a_torn_one(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"window": 1}\n{"window": 2, "lo')
    metrics = JsonlMetrics(path)
    metrics.log(3, {})
    metrics.log(4, {})
    lines = path.read_text().splitlines()
    assert lines[1] == '{"window": 2, "lo'
    assert [json.loads(line)["window"] for line in lines[2:]] == [3, 4]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_jsonl_stays_valid_json_without_a_finite_value(tmp_path, value):
    path = tmp_path / "m.jsonl"
    JsonlMetrics(path).log(1, {"loss": value})
    assert rows(path)[0]["loss"] == str(value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_logged_error(caplog):
    metrics = JsonlMetrics(Path("/dev/full"))
    for window in range(3):
        metrics.log(window, {"loss": 1.0})
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "/dev/full" in errors[0].getMessage()


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
        "import sys; from pathlib import Path; from template.config import WandbConfig;"
        "from template.metrics import open_metrics;"
        "open_metrics(state_dir=Path(sys.argv[1]), save_events=True, run_name='n', run_config={},"
        " wandb_config=WandbConfig(mode='off', project_name='p', entity=None, notes=''));"
        "sys.exit('wandb' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, cwd=REPOSITORY, timeout=60)


def test_wandb_offline_records_the_values(tmp_path, no_account):
    metrics = open_with(replace(OFF, mode="offline", notes="a note"), tmp_path)
    metrics.log(5, {"held_out_loss": 2.5})
    metrics.log(3, {"held_out_loss": 2.25})
    metrics.close()
    assert [row["held_out_loss"] for row in rows(tmp_path / EVENTS_FILE)] == [2.5, 2.25]
    (recorded,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    data = recorded.read_bytes()
    for expected in (b"held_out_loss", b"2.25", b"miner-1", b"a note", b"ab12"):
        assert expected in data


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
    assert rows(tmp_path / EVENTS_FILE)[0]["loss"] == 1.0


def test_wandb_never_asks_at_a_terminal(tmp_path, no_account):
    """With a terminal and no key, wandb's own default is to wait for an answer for ever."""
    code = (
        "import sys; from pathlib import Path; from template.config import WandbConfig;"
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
            timeout=40,
        )  # fmt: skip
        assert b"--wandb.off" in os.read(master, 65536)
    finally:
        os.close(master)
        os.close(slave)
