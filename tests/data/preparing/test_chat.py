"""Conversations into pages: whole ones, each page with an answer, the same bytes after a stop."""

import hashlib
import itertools
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from template.data.chat import BYTE_CHAT, MARKERS
from template.data.folder import open_folder
from template.data.preparing.bpe import END_OF_DOCUMENT, train_bpe
from template.data.preparing.card import CARD_NAME, TEXT_NAME, read_chat
from template.data.preparing.order import Order
from template.data.preparing.packing import Packer
from template.data.preparing.prepare import prepare
from template.data.preparing.settings import Bounds, Choices
from template.data.preparing.vocabulary import TokenizerChoice
from template.data.tokenizer import Tokenizer, open_tokenizer
from template.errors import ConfigError
from template.protocol.spec import ChatSpec
from template.training.answers import answer_tokens

PAGE, SEGMENT = 64, 4
SMALL = Bounds(run_bytes=900, bucket_bytes=3_000, part_bytes=2_500, min_buckets=2)
WORDS = ["to", "be", "or", "not", "thou", "art", "a", "king"]


def conversations(count: int = 220) -> list[list[dict[str, str]]]:
    draw = random.Random(3)
    found = []
    for number in range(count):
        turns = []
        if number % 4 == 0:
            turns.append({"role": "system", "content": "be brief"})
        for _ in range(1 + number % 2):
            question = " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))
            answer = " ".join(draw.choices(WORDS, k=draw.randint(1, 5)))
            turns += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        found.append(turns)
    found[7][-1]["content"] = "long " * 40
    return found


def write(path: Path, found: list[Any]) -> Path:
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in found))
    return path


def order(source: Path, out: Path, **changes: Any) -> Order:
    settings: dict[str, Any] = {
        "inputs": (str(source),),
        "out": out,
        "choices": Choices(held_out_ppm=200_000, field="messages"),
        "tokenizer": TokenizerChoice(),
        "page_tokens": PAGE,
        "segment_pages": SEGMENT,
        "shard_segments": 3,
        "bounds": SMALL,
        "workers": 0,
        "is_chat": True,
    }
    return Order(**(settings | changes))


def silent(_line: str) -> None:
    pass


def test_too_few_conversations_are_told_why_and_what_helps(tmp_path: Path) -> None:
    """Conversations are never cut: --cut helps nobody here."""
    source = write(tmp_path / "c.jsonl", conversations())
    with pytest.raises(ConfigError) as caught:
        prepare(order(source, tmp_path / "short", page_tokens=4), silent)
    said = str(caught.value)
    assert re.search(r"left out: 1\d\d conversations longer than a page: take a larger", said)
    assert "--page-tokens" in said
    few = order(source, tmp_path / "few", choices=Choices(held_out_ppm=1, field="messages"))
    with pytest.raises(
        ConfigError, match="held-out text has 0 tokens.*: raise --held-out"
    ) as caught:
        prepare(few, silent)
    assert "--cut" not in str(caught.value)


def pages_of(out: Path) -> tuple[Tokenizer, dict[str, np.ndarray]]:
    folder = open_folder(out)
    manifest = folder.manifest
    sides = {"train": manifest.shards, "held_out": (manifest.held_out,)}
    pages = {
        side: np.frombuffer(
            b"".join(folder.shard_data(shard) for shard in shards), f"<u{manifest.token_bytes}"
        ).reshape(-1, PAGE).astype(np.int64)
        for side, shards in sides.items()
    }  # fmt: skip
    return open_tokenizer(manifest.tokenizer, folder.tokenizer_file), pages


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def split(
    page: np.ndarray, chat: ChatSpec, end_of_document: int, tokenizer: Tokenizer
) -> list[str]:
    """The messages of a page, each as "role: content"; fails for a page that is not packed so."""
    roles = {chat.system: "system", chat.user: "user", chat.assistant: "assistant"}
    tokens, found, place = page.tolist(), [], 0
    while place < len(tokens) and tokens[place] in roles:
        last = tokens.index(chat.end, place)
        content = tokenizer.decode(np.array(tokens[place + 1 : last], dtype=np.int64))
        found.append(f"{roles[tokens[place]]}: {content.decode()}")
        place = last + 1
    assert set(tokens[place:]) <= {end_of_document}, "only filling comes after the last message"
    return found


@pytest.fixture(scope="module", params=["byte", "bpe", "own"])
def prepared(request, tmp_path_factory) -> tuple[Path, list[list[dict[str, str]]]]:
    folder = tmp_path_factory.mktemp(request.param)
    found = conversations()
    choice = TokenizerChoice()
    if request.param == "bpe":
        choice = TokenizerChoice(train_vocab_size=290, reserves_chat=True)
    if request.param == "own":
        (folder / "named").mkdir()
        path = folder / "named" / "tokenizer.json"
        path.write_bytes(train_bpe([b"to be or not to be"], 270, list(MARKERS.values())))
        choice = TokenizerChoice(path=path)
    source = write(folder / "c.jsonl", found)
    prepare(order(source, folder / "out", tokenizer=choice), silent)
    return folder / "out", found


def test_whole_conversations_lie_in_pages_and_each_page_has_an_answer(prepared) -> None:
    out, found = prepared
    tokenizer, sides = pages_of(out)
    chat = read_chat(out)
    assert chat is not None
    end = tokenizer.entry.end_of_document
    card = json.loads((out / CARD_NAME).read_text())
    given_turns = {json.dumps([f"{m['role']}: {m['content']}" for m in each]) for each in found}
    joined: list[str] = []
    for side, pages in sides.items():
        counts = card["counts"][side]
        assert len(pages) % SEGMENT == 0
        assert counts["tokens"] % PAGE == 0
        assert counts["tokens"] - counts["tokens_in_shards"] < SEGMENT * PAGE
        for page in pages:
            messages = split(page, chat, end, tokenizer)
            assert any(message.startswith("assistant: ") for message in messages)
            joined += messages
            mask = answer_tokens(torch.from_numpy(page[None]), chat)[0].numpy()
            answers = [m.removeprefix("assistant: ") for m in messages if m.startswith("assistant")]
            num = sum(len(tokenizer.encode(a.encode())) + 1 for a in answers)
            assert mask.sum() == (num if num >= 4 else PAGE - 1)
    sizes = [sum(len(tokenizer.encode(m["content"].encode())) + 2 for m in each) for each in found]
    too_long = sum(size > PAGE for size in sizes)
    assert sum(card["counts"][side]["too_long"] for side in sides) == too_long >= 1
    assert not any("long long" in message for message in joined)
    everything = {m for each in given_turns for m in json.loads(each)}
    assert set(joined) <= everything
    filling = sum(card["counts"][side]["filling"] for side in sides)
    assert 0 < filling < 0.2 * sum(card["counts"][side]["tokens"] for side in sides)
    assert "conversations longer than a page" in (out / TEXT_NAME).read_text()


class _Stop(Exception):
    pass


def stopping_at(line: int) -> Callable[[str], None]:
    """Takes so many lines of progress, and then stops the preparation."""
    lines = itertools.count(1)

    def say(_line: str) -> None:
        if next(lines) == line:
            raise _Stop

    return say


def test_a_stop_at_any_line_changes_no_byte(tmp_path) -> None:
    source = write(tmp_path / "c.jsonl", conversations())
    said: list[str] = []
    prepare(order(source, tmp_path / "whole"), said.append)
    whole = files_of(tmp_path / "whole")
    assert len(said) > 5
    for line in range(1, len(said) + 1):
        with pytest.raises(_Stop):
            prepare(order(source, tmp_path / "stopped"), stopping_at(line))
    prepare(order(source, tmp_path / "stopped", workers=2), silent)
    assert files_of(tmp_path / "stopped") == whole


def test_an_unfinished_preparation_of_texts_is_not_gone_on_with(tmp_path) -> None:
    path = tmp_path / "c.jsonl"
    records = ({"text": "x", "messages": turns} for turns in conversations())
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    texts = order(path, tmp_path / "out", is_chat=False, choices=Choices(field="text"))
    with pytest.raises(_Stop):
        prepare(texts, stopping_at(3))
    with pytest.raises(ConfigError, match="unfinished preparation with another chat: None"):
        prepare(replace(texts, is_chat=True), silent)


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([{"role": "user", "content": "x"}], "has no message of the role assistant"),
        ([{"role": "assistant", "content": "a \x02 b"}], "which is a token of the tokenizer"),
        ("text", "is no list of messages"),
    ],
)
def test_a_bad_conversation_is_named_or_left_out(tmp_path, turns: object, words: str) -> None:
    source = write(tmp_path / "c.jsonl", [*conversations(), turns])
    with pytest.raises(ConfigError, match=rf"c.jsonl, line 221: field messages .*{words}"):
        prepare(order(source, tmp_path / "out"), silent)
    skipping = Choices(held_out_ppm=200_000, field="messages", skip_bad=True)
    card = prepare(order(source, tmp_path / "skipped", choices=skipping), silent).card
    assert card["counts"]["bad"] == 1
    assert card["chat"] == {"system": 1, "user": 5, "assistant": 2, "end": 3}


def test_a_tokenizer_without_markers_and_a_text_are_refused(tmp_path) -> None:
    source = write(tmp_path / "c.jsonl", conversations())
    (tmp_path / "plain").mkdir()
    path = tmp_path / "plain" / "tokenizer.json"
    path.write_bytes(train_bpe([b"to be or not to be"], 270))
    choice = TokenizerChoice(path=path, end_of_document=END_OF_DOCUMENT)
    with pytest.raises(ConfigError, match=r"no special token <\|system\|>, .*--reserve-chat"):
        prepare(order(source, tmp_path / "out", tokenizer=choice), silent)
    (tmp_path / "t.txt").write_text("a text")
    with pytest.raises(ConfigError, match="is a text; --chat takes JSON lines"):
        prepare(order(tmp_path / "t.txt", tmp_path / "out2"), silent)


def test_markers_spelled_in_plain_text_are_text_where_they_are_reserved(tmp_path) -> None:
    """A tokenizer reserved for a later fine-tuning, in pre-training."""
    path = tmp_path / "p.jsonl"
    path.write_text("".join(
        json.dumps({"text": f"{n} say <|user|> and <|end|> " * 3}) + "\n" for n in range(200)
    ))  # fmt: skip
    choice = TokenizerChoice(train_vocab_size=290, reserves_chat=True)
    choices = Choices(held_out_ppm=200_000)
    plain = order(path, tmp_path / "out", is_chat=False, tokenizer=choice, choices=choices)
    prepared = prepare(plain, silent)
    tokenizer, sides = pages_of(tmp_path / "out")
    assert tokenizer.encode_marked([b"<|user|><|end|>"])[0].size == 2
    markers = [int(tokenizer.encode_marked([m.encode()])[0][0]) for m in MARKERS.values()]
    assert not any(np.isin(pages, markers).any() for pages in sides.values())
    assert "chat" not in prepared.card


@given(st.lists(st.integers(1, 20), max_size=200))
def test_every_conversation_is_in_one_page_once(sizes: list[int]) -> None:
    packer = Packer(20, 0)
    pages = [page for n, size in enumerate(sizes, 1) for page in packer.add(np.full(size, n))]
    pages += packer.close()
    assert all(page.shape == (20,) for page in pages)
    found: dict[int, int] = {}
    for page in pages:
        for token in np.unique(page[page > 0]).tolist():
            assert token not in found
            found[token] = int((page == token).sum())
    assert found == dict(enumerate(sizes, 1))
    assert BYTE_CHAT.end == 3
