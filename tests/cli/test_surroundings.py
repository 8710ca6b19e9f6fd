"""Nothing that the run spec decides comes from the environment, and nothing goes by a proxy."""

import os
import re
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from template.cli import main
from template.cli.process_state import restored_process_state
from template.cli.surroundings import clear_environment, deciding
from tests.support.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[2]
LAUNCHED = {
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}
"""Left by a launcher of training on several machines: accelerate waits for the others for ever."""
ARITHMETIC = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "7",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "NVIDIA_TF32_OVERRIDE": "1",
    "XLA_USE_BF16": "1",
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "default",
}
PROXIES = {
    "http_proxy": "http://127.0.0.1:1",
    "HTTPS_PROXY": "http://127.0.0.1:1",
    "all_proxy": "socks5h://127.0.0.1:1",
    "wss_proxy": "http://127.0.0.1:1",
    "NO_PROXY": "example.com",
}
MACHINE = {
    "OMP_NUM_THREADS": "2",
    "MKL_NUM_THREADS": "2",
    "CUDA_VISIBLE_DEVICES": "0",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "HF_HOME": "/cache",
    "WANDB_API_KEY": "k",
    "TESSERA_BUCKET_READ_SECRET": "s",
    "PATH": "/bin",
}
URLS = ("ws://127.0.0.1:9944", "ws://localhost:9944", "wss://entrypoint.example.com:443")

OF_NO_RUN = re.compile(
    # Threads, caches, shells and tests; trackers of experiments and a cloud's launcher, which a
    # node does not use.
    "OMP_NUM_THREADS|HF_HOME|XDG_CACHE_HOME|systemdrive|FOO|RUN_SLOW|PYTEST_.*"
    "|(AWS|MLFLOW|CLEARML)_.*"
)


def test_deciding_variables_are_removed_and_the_machines_stay() -> None:
    removed = LAUNCHED | ARITHMETIC | PROXIES | {"BT_CHAIN_ENDPOINT": "ws://elsewhere:1"}
    env = removed | MACHINE
    told = clear_environment(env)
    assert told == sorted(removed.keys() - {"NO_PROXY"})
    assert env == MACHINE | {"no_proxy": "*"}
    assert clear_environment(env) == []


def test_every_variable_that_accelerate_reads_is_decided_on() -> None:
    """A new release of accelerate may read a new one: this test asks for a decision."""
    spec = find_spec("accelerate")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    read = re.compile(r"""(?:environ(?:\.get)?[\[(]|getenv\(|_from_env\(\[?)\s*["'](\w+)["']""")
    names = {
        name
        for path in folder.rglob("*.py")
        if path.relative_to(folder).parts[0] not in ("commands", "test_utils")
        for name in read.findall(path.read_text(encoding="utf-8"))
    }
    assert {"WORLD_SIZE", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"} <= names
    left = names - set(deciding(names))
    assert {name for name in left if OF_NO_RUN.fullmatch(name) is None} == set()


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.parametrize("url", URLS)
def test_no_proxy_is_taken_to_any_chain(name: str, url: str, monkeypatch) -> None:
    for other in [other for other in os.environ if other.lower().endswith("_proxy")]:
        monkeypatch.delenv(other)
    monkeypatch.setenv(name, PROXIES[name])
    with restored_process_state():
        clear_environment(os.environ)
        assert get_proxy(parse_uri(url)) is None
        assert set(urllib.request.getproxies()) == {"no"}


def test_a_command_says_so_in_one_line_and_gives_the_environment_back(monkeypatch, capsys) -> None:
    seen: dict[str, str] = {}

    def run(_settings: object) -> int:
        seen.update(os.environ)
        return 0

    command = main.COMMANDS["bucket"]
    fake = main.Command(
        summary=command.summary,
        add_flags=command.add_flags,
        settings=command.settings,
        load=lambda: run,
    )
    monkeypatch.setattr(main, "COMMANDS", {**main.COMMANDS, "bucket": fake})
    given = LAUNCHED | PROXIES | MACHINE
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    hotkey = "5C4hrfjw9DjXZTzV3MwzrrAr9P1MJhSrvWGWqi1eSuyUpnhM"
    assert main.run_command("bucket", ["name", "--hotkey", hotkey], "bucket") == 0
    (line,) = capsys.readouterr().err.splitlines()
    named = LAUNCHED.keys() | PROXIES.keys() - {"NO_PROXY"}
    assert [name for name in named if name not in line] == []
    assert line.startswith("bucket: ignores ")
    assert line.endswith("unset them")
    assert not any(value in line.split() for value in given.values())
    assert {name: seen.get(name) for name in named} == dict.fromkeys(named)
    assert {name: seen[name] for name in MACHINE} == MACHINE
    assert {name: os.environ[name] for name in given} == given


TRAIN = """
import os
from template.cli.process_state import restored_process_state
from template.cli.surroundings import clear_environment
clear_environment(os.environ)
from template.training.devices import make_accelerator
accelerator = make_accelerator("cpu", "no")
print(accelerator.num_processes, accelerator.gradient_accumulation_steps)
print(accelerator.mixed_precision)
"""


@pytest.mark.slow
def test_the_accelerator_of_a_launched_process_is_that_of_a_node() -> None:
    """Without the removal the process waits for its peers until the time-out."""
    done = subprocess.run(
        [sys.executable, "-c", TRAIN],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **LAUNCHED, **ARITHMETIC},
        check=False,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["1", "1", "no"]), done.stderr
