"""`python -m template.recompute` on the logs of a validator that took part in a run."""

import json
from pathlib import Path

import pytest

from simulation.swarm import FOUR, STAKES_TAO, TINY, build_world, honest, run, to_the_end
from simulation.world import hotkey_of
from template import recompute
from template.base.miner import Miner
from template.base.validator import Validator
from template.protocol.spec import spec_to_toml
from tests.support.successions import proposed, supporting

SWITCH = 8


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> Path:
    """A folder with the run's spec and the logs of both validators."""
    folder = tmp_path_factory.mktemp("run")
    world = build_world(STAKES_TAO, evaluation__claimed_pages=8, schedule__num_windows=5)
    run(world, honest(*FOUR), folder)
    (folder / "run.toml").write_text(spec_to_toml(world.spec))
    return folder


def _main(folder: Path, *logs: Path) -> int:
    return recompute.main(["--run", str(folder / "run.toml"), *map(str, logs)])


@pytest.mark.parametrize("validator", ["val-a", "val-b"])
def test_what_a_validator_says_follows_from_what_it_measured(played, validator, capsys) -> None:
    assert _main(played, played / validator / "verdicts.jsonl") == 0
    said = capsys.readouterr().out
    assert "windows 0 to 4, 10 verdicts: everything follows" in said


def test_a_forged_digit_is_named_and_fails(played, tmp_path, capsys) -> None:
    rows = [json.loads(line) for line in (played / "val-a" / "verdicts.jsonl").open()]
    row = next(r for r in rows if r["kind"] == "verdict" and r["window"] == 3)
    row["after"][2][0] += 1e-9
    forged = tmp_path / "forged.jsonl"
    forged.write_text("".join(json.dumps(r, sort_keys=True) + "\n" for r in rows))
    assert _main(played, forged) == 1
    said = capsys.readouterr().out
    assert f"window 3, uid {row['uid']}: gain is" in said


@pytest.mark.parametrize("text", [None, "", "{}", "\xff"])
def test_what_is_no_log_is_an_error_that_names_the_file(played, text, tmp_path, capsys) -> None:
    path = tmp_path / "log.jsonl"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    assert _main(played, path) == 2
    said = capsys.readouterr().err
    assert said.startswith("recompute: ")
    assert str(path) in said or "no window" in said


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], "name verdict logs, or a --validator"),
        (["--validator", "5F"], "--netuid"),
        (["--validator", "5F", "--netuid", "1"], "--validator"),
        (["--netuid", "1", "log.jsonl"], "--validator"),
        (["--first", "0", "log.jsonl"], "--validator"),
        (["--validator", hotkey_of("val-a"), "--netuid", "1", "--first", "-5"], "--first"),
        (["--validator", hotkey_of("val-a"), "--netuid", "1", "--last", "-1"], "--last"),
        (
            ["--validator", hotkey_of("val-a"), "--netuid", "1", "--first", "2", "--last", "1"],
            "--f",
        ),
    ],
)
def test_half_an_audit_is_an_error_that_names_the_flag(played, flags, named, capsys) -> None:
    assert recompute.main(["--run", str(played / "run.toml"), *flags]) == 2
    assert capsys.readouterr().err.startswith(f"recompute: {named}")


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    """A folder with the specs of a run that changes the rules of its pay, and a validator's logs.

    `after.toml` moves the end of the run and follows `next.toml`, after the last log.
    """
    folder = tmp_path_factory.mktemp("changed")
    names = {"owner": 0, "val-a": 1000, "m0": 0, "m1": 0}
    end = {"schedule__num_windows": SWITCH + 2, "evaluation__claimed_pages": 8}
    world = build_world(names, **{**TINY, **end})
    after = proposed(world, folder, SWITCH, evaluation__work_effect=1.5, evaluation__naming_z=900.0)
    supporting(folder, ("val-a",), after)
    drives = {"val-a": to_the_end(Validator), "m0": to_the_end(Miner), "m1": to_the_end(Miner)}
    run(world, drives, folder)
    (folder / "run.toml").write_text(spec_to_toml(world.spec))
    (folder / "next.toml").write_text(spec_to_toml(after))
    return folder


def test_each_window_is_judged_by_its_own_spec(changed, capsys) -> None:
    logs, later = changed / "val-a" / "verdicts.jsonl", ("--run", str(changed / "next.toml"))
    argv = ["--run", str(changed / "run.toml"), *later, str(logs)]
    assert recompute.main(argv) == 0
    assert f"windows 0 to {SWITCH + 1}" in capsys.readouterr().out
    assert _main(changed, logs) == 1, "by the first spec alone an honest validator looks wrong"
    said = capsys.readouterr().out
    assert f"window {SWITCH}, uid" in said
    assert "if the run has changed since, other rules hold there" in said


def test_a_log_after_the_end_of_the_specs_is_not_judged(changed, tmp_path, capsys) -> None:
    logs, text = changed / "val-a" / "verdicts.jsonl", (changed / "run.toml").read_text()
    short = tmp_path / "run.toml"
    short.write_text(text.replace(f"num_windows = {SWITCH + 2}", f"num_windows = {SWITCH}"))
    assert recompute.main(["--run", str(short), str(logs)]) == 2
    said = capsys.readouterr().out
    assert f"windows {SWITCH} to {SWITCH + 1} cannot be judged" in said
    assert f"windows 0 to {SWITCH - 1}, " in said
    assert "everything follows" in said


def test_specs_out_of_order_and_in_an_audit_are_refused(changed, capsys) -> None:
    first, later = str(changed / "run.toml"), str(changed / "next.toml")
    logs = str(changed / "val-a" / "verdicts.jsonl")
    assert recompute.main(["--run", later, "--run", first, logs]) == 2
    assert "name the run's first spec" in capsys.readouterr().err
    assert recompute.main(["--run", first, "--run", first, logs]) == 2
    assert f"--run {first}: run spec" in capsys.readouterr().err
    audit = ["--validator", hotkey_of("val-a"), "--netuid", "1"]
    assert recompute.main(["--run", first, "--run", later, *audit]) == 2
    assert f"--run {later}: has no use in an audit" in capsys.readouterr().err


def test_a_spec_for_newer_software_is_not_judged_by_older(changed, tmp_path, capsys) -> None:
    text = (changed / "next.toml").read_text()
    newer = tmp_path / "next.toml"
    newer.write_text(text.replace("[continues]\n", '[continues]\nleast_version = "99.0.0"\n'))
    argv = ["--run", str(changed / "run.toml"), "--run", str(newer)]
    assert recompute.main([*argv, str(changed / "val-a" / "verdicts.jsonl")]) == 2
    assert "demands version 99.0.0 or newer" in capsys.readouterr().err
