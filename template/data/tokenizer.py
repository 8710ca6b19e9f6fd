"""Tokenizers by name: text as bytes in, tokens as uint16 out, and back.

Owns the registry for the `tokenizer` field of a run spec. A tokenizer is part of the dataset:
the manifest repeats name and vocabulary size.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from template.errors import ConfigError


class Tokenizer(Protocol):
    """A lossless map between bytes and tokens in [0, vocab_size), vocab_size <= 65536."""

    @property
    def name(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: bytes) -> npt.NDArray[np.uint16]:
        """Tokens of `text`, one-dimensional."""

    def decode(self, tokens: npt.NDArray[np.integer]) -> bytes:
        """The inverse of `encode`. ValueError for a token outside the vocabulary."""


class ByteTokenizer:
    """One token per byte: needs no files, is lossless, fits any language."""

    name = "byte"
    vocab_size = 256

    def encode(self, text: bytes) -> npt.NDArray[np.uint16]:
        return np.frombuffer(text, dtype=np.uint8).astype(np.uint16)

    def decode(self, tokens: npt.NDArray[np.integer]) -> bytes:
        if tokens.size and not (tokens.min() >= 0 and tokens.max() < self.vocab_size):
            raise ValueError(f"tokens outside [0, {self.vocab_size})")
        return tokens.astype(np.uint8).tobytes()


_TOKENIZERS = {ByteTokenizer.name: ByteTokenizer}


def load_tokenizer(name: str) -> Tokenizer:
    """Makes the tokenizer `name`. ConfigError, listing the known names, for any other name."""
    if name not in _TOKENIZERS:
        known = ", ".join(sorted(_TOKENIZERS))
        raise ConfigError(f"tokenizer {name!r} is unknown; use one of: {known}")
    return _TOKENIZERS[name]()
