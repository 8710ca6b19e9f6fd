"""The command `tessera`: subcommands, help that fits a screen, completion, quick parsing."""

import subprocess
import sys
from pathlib import Path

import pytest

from template.cli.main import COMMANDS, build_parser

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["localnet", "miner", "validator", "owner", "bucket", "replay", "recompute", "newcomer"]


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "template.cli", *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_help_fits_a_screen_and_lists_the_commands_in_order(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    first_words = [line.split()[0] for line in lines if line.startswith("    ")]
    assert [word for word in first_words if word in COMMANDS] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself_under_its_own_name(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: tessera {name}")
    assert "xit status" in said
    assert "neurons/" not in said


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_flag_of_a_command_is_one_sentence(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([name, "--hepl"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"tessera {name}: --hepl: no such flag; did you mean --help?\n"
    )


def test_the_console_script_explains_itself() -> None:
    done = _run("--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: tessera COMMAND")


def test_parsing_loads_neither_torch_nor_the_sdk() -> None:
    code = (
        "import sys; from template.cli.main import build_parser; build_parser();"
        "print(*{'torch', 'numpy', 'bittensor', 'boto3', 'shtab'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == []


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_dotted_flags(shell: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["--print-completion", shell])
    assert ended.value.code == 0
    script = capsys.readouterr().out
    assert "--neuron.state_dir" in script
    assert all(name in script for name in NAMES)


NO_HOME = """
import os, pwd, sys

def nobody(_uid):
    raise KeyError("uid not found")

pwd.getpwuid = nobody
os.environ.pop("HOME", None)
sys.argv = ["tessera", *sys.argv[1:]]
from template.cli.main import entry
entry()
"""


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["miner", "--run", __file__, "--netuid", "1"], "--wallet.path"),
        (["miner", "--run", __file__, "--netuid", "1", "--wallet.path", "/w"], "HOME is not set"),
        (["newcomer", "--run", __file__, "--netuid", "1"], "HOME is not set"),
        (["miner", "--run", "~/run.toml", "--netuid", "1"], "--run: ~/run.toml"),
    ],
)
def test_a_user_without_a_home_is_told_to_set_one(argv: list[str], words: str) -> None:
    """As in a container with a bare uid; no traceback, and --help works."""
    command = [sys.executable, "-c", NO_HOME]
    done = subprocess.run([*command, *argv], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert words in done.stderr
    assert "set HOME" in done.stderr


def test_help_needs_no_home() -> None:
    command = [sys.executable, "-c", NO_HOME, "miner", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["folder", "file on the way", "nothing"])
def test_a_run_file_that_is_none_is_named_with_its_remedy(kind: str, tmp_path, capsys) -> None:
    path = {"folder": tmp_path, "nothing": tmp_path / "no"}.get(kind, tmp_path / "file" / "run")
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        build_parser().parse_args(["miner", "--run", str(path), "--netuid", "1"])
    remedy = {"folder": "remove the folder", "nothing": "no such file"}.get(kind, "move it away")
    assert remedy in capsys.readouterr().err
