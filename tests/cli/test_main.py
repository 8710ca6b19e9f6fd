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
