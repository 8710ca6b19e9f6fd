"""The table `[data.chat]`: absent it changes nothing, present it is checked and changes the id."""

from dataclasses import replace

import pytest

from template.errors import ConfigError
from template.protocol.run import Run
from template.protocol.spec import ChatSpec, RunSpec, parse_spec, spec_to_toml
from template.protocol.succession import changes
from tests.support.successions import successor

CHAT = ChatSpec(system=1, user=5, assistant=2, end=3)


def with_chat(spec: RunSpec, chat: ChatSpec | None = CHAT) -> RunSpec:
    return replace(spec, data=replace(spec.data, chat=chat))


def test_without_the_table_the_id_is_that_of_before(spec: RunSpec) -> None:
    assert "chat" not in spec_to_toml(spec)
    assert with_chat(with_chat(spec), None).spec_id == spec.spec_id
    assert spec.spec_id.hex() == "39505df15e6ef13c2b4a2a5c0634a845", "of the time before the table"


def test_the_table_comes_back_from_the_text(spec: RunSpec) -> None:
    chat = with_chat(spec)
    text = spec_to_toml(chat)
    assert "\n[data.chat]\nsystem = 1\nuser = 5\nassistant = 2\nend = 3\n" in text
    assert parse_spec(text) == chat
    assert chat.spec_id != spec.spec_id
    assert chat.spec_id != with_chat(spec, replace(CHAT, end=4)).spec_id


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("end = 3", "end = 2", "data.chat.assistant: is 2, as data.chat.end"),
        ("end = 3", "end = 256", "data.chat.end: is 256, must be less than model.vocab_size, 256"),
        ("end = 3", "end = -1", "data.chat.end: is -1, must be in"),
        ("end = 3\n", "", "data.chat.end: missing"),
        ("end = 3", 'end = "3"', "data.chat.end: must be an integer"),
        ("end = 3", "end = 3\nstop = 4", "data.chat.stop: unknown key"),
    ],
)
def test_a_wrong_table_is_named(spec: RunSpec, before: str, after: str, message: str) -> None:
    text = spec_to_toml(with_chat(spec))
    assert text.count(before) == 1
    with pytest.raises(ConfigError, match=message):
        parse_spec(text.replace(before, after))


def test_older_code_names_the_key(spec: RunSpec) -> None:
    """As a version without the table reads a spec with one: any unknown key ends the reading."""
    text = spec_to_toml(spec).replace("[schedule]", "[data.other]\nend = 3\n\n[schedule]")
    with pytest.raises(ConfigError, match=r"data\.other: unknown key"):
        parse_spec(text)


def test_a_succession_may_add_change_and_drop_the_table(spec: RunSpec) -> None:
    added = successor(spec, 3, data__chat=CHAT)
    changed = successor(added, 5, data__chat=replace(CHAT, end=7))
    dropped = successor(changed, 6, data__chat=None)
    run = Run(spec, added, changed, dropped)
    assert [run.at(w).data.chat for w in (2, 3, 5, 6)] == [
        None, CHAT, replace(CHAT, end=7), None,
    ]  # fmt: skip
    assert [change.key for change in changes(spec, added)] == ["data.chat"]
    words = str(changes(spec, added)[0])
    assert words.startswith('data.chat: (default) -> {"system": 1, ')
