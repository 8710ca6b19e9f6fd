"""The tokenizer's files beside a model: `transformers` reads the tokenizer that the run has."""

import hashlib
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from template.data.manifest import TokenizerEntry
from template.data.tokenizer import ByteTokenizer, FastTokenizer
from template.data.tokenizer_files import (
    MAX_BYTE_FILE_BYTES,
    MAX_CONFIG_BYTES,
    TOKENIZER_FILE,
    TOKENIZER_FILES,
    byte_tokenizer_json,
    end_token,
    tokenizer_files,
)
from template.errors import ObjectError

BYTES = tokenizers.Tokenizer.from_buffer(byte_tokenizer_json())
GOLDEN = "552cc0d02533d1fce85fe36a0b9b64f1a566908bccf0dc4a897a93fb20010d31"
"""SHA-256 of the `tokenizer.json` of `byte`: another value makes other checkpoints."""
END = "<|end|>"


def _fast(*, is_special: bool = True) -> FastTokenizer:
    """A byte-level BPE with the separator END."""
    found = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    (found.add_special_tokens if is_special else found.add_tokens)([AddedToken(END)])
    return FastTokenizer(found.to_str().encode(), "ab", END)


@given(st.binary(max_size=64) | st.text(max_size=32).map(str.encode))
def test_the_ids_of_byte_are_the_bytes(data: bytes) -> None:
    """Bytes outside UTF-8 have ids, and the ids decode; no text encodes to such bytes."""
    text = data.decode(errors="replace")
    assert BYTES.decode(list(data), skip_special_tokens=True) == text
    assert BYTES.encode(text).ids == list(text.encode())
    assert BYTES.encode(text).ids == ByteTokenizer().encode(text.encode()).tolist()


def test_the_file_of_byte_is_the_same_with_every_version() -> None:
    assert hashlib.sha256(byte_tokenizer_json()).hexdigest() == GOLDEN
    assert len(byte_tokenizer_json()) <= MAX_BYTE_FILE_BYTES
    assert BYTES.get_vocab_size() == 256


def _loaded(folder: Path, entry: TokenizerEntry, data: bytes):
    for name, content in tokenizer_files(entry, data, 128).items():
        (folder / name).write_bytes(content)
        assert name == TOKENIZER_FILE or len(content) <= MAX_CONFIG_BYTES
    assert {path.name for path in folder.iterdir()} == set(TOKENIZER_FILES)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_transformers_reads_byte(tmp_path: Path) -> None:
    found = _loaded(tmp_path, ByteTokenizer.entry, b"")
    text = "To be,\r\n or   n\u00f6t \x00 \U0001f600 's"
    assert found(text)["input_ids"] == list(text.encode())
    assert found.decode(list(text.encode()), skip_special_tokens=True) == text
    assert (found.eos_token, found.model_max_length, len(found)) == (None, 128, 256)


def test_transformers_reads_the_datasets_tokenizer(tmp_path: Path) -> None:
    own = _fast()
    found = _loaded(tmp_path, own.entry, own.file)
    assert found("abbaab")["input_ids"] == own.encode(b"abbaab").tolist()
    assert (found.eos_token, found.eos_token_id) == (END, own.entry.end_of_document)
    assert (tmp_path / TOKENIZER_FILE).read_bytes() == own.file


def test_an_ordinary_token_as_separator_stays_ordinary(tmp_path: Path) -> None:
    own = _fast(is_special=False)
    assert end_token(own.entry, own.file) is None
    found = _loaded(tmp_path, own.entry, own.file)
    assert found.eos_token is None
    assert END in found.decode(own.encode(END.encode()).tolist(), skip_special_tokens=True)


@pytest.mark.parametrize(
    "added", [None, 7, [7], [{"id": 3}], [{"id": 3, "special": True, "content": "x" * 2**20}]]
)
def test_a_strange_list_of_tokens_names_no_separator(added) -> None:
    entry = _fast().entry
    assert end_token(entry, json.dumps({"added_tokens": added}).encode()) is None


@pytest.mark.parametrize("data", [b"", b"[", b"\xff", b"[" * 100_000])
def test_bytes_that_are_no_json_are_refused(data: bytes) -> None:
    with pytest.raises(ObjectError, match=r"tokenizer\.json"):
        end_token(_fast().entry, data)
