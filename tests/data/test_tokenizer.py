"""The tokenizers: lossless, in range, found by name or read from a `tokenizer.json`."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from template.data.manifest import MAX_TOKENIZER_BYTES
from template.data.tokenizer import (
    FastTokenizer,
    load_tokenizer,
    open_tokenizer,
    read_tokenizer,
)
from template.errors import ConfigError, ObjectError

END = "<|end|>"
SIZE = 400


def _trained() -> bytes:
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    words = [f"the house of the king {n} stands there, and there it stood" for n in range(50)]
    made.train_from_iterator(words, trainer)
    return made.to_str().encode()


FILE = _trained()
FAST = FastTokenizer(FILE, "small", END)


def _changed(**changes: object) -> bytes:
    return json.dumps(json.loads(FILE) | changes).encode()


def test_byte_tokenizer_is_lossless_on_every_byte() -> None:
    tokenizer = load_tokenizer("byte")
    text = bytes(range(256)) + b"\r\n\xff"
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.uint32
    assert tokens.tolist() == list(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode(tokens.astype(np.int64)) == text
    assert [t.tolist() for t in tokenizer.encode_documents([b"a\n", b""])] == [[97, 10, 10], [10]]


def test_byte_tokenizer_of_nothing() -> None:
    tokenizer = load_tokenizer("byte")
    assert tokenizer.encode(b"").shape == (0,)
    assert tokenizer.decode(tokenizer.encode(b"")) == b""
    assert tokenizer.encode_documents([]) == []


@pytest.mark.parametrize("tokenizer", [load_tokenizer("byte"), FAST], ids=["byte", "fast"])
@pytest.mark.parametrize("token", [-1, 2**20])
def test_decode_refuses_tokens_outside_the_vocabulary(tokenizer, token: int) -> None:
    with pytest.raises(ValueError, match="tokens outside"):
        tokenizer.decode(np.array([65, token]))


def test_a_tokenizer_says_its_place_in_a_manifest() -> None:
    entry = load_tokenizer("byte").entry
    assert (entry.name, entry.vocab_size, entry.num_bytes, entry.sha256) == ("byte", 256, 0, "")
    assert FAST.entry.num_bytes == len(FILE)
    assert FAST.entry.vocab_size == len(json.loads(FILE)["model"]["vocab"])
    assert FAST.entry.end_of_document == json.loads(FILE)["model"]["vocab"][END]
    assert open_tokenizer(FAST.entry, FILE).entry == FAST.entry


@given(st.text(max_size=60))
def test_a_byte_level_tokenizer_is_lossless(text: str) -> None:
    tokens = FAST.encode(text.encode())
    assert tokens.dtype == np.uint32
    if END not in text:
        assert FAST.decode(tokens) == text.encode()


def test_documents_end_with_the_separator_and_batches_change_nothing() -> None:
    texts = [b"the king", b"", b"there\n", "caf\u00e9".encode()]
    documents = FAST.encode_documents(texts)
    end = FAST.entry.end_of_document
    for text, document in zip(texts, documents, strict=True):
        assert document.tolist() == [*FAST.encode(text).tolist(), end]


def test_settings_of_a_caller_do_not_cut_or_pad_the_text() -> None:
    cut = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    pad = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": END,
    }  # fmt: skip
    tokenizer = FastTokenizer(_changed(truncation=cut, padding=pad), "small", END)
    assert tokenizer.encode(b"the king there").tolist() == FAST.encode(b"the king there").tolist()


def test_a_vocabulary_with_gaps_is_as_large_as_its_highest_id() -> None:
    document = json.loads(FILE)
    document["added_tokens"].append(
        {**document["added_tokens"][0], "id": 70_000, "content": "<|far|>"}
    )
    sizes = FastTokenizer(json.dumps(document).encode(), "gaps", "<|far|>").entry
    assert sizes.vocab_size > len(document["model"]["vocab"])
    assert sizes.end_of_document == sizes.vocab_size - 1


HOSTILE = {
    "nothing": b"",
    "no JSON": b"\xff\xfe",
    "cut": FILE[:-3],
    "another type": b"[]",
    "no model": b"{}",
    "a model of no type": b'{"model":{"type":"Pickle"}}',
    "no vocabulary": b'{"model":{"type":"BPE"}}',
    "deep": b'{"model":' * 100_000,
    "unknown word": b'{"model":{"type":"Unigram","vocab":[["a",0.0]],"unk_id":7}}',
    "no tokens": _changed(model={"type": "WordLevel", "vocab": {}, "unk_token": "x"}),
    "a component of no kind": _changed(pre_tokenizer={"type": "Exec", "code": "1"}),
    "a map that panics": _changed(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA/w=="}
    ),
    "merges of nothing": _changed(
        model={**json.loads(FILE)["model"], "merges": [["never", "seen"]]}
    ),
    "a pattern that is none": _changed(
        pre_tokenizer={
            "type": "Split",
            "pattern": {"Regex": "(("},
            "behavior": "Isolated",
            "invert": False,
        }
    ),
    "too long": bytes(MAX_TOKENIZER_BYTES + 1),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_a_strangers_fault_and_the_owners_own(
    data: bytes, tmp_path: Path
) -> None:
    """ObjectError for bytes of a stranger, ConfigError for the file that the owner names."""
    with pytest.raises(ObjectError, match=r"tokenizer\.json: refused"):
        FastTokenizer(data, "x", 0).encode(b"text")
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    with pytest.raises((ConfigError, ObjectError), match=r"tokenizer\.json: refused"):
        read_tokenizer(path, "x", 0).encode(b"text")


@pytest.mark.parametrize("end", ["<|none|>", -1, 10**6])
def test_a_separator_outside_the_vocabulary(end: str | int, tmp_path: Path) -> None:
    with pytest.raises(ObjectError, match="document separator"):
        FastTokenizer(FILE, "small", end)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(FILE)
    with pytest.raises(ConfigError, match="separator"):
        read_tokenizer(path, "small", end)
    assert read_tokenizer(path, "small", END).entry == FAST.entry


def test_only_the_file_of_the_manifest_is_opened() -> None:
    assert open_tokenizer(load_tokenizer("byte").entry, b"").entry.name == "byte"
    for data in (FILE[:-1], FILE + b"\n", _changed(version="1.0")):
        with pytest.raises(ObjectError, match="another content"):
            open_tokenizer(FAST.entry, data)
    with pytest.raises(ObjectError, match="the manifest says 5"):
        open_tokenizer(replace(FAST.entry, vocab_size=5), FILE)


@pytest.mark.parametrize("name", ["", "bytes", "../byte"])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match="use one of: byte"):
        load_tokenizer(name)


def test_a_file_needs_a_name_of_its_own(tmp_path: Path) -> None:
    for name in ("", "byte", "n" * 129):
        with pytest.raises(ConfigError, match="no name for it"):
            read_tokenizer(tmp_path / "t.json", name, 0)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tokenizer(tmp_path / "t.json", "mine", 0)
