"""`model generate --chat`: a folder with a chat template answers, and any other says so."""

import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simulation.swarm import small_plan, synthetic_corpus
from simulation.world import hotkey_of
from template.cli.main import run_command
from template.cli.model_flags import FolderSource, GenerateConfig
from template.cli.process_state import restored_process_state
from template.commands.model_chat import chat, run_chat
from template.commands.model_generate import load_model
from template.commands.plan import RunChoices, prepare_run
from template.data.chat import BYTE_CHAT
from template.data.tokenizer import ByteTokenizer
from template.errors import ConfigError
from template.protocol.spec import ChatSpec, RunSpec
from template.training.companions import companion_files
from template.training.model import initial_params
from template.training.model_folder import model_files, write_files

SILENT = ChatSpec(system=1, user=5, assistant=2, end=0)
"""With parameters of zeros the likeliest token is 0: here the end of a message."""


@pytest.fixture(scope="module", autouse=True)
def _process_as_before() -> Iterator[None]:
    with restored_process_state():
        yield


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=16)
    return prepare_run(small_plan(), synthetic_corpus(20_000), choices).spec


def folder_of(spec: RunSpec, folder: Path, chat_spec: ChatSpec | None, factor: float) -> Path:
    changed = replace(spec, data=replace(spec.data, chat=chat_spec))
    params = {name: factor * tensor for name, tensor in initial_params(spec, seed=1).items()}
    companions = companion_files(changed, ByteTokenizer.entry, b"")
    write_files(folder, model_files(params, changed, companions, "float32"))
    return folder


@pytest.fixture(scope="module")
def talking(spec, tmp_path_factory) -> Path:
    return folder_of(spec, tmp_path_factory.mktemp("talking"), BYTE_CHAT, 1.0)


@pytest.fixture(scope="module")
def silent(spec, tmp_path_factory) -> Path:
    return folder_of(spec, tmp_path_factory.mktemp("silent"), SILENT, 0.0)


def config_of(folder: Path, prompt: str | None, **fields) -> GenerateConfig:
    source = FolderSource(folder=folder, device="cpu")
    given = {"max_tokens": 4, "temperature": 0.0, "top_p": 0.95, "seed": 0, **fields}
    return GenerateConfig(source=source, prompt=prompt, is_chat=True, **given)


def test_generation_ends_at_the_end_of_a_message(talking) -> None:
    settings = json.loads((talking / "generation_config.json").read_text())
    assert settings["eos_token_id"] == BYTE_CHAT.end


def test_history_is_kept_and_the_oldest_turns_are_forgotten(talking) -> None:
    loaded, written = load_model(talking, "cpu"), list[str]()
    asked: list[list[int]] = []
    generated = loaded.model.generate

    def note(tokens: torch.Tensor, **options: object) -> torch.Tensor:
        asked.append(tokens[0].tolist())
        return generated(tokens, **options)

    loaded.model.generate = note
    turns = ["a", "", "bc", "d" * (loaded.context_tokens - 12), "e"]
    messages = chat(loaded, config_of(talking, None), turns, written.append, print)
    first = [5, ord("a"), 3, 2]
    assert asked[0] == first
    assert asked[1][: len(first)] == first
    assert asked[1][-5:] == [5, ord("b"), ord("c"), 3, 2]
    assert len(asked) == 4
    assert asked[2] == [5, *b"d" * (loaded.context_tokens - 12), 3, 2], "no room for more"
    assert [message["role"] for message in messages[-2:]] == ["user", "assistant"]
    assert "".join(written).count("\n") >= 4


def test_an_answer_ends_with_the_end_token_which_is_not_shown(silent) -> None:
    written: list[str] = []
    run_chat(config_of(silent, "Who is there?", max_tokens=50), written.append, print)
    assert "".join(written) == "\n"


def test_each_line_of_input_is_a_turn(silent, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Who is there?\n\nNay, answer me.\n"))
    argv = ["generate", "--model", str(silent), "--chat", "--neuron.device", "cpu"]
    assert run_command("model", [*argv, "--temperature", "0"], "tessera model") == 0
    assert capsys.readouterr().out == "\n\n"


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_input_that_is_no_utf_8_is_blamed_on_the_input(silent, monkeypatch, capsys, errors) -> None:
    data = io.BytesIO(b"Who is there?\nN\xe4y\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data, "utf-8", errors=errors))
    argv = ["generate", "--model", str(silent), "--chat", "--neuron.device", "cpu"]
    assert run_command("model", argv, "tessera model") == 2
    assert re.search(r"standard input: is not UTF-8 in line \d", capsys.readouterr().err)
    for flags in ([], ["--chat"]):
        with pytest.raises(SystemExit):
            run_command("model", ["generate", "N\udce4y", *flags], "tessera model")
        assert "argument TEXT: is not UTF-8" in capsys.readouterr().err


def test_a_folder_without_a_template_is_refused(spec, tmp_path) -> None:
    folder = folder_of(spec, tmp_path / "base", None, 1.0)
    with pytest.raises(ConfigError, match="--chat: the model in .* has no chat template"):
        run_chat(config_of(folder, "Who?"), print, print)


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}",
        "{{ 1 // 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ (10 ** 400) * 1.0 }}",
        "{{ messages[0].x.y }}",
        "{{ 'a' * 10 ** 15 }}",
    ],
)
def test_a_template_that_fails_is_one_sentence(spec, tmp_path, template: str) -> None:
    folder = folder_of(spec, tmp_path / "broken", BYTE_CHAT, 1.0)
    path = folder / "tokenizer_config.json"
    table = json.loads(path.read_text()) | {"chat_template": template}
    path.write_text(json.dumps(table))
    with pytest.raises(ConfigError, match="--chat: the chat template .* cannot be used"):
        run_chat(config_of(folder, "Who?"), print, print)


def test_without_a_text_and_without_chat_nothing_is_asked(talking, capsys) -> None:
    assert run_command("model", ["generate", "--model", str(talking)], "tessera model") == 2
    assert "TEXT: missing" in capsys.readouterr().err
