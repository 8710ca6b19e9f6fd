"""The tokenizers: lossless, in range, found by name."""

import numpy as np
import pytest

from template.data.tokenizer import load_tokenizer
from template.errors import ConfigError


def test_byte_tokenizer_is_lossless_on_every_byte() -> None:
    tokenizer = load_tokenizer("byte")
    text = bytes(range(256)) + b"\r\n\xff"
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == list(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode(tokens.astype(np.int64)) == text


def test_byte_tokenizer_of_nothing() -> None:
    tokenizer = load_tokenizer("byte")
    assert tokenizer.encode(b"").shape == (0,)
    assert tokenizer.decode(tokenizer.encode(b"")) == b""


@pytest.mark.parametrize("token", [-1, 256])
def test_decode_refuses_tokens_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(ValueError, match="256"):
        load_tokenizer("byte").decode(np.array([65, token]))


def test_tokenizer_says_its_name_and_size() -> None:
    tokenizer = load_tokenizer("byte")
    assert (tokenizer.name, tokenizer.vocab_size) == ("byte", 256)


@pytest.mark.parametrize("name", ["", "bytes", "../byte"])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match="use one of: byte"):
        load_tokenizer(name)
