"""Deployment files name only flags, variables and paths that exist, and honour exit status 2."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from template.cli.environment import bucket_settings
from template.cli.init_flags import SETTINGS, read_env_file
from template.cli.main import COMMANDS, parse_command
from template.commands.init_files import env_text, start_text, unit_name, unit_text
from template.errors import EXIT_OPERATOR

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "contrib" / "deploy"
ROLES = ("miner", "validator")
HEX = "ab" * 16


def settings_of_example() -> list[str]:
    lines = (DEPLOY / ".env.example").read_text(encoding="ascii").splitlines()
    return [line.partition("=")[0] for line in lines if line and not line.startswith("#")]


def test_the_example_has_five_settings_that_a_neuron_takes() -> None:
    names = settings_of_example()
    assert len(names) == 5
    assert set(names) <= set(SETTINGS)
    values = dict.fromkeys(names, HEX)
    values |= {"TESSERA_BUCKET_WRITE_KEY": f"{HEX}:{HEX}{HEX}"}
    values |= {"TESSERA_BUCKET_READ_KEY": f"{HEX[::-1]}:{HEX[::-1] * 2}"}
    settings = bucket_settings({k: v for k, v in values.items() if "BUCKET" in k or "R2" in k})
    assert settings.write.secret.reveal() == HEX * 2


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yml").read_text(encoding="ascii"))
    return found


@pytest.mark.parametrize("role", ROLES)
def test_compose(role: str, tmp_path: Path) -> None:
    service = compose()["services"][role]
    needed = [n for n, value in service["environment"].items() if str(value).endswith(":?}")]
    assert sorted(needed) == sorted(settings_of_example())
    assert set(service["environment"]) <= set(SETTINGS)
    assert (service["read_only"], service["user"]) == (True, "10001:10001")
    assert service["cap_drop"] == ["ALL"]
    assert service["restart"] == "on-failure"
    assert service["command"][0] == role
    args = parse_command(role, [*flags_of_entry(tmp_path), *service["command"][1:]], "tessera")
    assert f"127.0.0.1:{args.metrics_port}/healthz" in service["healthcheck"]["test"][-1]
    assert (ROOT / "contrib" / "deploy" / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()


def flags_of_entry(folder: Path) -> list[str]:
    """The flags that entry.sh gives to the neuron, as a program of its place sees them."""
    return json.loads(run_entry(folder, "miner").stdout.splitlines()[-1])[1:]


def run_entry(
    folder: Path, *words: str, status: int = 0, first: int = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """entry.sh with a program in tessera's place, which prints its words and ends with a status.

    `first`: the status of `newcomer`.
    """
    program = folder / "program"
    program.write_text(
        "#!/usr/bin/env python3\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
        f"if sys.argv[1] == 'newcomer': open(sys.argv[7], 'w').close()\n"
        f"sys.exit({first} if sys.argv[1] == 'newcomer' else {status})\n"
    )
    program.chmod(0o700)
    known = {
        "PATH": os.defpath,
        "TESSERA": str(program),
        "STATE": str(folder),
        "TESSERA_NETWORK": "test",
        "TESSERA_NETUID": "42",
    }
    return subprocess.run(
        ["sh", str(DEPLOY / "entry.sh"), *words],
        env={**known, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_entry_point_fetches_the_run_spec_once(tmp_path: Path) -> None:
    first = run_entry(tmp_path, "validator", "--metrics.port", "9109")
    again = run_entry(tmp_path, "validator")
    newcomer, neuron = map(json.loads, first.stdout.splitlines())
    run = str(tmp_path / "run.toml")
    assert newcomer == [
        "newcomer", "--netuid", "42", "--subtensor.network", "test", "--out", run,
    ]  # fmt: skip
    assert neuron[:3] == ["validator", "--run", run]
    assert neuron[-2:] == ["--metrics.port", "9109"]
    parse_command("newcomer", newcomer[1:], "tessera")
    parse_command("validator", neuron[1:], "tessera")
    assert len(again.stdout.splitlines()) == 1


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 1), (EXIT_OPERATOR, 0), (130, 130)])
def test_a_status_that_forbids_a_restart_ends_as_success(
    status: int, expected: int, tmp_path: Path
) -> None:
    ended = run_entry(tmp_path, "miner", status=status)
    assert ended.returncode == expected
    assert ("an operator has to change something" in ended.stderr) == (status == EXIT_OPERATOR)


@pytest.mark.parametrize(("status", "expected"), [(1, 1), (EXIT_OPERATOR, 0), (130, 130)])
def test_the_first_step_ends_the_container_as_the_neuron_does(
    status: int, expected: int, tmp_path: Path
) -> None:
    ended = run_entry(tmp_path, "miner", first=status)
    assert ended.returncode == expected
    assert [json.loads(line)[0] for line in ended.stdout.splitlines()] == ["newcomer"]
    assert ("an operator has to change something" in ended.stderr) == (status == EXIT_OPERATOR)


@pytest.mark.parametrize("step", ["newcomer", "miner"])
def test_a_signal_reaches_the_step_that_runs(step: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = {step} ] || exit 0\n'
        "trap 'exit 130' TERM\necho ready\nwhile :; do sleep 0.05; done\n"
    )
    program.chmod(0o700)
    env = {"PATH": os.defpath, "TESSERA": str(program), "STATE": str(tmp_path)}
    env |= {"TESSERA_NETWORK": "test", "TESSERA_NETUID": "4"}
    with subprocess.Popen(
        ["sh", str(DEPLOY / "entry.sh"), "miner"], env=env, stdout=subprocess.PIPE, text=True
    ) as entry:
        assert entry.stdout is not None
        assert entry.stdout.readline() == "ready\n"
        entry.terminate()
        assert entry.wait(60) == 130


@pytest.mark.parametrize("name", ["TESSERA_NETUID", "TESSERA_NETWORK"])
def test_a_missing_setting_is_named_and_not_tried_again(name: str, tmp_path: Path) -> None:
    unset: dict[str, Any] = {name: ""}
    ended = run_entry(tmp_path, "miner", **unset)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert f"{name} is not set" in ended.stderr


def test_other_commands_pass_as_they_are(tmp_path: Path) -> None:
    other = run_entry(tmp_path, "doctor", "miner", TESSERA_NETUID="")
    assert json.loads(other.stdout) == ["doctor", "miner"]


@pytest.mark.parametrize("role", ROLES)
def test_units_of_the_system(role: str, tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / f"tessera-{role}.service").read_text(encoding="ascii")
    assert f"RestartPreventExitStatus={EXIT_OPERATOR}\n" in text
    command = text.partition("ExecStart=")[2].partition("\nRestart=")[0].replace("\\\n", " ")
    program, name, *words = command.split()
    assert (program, name) == ("/opt/tessera/bin/tessera", role)
    used = set(re.findall(r"\$\{(\w+)\}", command))
    assert used <= set(settings_of_example())
    (tmp_path / "run.toml").touch()
    values = {"${TESSERA_NETUID}": "42", "${TESSERA_NETWORK}": "test"}
    values |= {"/var/lib/tessera/run.toml": str(tmp_path / "run.toml")}
    parse_command(role, [values.get(word, word) for word in words], "tessera")
    verify(DEPLOY / "systemd" / f"tessera-{role}.service")


def verify(unit: Path) -> None:
    """systemd's own check, where it is installed; the program itself is elsewhere."""
    if shutil.which("systemd-analyze") is None:
        return
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    wrong = [line for line in done.stderr.splitlines() if unit.name in line]
    assert [line for line in wrong if "is not executable" not in line] == []


def test_pm2() -> None:
    text = (DEPLOY / "ecosystem.config.js").read_text(encoding="ascii")
    assert f"stop_exit_codes: [0, {EXIT_OPERATOR}]" in text
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    script = 'console.log(JSON.stringify(require("./ecosystem.config.js")))'
    done = subprocess.run(
        ["node", "-e", script], cwd=DEPLOY, env={"PATH": os.environ["PATH"], "START": "/x/start"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    apps = {app["name"]: app for app in json.loads(done.stdout)["apps"]}
    assert set(apps) == {f"tessera-{role}" for role in ROLES}
    assert apps["tessera-miner"]["script"] == "/x/start"


def test_the_image_runs_as_nobody_special_and_copies_what_is_there() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="ascii")
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists()
    assert "/source/contrib/deploy/install.sh" in text
    constraints = (ROOT / "constraints.txt").read_text(encoding="ascii")
    assert len(re.findall(r"^torch==", constraints, re.MULTILINE)) == 1, "install.sh looks for it"
    for script in ("install.sh", "entry.sh", "try_image.sh"):
        subprocess.run(["sh", "-n", str(DEPLOY / script)], check=True, timeout=60)


def test_env_files_stay_out_of_commits_and_the_example_does_not() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout of git")
    names = ["contrib/deploy/.env", "tessera.env", "contrib/deploy/.env.example"]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *names],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == names[:2]


def test_the_context_of_the_image_has_no_keys() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="ascii").splitlines()
    assert {".git", "**/.env", "**/*.env", "**/wallets", "**/.venv"} <= set(lines)
    assert {"localnet-out*", "small-out*"} <= set(lines)


@pytest.mark.parametrize("role", [*ROLES, "owner"])
def test_the_start_script_of_init(role: str, tmp_path: Path) -> None:
    """Its words reach the program with the env file's variables, and no secret is in its text."""
    (tmp_path / "run.toml").touch()
    env = tmp_path / "a folder's.env"
    env.write_text(env_text({"TESSERA_BUCKET_WRITE_SECRET": "s3cret*?", "TESSERA_NETUID": "4"}))
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$TESSERA_BUCKET_WRITE_SECRET" "$@"\n')
    program.chmod(0o700)
    flags = ["--netuid", "4", "--subtensor.network", "test", "--wallet.path", "/a b"]
    text = start_text(
        role=role, env_file=env, program=[str(program)], run=tmp_path / "run.toml", flags=flags
    )
    start = tmp_path / "start"
    start.write_text(text)
    assert "s3cret" not in text

    def words(*given: str) -> list[str]:
        done = subprocess.run(
            ["sh", str(start), *given], capture_output=True, text=True, timeout=60, check=True
        )
        secret, *found = done.stdout.splitlines()
        assert secret == "s3cret*?"
        return found

    run = ["--run", str(tmp_path / "run.toml")]
    for look in ("doctor", "status"):
        found = words(look, "--json")
        assert found == [look, role, *run, *flags, "--json"]
        parse_command(look, found[1:], "tessera")
    if role == "owner":
        assert words("publish", "--plan", "x") == ["owner", "publish", "--plan", "x", *flags]
    else:
        assert words("--metrics.port", "1") == [role, *run, *flags, "--metrics.port", "1"]


@pytest.mark.parametrize("role", ROLES)
def test_the_unit_of_init(role: str, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.write_text("#!/bin/sh\n")
    start.chmod(0o700)
    unit = tmp_path / unit_name(role, "4")
    unit.write_text(unit_text(role=role, start=start))
    assert f"RestartPreventExitStatus={EXIT_OPERATOR}" in unit.read_text()
    verify(unit)


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/a b/start", '"/a b/start"'),
        ("/50%/$HOME/start", '"/50%%/$$HOME/start"'),
        ('/a"b\\c', '"/a\\"b\\\\c"'),
    ],
)
def test_a_path_in_a_unit_is_read_as_it_is(path: str, word: str) -> None:
    assert f"\nExecStart=/bin/sh {word}\n" in unit_text(role="miner", start=Path(path))
    with pytest.raises(ValueError, match="line end"):
        unit_text(role="miner", start=Path(path + "\nExecStart=/bin/other"))


@pytest.mark.parametrize("value", ["it's", "$HOME", "`id`", "back\\slash", "caf\u00e9", '"', "a b"])
def test_a_value_reaches_the_process_as_it_is(value: str, tmp_path: Path) -> None:
    file = tmp_path / "tessera.env"
    file.write_text(env_text({"TESSERA_NETWORK": value}), encoding="utf-8")
    assert read_env_file(file).values == {"TESSERA_NETWORK": value}
    command = '. "$0"; printf %s "$TESSERA_NETWORK"'
    done = subprocess.run(["sh", "-c", command, str(file)], capture_output=True, timeout=60)
    assert done.stdout.decode("utf-8") == value


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "nul\0", "tab\t"])
def test_a_value_with_a_line_end_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="TESSERA_X"):
        env_text({"TESSERA_X": value})


def test_commands_and_paths_of_the_pages_for_machines_exist() -> None:
    for name in ("AGENTS.md", "llms.txt", "docs/operating.md", "docs/outputs_operating.md"):
        text = (ROOT / name).read_text(encoding="ascii")
        for path in re.findall(r"\]\(([\w/.]+\.md)\)", text):
            assert (ROOT / name).parent.joinpath(path).is_file(), f"{name}: {path}"
        for path in re.findall(r"`((?:template|contrib|docs|tests|localnet)/[\w/.]*)`", text):
            assert (ROOT / path).exists(), f"{name}: {path}"
        for command in re.findall(r"`tessera (\w+)", text):
            assert command in COMMANDS, f"{name}: tessera {command}"
