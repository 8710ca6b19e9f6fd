"""`python -m template.recompute` on the logs of a validator that took part in a run."""

import json
from pathlib import Path

import pytest

from simulation.swarm import FOUR, STAKES_TAO, build_world, honest, run
from simulation.world import hotkey_of
from template import recompute
from template.protocol.spec import spec_to_toml


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
