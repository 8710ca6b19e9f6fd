"""A neuron's rows told by windows, whatever the file holds."""

import json
from typing import Any

import pytest

from template.protocol.schedule import Schedule
from template.status.glance import Glance, OnChain, to_json
from template.status.phase import phase_at
from template.status.rows import OwnRows, parse_rows, read_rows
from tests.support.schemas import check_schema

SCHEDULE = Schedule(start_block=100, blocks_per_window=16, upload_blocks=3, vote_margin_blocks=4)
ROWS: list[dict[str, Any]] = [
    {"window": 3, "time_s": 10.0, "inner_loss": 2.5, "inner_steps": 6, "inner_tokens": 768},
    {"window": 3, "time_s": 11.0, "committed": "ab"},
    {"window": 3, "time_s": 12.0, "payload_bytes": 900},
    {"window": 4, "time_s": 13.0, "committed": "cd"},
    {"window": 2, "time_s": 14.0, "accepted_uids": "1,4", "state_window": 3, "own_accepted": 0},
    {"window": 3, "time_s": 15.0, "accepted_uids": "1", "state_window": 4},
    {"window": 3, "time_s": 15.5, "own_accepted": 1},
    {"window": 3, "time_s": 16.0, "differs_from_majority": 1, "weight/1": 1.0},
]


def test_what_became_of_each_payload() -> None:
    found = read_rows(ROWS, "miner", num_windows=8)
    assert [(each.window, each.outcome, each.accepted) for each in found.windows] == [
        (4, "undecided", None),
        (3, "accepted", 1),
        (2, "no payload", 2),
    ]
    assert found.windows[1].figures == {
        "loss": 2.5, "steps": 6, "tokens": 768, "payload_bytes": 900,
    }  # fmt: skip
    assert (found.last_s, found.state_window, found.weights_window) == (16.0, 4, 3)
    assert found.differs


def test_a_committed_payload_that_the_votes_left_out() -> None:
    rows: list[dict[str, Any]] = [
        {"window": 1, "committed": "ab"},
        {"window": 1, "own_accepted": 0},
    ]
    assert read_rows(rows, "miner", num_windows=1).windows[0].outcome == "not accepted"


def test_a_validator_tells_of_refusals_by_reason() -> None:
    rows = [{"window": 1, "payloads": 4, "named": 1, "refused/no_gain": 2, "refused/no_work": 1}]
    (seen,) = read_rows(rows, "validator", num_windows=8).windows
    assert seen.refused == {"no_gain": 2, "no_work": 1}
    assert seen.figures == {"payloads": 4, "named": 1}
    assert seen.outcome == ""


def test_only_the_newest_windows_are_told() -> None:
    rows: list[dict[str, Any]] = [{"window": window} for window in range(20)]
    found = read_rows(rows, "miner", num_windows=3)
    assert [seen.window for seen in found.windows] == [19, 18, 17]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "half a li",
        "[1]",
        '{"window": "x"}',
        '{"no": 1}',
        '{"window": 1, "inner_loss": "nan"}',
        "[" * 100_000,
        '{"window": 1, "x": ' + "[" * 100_000,
        '{"window": true}',
        '{"window": 1, "inner_loss": NaN, "time_s": Infinity, "refused/x": -Infinity}',
        '{"window": 1, "inner_loss": 1e999, "state_window": 1e999, "time_s": NaN}',
        '{"window": 1, "inner_loss": 1' + "0" * 400 + ', "refused/x": 1' + "0" * 400 + "}",
        '{"window": 1' + "0" * 400 + "}",
        '{"window": 1' + "0" * 9000 + "}",
        '{"window": -1}',
    ],
)
def test_a_torn_or_strange_line_says_nothing(line: str) -> None:
    rows = parse_rows([line, '{"window": 2, "time_s": true, "own_accepted": "yes"}'])
    found = read_rows(rows, "miner", num_windows=8)
    assert found.windows[0].window == 2
    assert all(not seen.figures for seen in found.windows)
    assert all(not seen.refused for seen in found.windows)
    assert (found.last_s, found.state_window) == (None, None)


def test_the_newest_window_may_still_run() -> None:
    rows: list[dict[str, Any]] = [{"window": 1, "inner_loss": 2.0}, {"window": 2}]
    found = read_rows(rows, "miner", num_windows=8)
    assert [seen.outcome for seen in found.windows] == ["undecided", "no payload"]
    found = read_rows([*rows, {"window": 2, "accepted_uids": "1"}], "miner", num_windows=8)
    assert found.windows[0].outcome == "no payload", "the votes are in, and it had none"


def glance(rows: OwnRows, **changes: Any) -> Glance:
    chain = OnChain(
        head=120, block_s=12.0, uid=3, stake_tao=1.0, share=0.25, emission_alpha=2.0,
        permit=False, hotkeys=9, least_version_key=0,
    )  # fmt: skip
    values: dict[str, Any] = {
        "role": "miner", "hotkey": "5Hot", "run_id": "ab", "version": "0.1.0",
        "version_key": 1000, "now_s": 20.0, "pid": 7, "rows": rows,
        "phase": phase_at(SCHEDULE, 3, 120, "miner"), "chain": chain, "fault": "",
    }  # fmt: skip
    return Glance(**(values | changes))


def test_the_glance_as_json() -> None:
    found = to_json(glance(read_rows(ROWS[:4], "miner", num_windows=8)))
    assert json.loads(json.dumps(found)) == found
    check_schema("status", found | {"run_id": "ab" * 16})
    assert (found["silent_s"], found["pid"], found["warnings"]) == (7.0, 7, [])
    assert found["phase"]["deadlines"] == [
        {
            "block": 131,
            "window": 1,
            "what": "the payload of window 1 must be committed",
            "in_s": 132.0,
        }
    ]
    assert found["chain"]["share"] == 0.25


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pid": None}, "not running"),
        ({"pid": None, "lock_fault": "/x/lock: Permission denied"}, "/x/lock: Permission denied"),
        ({"chain": None, "phase": None, "fault": "the chain does not answer: x"}, "answer: x"),
        ({"version_key": -1}, "demands version key 0"),
        ({"role": "validator"}, "no permit"),
    ],
)
def test_what_needs_a_look(changes: dict[str, Any], words: str) -> None:
    empty = read_rows([], "miner", num_windows=8)
    assert glance(empty).warnings == ()
    (warning,) = glance(empty, **changes).warnings
    assert words in warning


def test_a_node_apart_from_the_majority_says_so() -> None:
    (warning,) = glance(read_rows(ROWS, "miner", num_windows=8)).warnings
    assert "differ from the stake majority" in warning
