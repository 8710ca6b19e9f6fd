"""Reading growing and torn logs."""

import json

import pytest

from localnet.events import JsonlTail, NodeEvents, read_jsonl, read_node_events
from template.metrics import JsonlMetrics

ROWS = [{"window": 0, "a": 1}, {"window": 1, "a": 2}]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize("num_bytes", range(1, len(TEXT)))
def test_a_torn_last_line_is_left_out(tmp_path, num_bytes):
    path = tmp_path / "log"
    path.write_bytes(TEXT[:num_bytes])
    num_complete = TEXT[:num_bytes].count(b"}")
    assert read_jsonl(path) == ROWS[:num_complete]


@pytest.mark.parametrize("line", [b"{", b"[1]", b"3", b"\xff\xfe", b"[" * 100_000, b""])
def test_what_is_no_object_is_left_out(tmp_path, line):
    path = tmp_path / "log"
    path.write_bytes(line + b"\n" + TEXT)
    assert read_jsonl(path) == ROWS


def test_no_file_is_no_rows(tmp_path):
    assert read_jsonl(tmp_path / "no" / "log") == []
    assert JsonlTail(tmp_path / "no" / "log").read_new() == []


def test_a_tail_gives_every_row_once_however_the_file_grows(tmp_path):
    path = tmp_path / "log"
    tail = JsonlTail(path)
    seen = []
    for i in range(len(TEXT)):
        with path.open("ab") as file:
            file.write(TEXT[i : i + 1])
        seen.append(tail.read_new())
    assert [row for rows in seen for row in rows] == ROWS
    assert sum(bool(rows) for rows in seen) == 2
    assert tail.read_new() == []


def test_a_tail_starts_again_on_a_shorter_file(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(TEXT + b'{"torn')
    tail = JsonlTail(path)
    assert tail.read_new() == ROWS
    path.write_bytes(b'{"b": 1}\n')
    assert tail.read_new() == [{"b": 1}]


def test_events_keep_the_last_word_on_a_window(tmp_path):
    metrics = JsonlMetrics(tmp_path / "metrics.jsonl")
    for loss in (4.0, 3.0):
        metrics.log(2, {"held_out_loss": loss})
    metrics.log(3, {"held_out_loss": float("nan")})
    metrics.log(3, {"inner_loss": 1.0})
    metrics.close()
    events = read_node_events(tmp_path)
    assert events.losses == {2: 3.0, 3: None}
    assert events.last_row["inner_loss"] == 1.0
    assert events.decisions == {}
    assert events.unigram_nats is None


def test_a_row_without_a_window_is_not_an_event():
    events = NodeEvents()
    events.add([{"held_out_loss": 1.0}, {"window": "1", "held_out_loss": 1.0}])
    assert events == NodeEvents()
