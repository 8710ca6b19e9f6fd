"""The launcher's proposals: one after the other, each with a root, supported by all."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from localnet.changes import Change
from localnet.config import LocalnetConfig
from localnet.flags import PLAN, localnet_config
from localnet.proposing import Proposer, checked
from simulation.world import hotkey_of
from template.base.supporting import support_path
from template.cli.flags import CHECKOUT as PROJECT
from template.cli.main import parse_command
from template.errors import EXIT_OPERATOR, ConfigError
from template.protocol.run import Run
from template.protocol.spec import RunSpec, load_spec
from template.protocol.spec.plan import RunChoices, draft_spec, load_plan
from tests.support.waiting import HANG_S

ROOT = "cd" * 32
VALIDATORS = ("val-0", "val-1")


@pytest.fixture
def spec() -> RunSpec:
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=99, num_windows=24)
    return draft_spec(load_plan(PLAN), choices)


def proposer(spec: RunSpec, folder: Path, *windows: int) -> tuple[Proposer, list[str]]:
    """Two validators; each change halves alpha once more."""
    for name in VALIDATORS:
        (folder / "nodes" / name).mkdir(parents=True)
    changes = [
        Change(
            window=window,
            file=Path(f"{number}.toml"),
            table={"outer": {"outer_lr": spec.outer.outer_lr / 2**number}},
        )
        for number, window in enumerate(windows, start=1)
    ]
    (folder / "text.tar.gz").touch()
    argv = ("--out", str(folder), "--text", str(folder / "text.tar.gz"), "--validators", "2")
    config = localnet_config(parse_command("localnet", argv, "neurons/localnet.py"))
    told: list[str] = []
    config = replace(config, changes=tuple(changes))
    return Proposer(spec, config, "ws://127.0.0.1:9", told.append), told


def with_changes(folder: Path, *texts: str) -> LocalnetConfig:
    """A localnet with changes at window 8 and on; `texts`: their files."""
    for number, text in enumerate(texts):
        (folder / f"{number}.toml").write_text(text)
    (folder / "text.tar.gz").touch()
    (folder / "plain").mkdir()
    wish = ",".join(f"{8 + n}:{folder / f'{n}.toml'}" for n in range(len(texts)))
    argv = ("--out", str(folder / "out"), "--text", str(folder / "text.tar.gz"), "--changes", wish)
    return localnet_config(parse_command("localnet", argv, "neurons/localnet.py"))


RATES = "[outer]\nouter_lr = 3.0\n"


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("[outr]\nx = 1",), r"8:.*0\.toml: .* outr: no such table"),
        (("[outer]\nouter_rate = 1",), r"8:.*0\.toml: .*: outer\.outer_rate: unknown key"),
        ((RATES, "[outer]\nouter_lr = -1.0"), r"9:.*1\.toml: .*: outer\.outer_lr: is -1"),
        ((RATES, RATES, "[model]\nhidden_size = 16"), r"10:.*hidden_size: .* cannot change it"),
    ],
)
def test_a_wrong_change_is_found_before_anything_starts(
    spec: RunSpec, tmp_path, texts, words
) -> None:
    with pytest.raises(ConfigError, match=words):
        checked(spec, with_changes(tmp_path, *texts))


def test_a_folder_that_is_no_dataset_is_found_before_anything_starts(tmp_path) -> None:
    """By the command, in a process of its own: a launcher changes the environment."""
    config = with_changes(tmp_path, RATES)
    wish = f"8:{config.changes[0].file}:{tmp_path / 'plain'}"
    argv = ["--out", str(config.out), "--text", str(config.text), "--changes", wish]
    done = subprocess.run(
        [sys.executable, "-m", "template.cli", "localnet", *argv],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == EXIT_OPERATOR, done.stderr
    assert f"{tmp_path / 'plain' / 'manifest.json'} cannot be read" in done.stderr
    assert not (config.out / "pids.json").exists(), "no process has started"


def supported(folder: Path) -> list[RunSpec]:
    """What each validator supports."""
    paths = [support_path(folder / "nodes" / name) for name in VALIDATORS]
    return [load_spec(path) for path in paths if path.exists()]


def test_a_change_is_proposed_once_there_is_a_root(spec: RunSpec, tmp_path) -> None:
    found, told = proposer(spec, tmp_path, 8)
    found.note([{"window": 0, "held_out_loss": 2.0}])
    assert supported(tmp_path) == []
    found.note([{"window": 0, "state_root": ROOT}, {"window": 1, "state_root": "ee" * 32}])
    first, second = supported(tmp_path)
    assert first == second == load_spec(tmp_path / "next-8.toml")
    assert first.continues is not None
    assert (first.first_window, first.continues.root) == (8, ROOT[:32])
    assert first.outer.outer_lr == spec.outer.outer_lr / 2
    assert Run(spec, first).newest == first
    assert len(told) == 1


def test_the_next_change_follows_the_spec_that_was_adopted(spec: RunSpec, tmp_path) -> None:
    found, told = proposer(spec, tmp_path, 8, 12)
    found.note([{"window": 0, "state_root": ROOT}])
    first = load_spec(tmp_path / "next-8.toml")
    found.note([{"window": 2, "state_root": ROOT}, {"window": 8, "spec": first.spec_id.hex()}])
    assert not (tmp_path / "next-12.toml").exists()
    found.note([{"window": 3, "state_root": ROOT}])
    second = load_spec(tmp_path / "next-12.toml")
    assert second.continues is not None
    assert second.continues.spec == first.spec_id.hex()
    assert supported(tmp_path) == [second, second]
    assert len(told) == 2


def test_a_change_that_is_not_adopted_is_told_and_ends_the_changes(spec: RunSpec, tmp_path) -> None:
    found, told = proposer(spec, tmp_path, 8, 12)
    found.note([{"window": window, "state_root": ROOT} for window in range(6)])
    assert "does not change at window 8" in told[-1]
    assert len(told) == 2
    assert not (tmp_path / "next-12.toml").exists()
