"""`tessera plan`: what it prints and draws, and how it ends."""

import json
from pathlib import Path

import pytest

from template.cli import main
from template.cli.plan_flags import read_plan_or_spec
from template.protocol.spec import spec_to_toml

ROOT = Path(__file__).resolve().parents[2]
PLANS = sorted((ROOT / "runs").glob("*.toml"))
PNG = b"\x89PNG\r\n\x1a\n"


def plan(*argv: str | Path) -> int:
    return main.run_command("plan", [str(word) for word in argv], "tessera plan")


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_shipped_plan_prints(path: Path, capsys) -> None:
    assert plan("--run", path, "--gpu", "b200:8") == 0
    said = capsys.readouterr().out
    assert read_plan_or_spec(path).name in said
    assert "inner steps" in said
    assert "Assumed" in said
    assert max(map(len, said.splitlines())) <= 100


def test_the_example_of_the_help_is_one_object_of_json(capsys) -> None:
    path = ROOT / "runs" / "72b.toml"
    line = ("--up-mbps", "110", "--down-mbps", "500")
    assert plan("--run", path, *line, "--gpu", "b200:8", "--peers", "20", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["machine"], answer["peers"], answer["up_mbps"]) == ("b200:8", 20, 110.0)
    assert 0.0 <= answer["utilisation"] <= 1.0
    assert answer["phases"]


def test_a_run_spec_is_taken_as_a_plan_is(tmp_path: Path, capsys) -> None:
    path = ROOT / "runs" / "150m.toml"
    spec_path = tmp_path / "run.toml"
    spec_path.write_text(spec_to_toml(read_plan_or_spec(path)), encoding="utf-8")
    answers = []
    for given in (path, spec_path):
        assert plan("--run", given, "--json") == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]


def test_a_model_that_does_not_fit_ends_with_status_2_and_says_so(capsys) -> None:
    assert plan("--run", ROOT / "runs" / "72b.toml", "--gpu", "l40s:8") == 2
    said = capsys.readouterr()
    assert "does not fit" in said.out
    assert "does not fit" in said.err


@pytest.mark.parametrize(
    "flag",
    [
        ("--up-mbps", "0"), ("--down-mbps", "-1"), ("--down-mbps", "nan"), ("--gpu", "b200:0"),
        ("--gpu", "tpu:8"), ("--gpu", "b200:"), ("--peers", "0"), ("--peers", "257"),
        ("--mfu", "1.1"), ("--mfu", "0"), ("--cores", "0"), ("--disk-gb-s", "inf"),
        ("--block-s", "0"), ("--dataset-tokens", "0"), ("--validators", "x"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_figure_out_of_range_is_refused_by_its_flag(flag: tuple[str, str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        plan("--run", ROOT / "runs" / "150m.toml", *flag)
    assert ended.value.code == 2
    assert flag[0] in capsys.readouterr().err


def test_a_dataset_that_no_manifest_lists_ends_with_status_2(capsys) -> None:
    run = ROOT / "runs" / "150m.toml"
    assert plan("--run", run, "--dataset-tokens", "9999999999999999", "--json") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "--dataset-tokens: a dataset of 9,999,999,999,999,999 tokens" in said.err


def test_a_wrong_file_is_named_with_the_key(tmp_path: Path, capsys) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('name = "x"\ndata = 3\n', encoding="utf-8")
    assert plan("--run", path) == 2
    assert f"--run {path}: " in capsys.readouterr().err


def test_a_window_is_drawn(tmp_path: Path, capsys) -> None:
    path = tmp_path / "new" / "window.png"
    assert plan("--run", ROOT / "runs" / "8b.toml", "--gpu", "b200:1", "--picture", path) == 0
    assert path.read_bytes().startswith(PNG)
    capsys.readouterr()
    assert plan("--run", ROOT / "runs" / "8b.toml", "--gpu", "b200:1", "--picture", tmp_path) == 2
    said = capsys.readouterr().err
    assert f"--picture {tmp_path}: cannot be written" in said
    assert "name a file in it" in said
    assert "remove the folder" not in said
