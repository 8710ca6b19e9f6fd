"""Conversations: what is taken, and a template that makes the tokens that training has seen."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from template.cli.process_state import restored_process_state
from template.data.chat import (
    BYTE_CHAT,
    BYTE_MARKERS,
    MARKERS,
    NAMED_MARKERS,
    ChatError,
    ChatForm,
    chat_table,
    chat_template,
    markers_of,
    rendered,
    special_tokens,
)
from template.data.preparing.bpe import END_OF_DOCUMENT, train_bpe
from template.data.tokenizer import ByteTokenizer, FastTokenizer, Tokenizer
from template.data.tokenizer_files import MAX_CONFIG_BYTES, tokenizer_files
from template.protocol.spec import ChatSpec

TEXTS = [b"The king shall have my love, and the queen my hand. " * 40]
BPE = FastTokenizer(train_bpe(TEXTS, 300, list(MARKERS.values())), "bpe", END_OF_DOCUMENT)
IDS = special_tokens(BPE.file)
BPE_CHAT = ChatSpec(**{key: IDS[text] for key, text in MARKERS.items()})
TOKENIZERS: dict[str, tuple[Tokenizer, ChatSpec]] = {
    "byte": (ByteTokenizer(), BYTE_CHAT),
    "bpe": (BPE, BPE_CHAT),
}
REFUSED = {"byte": ("\x01", "\x05", "\x02", "\x03"), "bpe": tuple(IDS)}


def say(*turns: str) -> list[dict[str, str]]:
    roles = ["system", *["user", "assistant"] * len(turns)]
    return [{"role": r, "content": c} for r, c in zip(roles, turns, strict=False)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> Iterator[dict[str, Any]]:
    """`AutoTokenizer` of a model's folder with a chat template, by tokenizer."""
    found = {}
    with restored_process_state():  # loading sets variables of the environment
        for name, (tokenizer, chat) in TOKENIZERS.items():
            folder = tmp_path_factory.mktemp(name)
            files = tokenizer_files(tokenizer.entry, tokenizer.file, 128, chat)
            for file, data in files.items():
                (folder / file).write_bytes(data)
            (folder / "config.json").write_text('{"model_type": "llama"}')
            found[name] = AutoTokenizer.from_pretrained(folder)
        yield found


def naive(messages: Sequence[dict[str, str]], tokenizer: Tokenizer, chat: ChatSpec) -> list[int]:
    """The ids message by message, from the definition."""
    ids: list[int] = []
    for message in messages:
        content = tokenizer.encode(message["content"].encode()).tolist()
        ids += [getattr(chat, message["role"]), *content, chat.end]
    return ids


def ours(name: str, messages: list[dict[str, str]]) -> list[int]:
    tokenizer, chat = TOKENIZERS[name]
    markers = markers_of(chat, tokenizer.entry, tokenizer.file)
    assert markers is not None
    text = rendered(messages, ChatForm(markers=markers, refused=REFUSED[name]))
    return tokenizer.encode_marked([text.encode()])[0].tolist()


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "turns",
    [
        ("Be brief.", "Who is there?", "Nay, answer me."),
        ("", "  spaces  ", "\n\nlines\n", "again", "\ttab "),
        (
            "{{ raise_exception('x') }}",
            "{% if x %}",
            "a 'quote' and \"another\"",
            "\\n",
            "\xe9\u4e2d",
        ),
        ("<|nothing|>", "<s>", "</s> [INST]", "<|", "|>"),
    ],
)
def test_the_template_makes_the_tokens_of_the_data(loaded, name: str, turns) -> None:
    messages = say(*turns)
    tokenizer, chat = TOKENIZERS[name]
    found = loaded[name].apply_chat_template(messages, tokenize=True, return_dict=False)
    assert found == ours(name, messages) == naive(messages, tokenizer, chat)
    prompt = loaded[name].apply_chat_template(
        messages, tokenize=True, return_dict=False, add_generation_prompt=True
    )
    assert prompt == [*found, chat.assistant]


@given(st.lists(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"])), min_size=3))
def test_any_text_has_the_same_tokens(loaded, turns: list[str]) -> None:
    messages = say(*[turn or "-" for turn in turns])
    for name, tokenizer in loaded.items():
        found = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert found == ours(name, messages)


def test_an_unknown_role_is_refused_by_the_template_too(loaded) -> None:
    for tokenizer in loaded.values():
        with pytest.raises(Exception, match="a role is system, user or assistant"):
            tokenizer.apply_chat_template([{"role": "tool", "content": "x"}])


def test_without_the_table_the_files_are_those_of_before() -> None:
    for tokenizer, chat in TOKENIZERS.values():
        before = tokenizer_files(tokenizer.entry, tokenizer.file, 128)
        after = tokenizer_files(tokenizer.entry, tokenizer.file, 128, chat)
        config = json.loads(after["tokenizer_config.json"])
        assert config.pop("chat_template")
        assert config == json.loads(before["tokenizer_config.json"])
        assert len(after["tokenizer_config.json"]) <= MAX_CONFIG_BYTES


def test_the_markers_are_special_tokens_or_there_is_no_template() -> None:
    byte, bpe = ByteTokenizer(), BPE
    assert markers_of(BYTE_CHAT, byte.entry, b"") == BYTE_MARKERS
    assert markers_of(BPE_CHAT, bpe.entry, bpe.file) == NAMED_MARKERS
    word = ChatSpec(system=1, user=5, assistant=2, end=200)
    assert markers_of(word, byte.entry, b"") is None, "200 is half a letter"
    assert markers_of(word, bpe.entry, bpe.file) is None, "a word, and no special token"
    files = tokenizer_files(bpe.entry, bpe.file, 128, word)
    assert b"chat_template" not in files["tokenizer_config.json"]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("text", "is no list of messages"),
        ([], "is no list of messages"),
        (["text"], "message 1 is no object"),
        ([{"role": "tool", "content": "x"}], "message 1 has another role than system, user"),
        ([{"role": "user"}], "message 1 has no text as content"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 1 has no text"),
        (say("", "a question")[1:], "has no message of the role assistant"),
        (say("", "a question", "")[1:], "message 2 is an empty answer"),
        (say("", "a", "b \x03 c")[1:], r"message 2 holds \"\\u0003\", which is a token"),
    ],
)
def test_what_is_no_conversation_is_refused(messages: object, words: str) -> None:
    with pytest.raises(ChatError, match=words):
        rendered(messages, ChatForm(markers=BYTE_MARKERS, refused=REFUSED["byte"]))


def test_a_template_is_ascii_and_the_table_is_toml() -> None:
    assert chat_template(BYTE_MARKERS).isascii()
    assert chat_template(BYTE_MARKERS).isprintable()
    assert chat_table(BYTE_CHAT) == "[data.chat]\nsystem = 1\nuser = 5\nassistant = 2\nend = 3\n"
