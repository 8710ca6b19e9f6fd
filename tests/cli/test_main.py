"""The command `tessera`: subcommands, help that fits a screen, completion, quick parsing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from template.cli.devices import has_driver
from template.cli.main import COMMANDS, build_parser
from template.cli.owner_flags import NOBODY
from template.cli.terminal import EXIT_NO_READER
from template.protocol.spec import spec_to_toml
from template.protocol.spec.plan import RunChoices, check_plan, load_plan

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "localnet",
    "miner",
    "validator",
    "owner",
    "data",
    "bucket",
    "model",
    "init",
    "doctor",
    "status",
    "replay",
    "recompute",
    "explain",
    "site",
    "succession",
    "newcomer",
    "plan",
]


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "template.cli", *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_help_fits_a_screen_and_lists_the_commands_in_order(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 31, "a screen of a terminal today has more"
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


def test_a_reader_that_has_read_enough_sees_no_traceback() -> None:
    """`tessera newcomer ... | head -1`."""
    source = "from template.cli.terminal import say\nfor n in range(10**6): say(str(n))"
    with subprocess.Popen(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == EXIT_NO_READER


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


HEAVY = ("torch", "numpy", "numba", "transformers", "accelerate", "bittensor", "boto3", "rich")
WATCH = """
import contextlib, io, json, os, sys
from template.cli import main
heavy, told = set(sys.argv[1].split()), []
for name, argv in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stderr(out), contextlib.redirect_stdout(out):
        try:
            status = main.run_command(name, argv, name)
        except SystemExit as end:
            status = end.code
    told.append((status, out.getvalue(), sorted(heavy & set(sys.modules))))
print(json.dumps(told))
"""
BUCKET = {
    "TESSERA_BUCKET_ENDPOINT": "http://127.0.0.1:9000",
    "TESSERA_BUCKET_WRITE_KEY_ID": "writer",
    "TESSERA_BUCKET_WRITE_SECRET": "w",
    "TESSERA_BUCKET_READ_KEY_ID": "reader",
    "TESSERA_BUCKET_READ_SECRET": "r",
}


def _told(cases: list[tuple[str, list[str]]], **variables: str) -> list[tuple[int, str, list[str]]]:
    """Status, words and heavy modules of each command, all in one fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH, " ".join(HEAVY)],
        input=json.dumps(cases),
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": str(ROOT)}
        | variables,
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return [(status, said, heavy) for status, said, heavy in json.loads(done.stdout)]


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    plan = ROOT / "runs" / "localnet.toml"
    choices = RunChoices(owner_hotkey=NOBODY, start_block=100)
    path = tmp_path / "run.toml"
    path.write_text(spec_to_toml(check_plan(plan, load_plan(plan), choices)))
    return str(path)


def test_no_command_waits_for_a_library_to_refuse_what_the_operator_got_wrong(
    run_file: str, tmp_path: Path
) -> None:
    chain, absent = ["--netuid", "1"], str(tmp_path / "absent.toml")
    plan, text = str(ROOT / "runs" / "localnet.toml"), str(ROOT / "README.md")
    publish = ["publish", *chain, "--out", str(tmp_path / "out.toml"), "--start-in", "99"]
    cases = [(name, ["--help"], "usage") for name in NAMES]
    cases += [(name, ["--hepl"], "did you mean --help?") for name in NAMES]
    neurons = ("miner", "validator")
    cases += [(name, ["--run", absent, *chain], "absent.toml") for name in neurons]
    cases += [(name, ["--run", plan, *chain], "missing; add it") for name in neurons]
    cases += [
        (name, ["--run", run_file, *chain, "-n", "finney"], "contradicts") for name in neurons
    ]
    cases += [(name, ["--run", run_file, *chain, "-w", "nobody"], "btcli") for name in neurons]
    locked = tmp_path / "default" / "hotkeys" / "default"
    locked.parent.mkdir(parents=True)
    locked.write_bytes(b"$NACL and the rest")
    wallets = ["--wallet.path", str(tmp_path)]
    cases += [(name, ["--run", run_file, *chain, *wallets], "is encrypted") for name in neurons]
    cases += [
        (name, ["--run", run_file, *chain, "--neuron.device", "cuda:9"], "--neuron.device cuda:9")
        for name in neurons
        if not has_driver("cuda")
    ]
    cases += [
        ("owner", ["check", "--run", absent, *chain], "absent.toml"),
        ("owner", [*publish, "--plan", plan, "--text", absent], "--text"),
        ("owner", [*publish, "--plan", absent, "--text", text], "absent.toml"),
        ("owner", [*publish, "--plan", plan, "--text", text, "-w", "nobody"], "btcli"),
        ("bucket", ["name", "-w", "nobody"], "btcli wallet create"),
        ("bucket", ["check", "--hotkey", "5F"], "--hotkey"),
        ("model", ["generate", "x", "--run", absent, *chain], "absent.toml"),
        ("model", ["eval", "--model", absent], "has no config.json"),
        ("newcomer", ["--run", absent, *chain], "absent.toml"),
        ("plan", ["--run", absent], "absent.toml"),
        ("plan", ["--run", plan, "--up-mbps", "0"], "--up-mbps"),
        ("plan", ["--run", plan, "--gpu", "abacus:8"], "--gpu"),
        ("replay", ["--run", absent, *chain], "absent.toml"),
        ("replay", ["--run", run_file, *chain, "-n", "test"], "contradicts"),
        ("recompute", ["--run", run_file, str(tmp_path / "log")], "name verdict logs"),
        ("recompute", ["--run", run_file, *chain, "--validator", "5F"], "--validator"),
        ("localnet", ["--windows", "0"], "--windows"),
        ("localnet", ["--text", absent], "absent.toml"),
        ("localnet", ["--text", text, "--plan", absent], "absent.toml"),
        ("localnet", ["--text", text, "--misbehave", "lazy:1"], "lazy"),
        ("localnet", ["--misbehave", "help"], "garbage"),
    ]
    told = _told([(name, argv) for name, argv, _ in cases], **BUCKET)
    for (name, argv, word), (status, said, heavy) in zip(cases, told, strict=True):
        assert status == (0 if argv[-1] in ("--help", "help") else 2), (name, argv, said)
        assert word in said, (name, argv, said)
        assert heavy == [], (name, argv)


def test_no_command_waits_for_a_library_to_miss_a_variable(run_file: str, tmp_path: Path) -> None:
    chain = ["--netuid", "1"]
    plan, text = str(ROOT / "runs" / "localnet.toml"), str(ROOT / "README.md")
    out = str(tmp_path / "out.toml")
    publish = ["publish", *chain, "--out", out, "--start-in", "99", "--plan", plan, "--text", text]
    cases = [
        ("miner", ["--run", run_file, *chain]),
        ("validator", ["--run", run_file, *chain]),
        ("bucket", ["check", "--hotkey", NOBODY]),
        ("owner", publish),
    ]
    for name in BUCKET:
        env = {key: value for key, value in BUCKET.items() if key != name}
        for status, said, heavy in _told(cases, **env):
            assert (status, said.count("\n"), heavy) == (2, 1, []), said
            assert name in said


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
    remedy = {"folder": "name the file in it", "nothing": "no such file"}.get(kind, "move it away")
    assert remedy in capsys.readouterr().err
