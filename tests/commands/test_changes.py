"""The changes that are shipped, `succession draft --changes`, and `--data`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulation.swarm import small_plan, synthetic_corpus
from simulation.world import hotkey_of
from template.cli.main import parse_command
from template.cli.succession_flags import DraftConfig, succession_config
from template.commands.plan import RunChoices, load_plan, prepare_run
from template.commands.succession import drafted
from template.data.chat import BYTE_CHAT
from template.data.folder import DatasetFolder, Layout, open_folder, write_dataset
from template.data.manifest import manifest_digest
from template.data.preparing.card import CARD_NAME, card_json
from template.data.tokenizer import ByteTokenizer
from template.errors import ConfigError
from template.protocol.run import Run
from template.protocol.spec import RunSpec, spec_to_toml
from template.protocol.spec.plan import draft_spec
from template.protocol.succession import changes
from template.training.rates import inner_lr

ROOT = Path(__file__).parents[2]
CHANGES = sorted((ROOT / "runs" / "changes").glob("*.toml"))
BEFORE, WINDOW, END = 20, 24, 40
CHOICES = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=1000)


def config(folder: Path, spec: RunSpec, *flags: str) -> DraftConfig:
    (folder / "run.toml").write_text(spec_to_toml(spec))
    argv = ["draft", "--run", str(folder / "run.toml"), "--netuid", "1", "--window", str(WINDOW)]
    argv += ["--out", str(folder / "next.toml"), "--subtensor.network", "ws://127.0.0.1:9"]
    found = succession_config(parse_command("succession", [*argv, *flags], "tessera succession"))
    assert isinstance(found, DraftConfig)
    return found


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return prepare_run(small_plan(schedule__num_windows=60), synthetic_corpus(20_000), CHOICES).spec


def dataset_in(
    folder: Path, spec: RunSpec, chat: dict[str, int] | None, segments: int = 40
) -> Path:
    """A dataset of random pages, with a card."""
    data = spec.data
    layout = Layout(
        page_tokens=data.page_tokens,
        segment_pages=data.segment_pages,
        shard_segments=segments,
        token_bytes=2,
    )
    draw = np.random.default_rng(1 if chat is None else 2)

    def pages(count: int) -> list[np.ndarray]:
        return [draw.integers(10, 200, size=(count * data.segment_pages, data.page_tokens))]

    write_dataset(folder, layout, ByteTokenizer.entry, pages(segments), pages(10))
    (folder / CARD_NAME).write_bytes(card_json({} if chat is None else {"chat": chat}))
    return folder


@pytest.fixture(scope="module")
def chat_data(spec, tmp_path_factory) -> Path:
    table = {"system": 1, "user": 5, "assistant": 2, "end": 3}
    return dataset_in(tmp_path_factory.mktemp("chat"), spec, table)


@pytest.fixture(scope="module")
def plain_data(spec, tmp_path_factory) -> Path:
    return dataset_in(tmp_path_factory.mktemp("plain"), spec, None)


def draft(spec: RunSpec, found: DraftConfig, dataset: DatasetFolder | None = None) -> RunSpec:
    return drafted(Run(spec), found, bytes(16), dataset)


def test_the_shipped_changes_are_those_of_the_guide() -> None:
    assert [path.stem for path in CHANGES] == ["anneal", "muon", "sft"]
    guide = (ROOT / "docs" / "succession.md").read_text()
    assert all(f"--changes runs/changes/{path.name}" in guide for path in CHANGES)


@pytest.mark.parametrize("path", CHANGES, ids=lambda path: path.stem)
@pytest.mark.parametrize("plan", ["localnet", "small"])
def test_shipped_changes_follow_a_shipped_plan(path: Path, plan: str, tmp_path: Path) -> None:
    choices = replace(CHOICES, num_windows=END)
    before = draft_spec(load_plan(ROOT / "runs" / f"{plan}.toml"), choices)
    flags = ("--changes", str(path), "--set", f"schedule.num_windows={END}")
    after = draft(before, config(tmp_path, before, *flags))
    table = found_in(path)
    for section, keys in table.items():
        for key, value in keys.items():
            assert getattr(getattr(after, section), key) == value
    changed = {change.key for change in changes(before, after)}
    named = {f"{section}.{key}" for section, keys in table.items() for key in keys}
    assert changed <= {*named, "schedule.num_windows"}
    rates = [inner_lr(after, window, step=0) for window in range(WINDOW + 1, END)]
    if "decay_share" in table["training"]:
        assert rates == sorted(rates, reverse=True), "the rate falls to the end"
        assert rates[-1] < 0.2 * after.training.inner_lr
    else:
        assert max(rates) == after.training.inner_lr, "the decay is that of the run"


def found_in(path: Path) -> dict[str, Any]:
    return {name: dict(keys) for name, keys in load_plan(path).items()}


def test_what_is_set_beside_a_file_wins(spec, tmp_path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[training]\ninner_lr = 0.5\nweight_decay = 0.0\n[data.chat]\nend = 9\n")
    flags = ["--changes", str(path), "--set", "training.inner_lr=0.25"]
    flags += [f"--set=data.chat.{key}={token}" for key, token in
              (("system", 1), ("user", 5), ("assistant", 2))]  # fmt: skip
    after = draft(spec, config(tmp_path, spec, *flags))
    assert (after.training.inner_lr, after.training.weight_decay) == (0.25, 0.0)
    assert after.data.chat == replace(BYTE_CHAT, end=9)
    again = drafted(
        Run(spec, after),
        replace(config(tmp_path, spec, "--unset", "data.chat"), window=WINDOW + 1),
        bytes(16),
    )
    assert again.data.chat is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"', "name: stands above the tables"),
        ("[outr]\nx = 1", "outr: no such table; there are: model, data"),
        ("[continues]\nwindow = 1", "continues: no such table"),
        ("[training]\nx = 1", "training.x: unknown key"),
        ("[model]\nhidden_size = 16", "model.hidden_size: a succession cannot change it"),
        ("[training", "not valid TOML"),
        ("[data.chat]\nend = 3", "data.chat.system: missing"),
    ],
)
def test_a_wrong_file_is_named(spec, tmp_path, text: str, message: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        draft(spec, config(tmp_path, spec, "--changes", str(path)))


def test_a_dataset_brings_its_fields_and_its_chat_table(spec, tmp_path, chat_data, plain_data):
    found = config(tmp_path, spec, "--data", str(chat_data))
    assert found.data == chat_data
    chat = open_folder(chat_data)
    after = draft(spec, found, chat)
    assert after.data.manifest_digest == manifest_digest(chat.manifest).hex()
    assert after.data.chat == BYTE_CHAT
    later = replace(config(tmp_path, spec), window=WINDOW + 1)
    back = drafted(Run(spec, after), later, bytes(16), open_folder(plain_data))
    assert back.data.chat is None
    assert {change.key for change in changes(after, back)} == {"data.chat", "data.manifest_digest"}


def test_a_dataset_that_is_not_fit_is_refused(spec, tmp_path) -> None:
    other = replace(spec, data=replace(spec.data, page_tokens=16))
    folder = dataset_in(tmp_path / "pages", other, None)
    found = config(tmp_path, spec)
    with pytest.raises(ConfigError, match="page_tokens: a succession cannot change it"):
        draft(spec, found, open_folder(folder))
    few = dataset_in(tmp_path / "few", spec, None, segments=3)
    with pytest.raises(ConfigError, match="take a larger text"):
        draft(spec, found, open_folder(few))
    broken = dataset_in(tmp_path / "broken", spec, {"system": 1})
    with pytest.raises(ConfigError, match=r"broken/card\.json: .* \(chat\.user: missing"):
        draft(spec, found, open_folder(broken))
    # As a killed command has left it: without a word the chat table would leave the spec.
    (broken / CARD_NAME).unlink()
    with pytest.raises(ConfigError, match=r"broken: has no card\.json, .* mix it again"):
        draft(spec, found, open_folder(broken))
