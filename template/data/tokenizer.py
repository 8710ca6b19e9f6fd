"""Tokenizers: text as bytes in, tokens out, and back.

`byte` needs no file. Every other tokenizer is a Hugging Face fast tokenizer, read from the bytes of
a `tokenizer.json` by the `tokenizers` package: a data format, so nothing in the file is run and no
hub is asked. The file is part of the dataset, addressed by SHA-256 in the manifest. A node that
trains or scores needs no tokenizer; the owner who prepares text, and whoever reads the model's
text, does.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import tokenizers

from template.data.manifest import (
    BYTE_TOKENIZER,
    MAX_TOKENIZER_BYTES,
    MAX_VOCAB_SIZE,
    TokenizerEntry,
)
from template.errors import ConfigError, ObjectError
from template.protocol.spec.constraints import MAX_NAME_CHARS
from template.protocol.strangers import fault, parse_json, quoted

T = TypeVar("T")

Tokens = npt.NDArray[np.uint32]

FILE_NAME = "tokenizer.json"
_MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
_PANIC = "PanicException"


class Tokenizer(Protocol):
    """A map between text and tokens in [0, entry.vocab_size); lossless for byte-level ones."""

    @property
    def entry(self) -> TokenizerEntry:
        """The tokenizer's place in a manifest."""

    @property
    def file(self) -> bytes:
        """The `tokenizer.json`; empty for `byte`."""

    def encode(self, text: bytes) -> Tokens:
        """Tokens of `text` (UTF-8), uint32 [n], without special tokens around them."""

    def encode_documents(self, texts: Sequence[bytes]) -> list[Tokens]:
        """Tokens of each text, each ended by the document separator."""

    def encode_marked(self, texts: Sequence[bytes]) -> list[Tokens]:
        """Tokens of texts in which special tokens are spelled out: each of these is one token, as
        `transformers` reads the text of a chat template.
        """

    def decode(self, tokens: npt.NDArray[np.integer]) -> bytes:
        """The inverse of `encode`. ValueError for a token outside the vocabulary."""


class ByteTokenizer:
    """One token per byte: needs no files, is lossless, fits any language.

    The separator is a line feed: documents end with one, so a blank line parts documents.
    """

    entry = TokenizerEntry(
        name=BYTE_TOKENIZER, sha256="", num_bytes=0, vocab_size=256, end_of_document=ord("\n")
    )
    file = b""

    def encode(self, text: bytes) -> Tokens:
        return np.frombuffer(text, dtype=np.uint8).astype(np.uint32)

    def encode_documents(self, texts: Sequence[bytes]) -> list[Tokens]:
        return [_ended(self.encode(text), self.entry) for text in texts]

    def encode_marked(self, texts: Sequence[bytes]) -> list[Tokens]:
        return [self.encode(text) for text in texts]

    def decode(self, tokens: npt.NDArray[np.integer]) -> bytes:
        _check_ids(tokens, self.entry.vocab_size)
        return tokens.astype(np.uint8).tobytes()


class FastTokenizer:
    """A Hugging Face fast tokenizer. `end_of_document`: the separator, as a token or as an id.

    ObjectError for a file that is none, or without that token. The text must be UTF-8; other bytes
    become U+FFFD.
    """

    def __init__(self, data: bytes, name: str, end_of_document: str | int) -> None:
        self.file = data
        self._tokenizer = _parsed(data)
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        vocab_size = 1 + max(ids.values(), default=-1)
        if not 2 <= vocab_size <= MAX_VOCAB_SIZE:
            raise ObjectError(f"{FILE_NAME}: refused: a vocabulary of {vocab_size} tokens")
        end = ids.get(end_of_document) if isinstance(end_of_document, str) else end_of_document
        if end is None or not 0 <= end < vocab_size:
            raise ObjectError(
                f"{FILE_NAME}: refused: the document separator {quoted(end_of_document)} is not "
                f"in the vocabulary of {vocab_size} tokens"
            )
        self.entry = TokenizerEntry(
            name=name,
            sha256=hashlib.sha256(data).hexdigest(),
            num_bytes=len(data),
            vocab_size=vocab_size,
            end_of_document=end,
        )

    def encode(self, text: bytes) -> Tokens:
        return self._encode(self._tokenizer, [text])[0]

    def encode_documents(self, texts: Sequence[bytes]) -> list[Tokens]:
        return [_ended(tokens, self.entry) for tokens in self._encode(self._tokenizer, texts)]

    def encode_marked(self, texts: Sequence[bytes]) -> list[Tokens]:
        return self._encode(self._marked, texts)

    @cached_property
    def _marked(self) -> Any:
        """A second tokenizer of the file, which reads special tokens in a text."""
        found = _parsed(self.file)
        found.encode_special_tokens = False
        return found

    def decode(self, tokens: npt.NDArray[np.integer]) -> bytes:
        _check_ids(tokens, self.entry.vocab_size)
        ids = tokens.tolist()
        text: str = _guarded(lambda: self._tokenizer.decode(ids, skip_special_tokens=False))
        return text.encode()

    @staticmethod
    def _encode(tokenizer: Any, texts: Sequence[bytes]) -> list[Tokens]:
        strings = [text.decode("utf-8", errors="replace") for text in texts]
        found = _guarded(lambda: tokenizer.encode_batch_fast(strings, add_special_tokens=False))
        return [np.array(each.ids, dtype=np.uint32) for each in found]


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of this name that needs no file. ConfigError for any other name."""
    if name != BYTE_TOKENIZER:
        raise ConfigError(
            f"tokenizer {name!r} is unknown; use one of: {BYTE_TOKENIZER}, or prepare a dataset "
            f"with a {FILE_NAME} (`tessera data prepare`)"
        )
    return ByteTokenizer()


def open_tokenizer(entry: TokenizerEntry, data: bytes) -> Tokenizer:
    """The tokenizer of a manifest; `data`: its file, of a stranger. ObjectError for other bytes."""
    if entry.name == BYTE_TOKENIZER:
        return ByteTokenizer()
    if len(data) != entry.num_bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ObjectError(
            f"{FILE_NAME}: refused: {len(data)} bytes of another content than the manifest names"
        )
    found = FastTokenizer(data, entry.name, entry.end_of_document)
    if found.entry != entry:
        raise ObjectError(
            f"{FILE_NAME}: refused: {found.entry.vocab_size} tokens, the manifest says "
            f"{entry.vocab_size}"
        )
    return found


def read_tokenizer(path: Path, name: str, end_of_document: str | int) -> FastTokenizer:
    """The owner's own `tokenizer.json`. ConfigError, with the remedy, if it is not usable."""
    if name == BYTE_TOKENIZER or not 0 < len(name) <= MAX_NAME_CHARS:
        raise ConfigError(
            f"tokenizer {path}: {name!r:.80} is no name for it: take 1 to {MAX_NAME_CHARS} "
            f"characters, and not {BYTE_TOKENIZER!r}"
        )
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOKENIZER_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"tokenizer {path} cannot be read ({error.strerror}): name the {FILE_NAME} of a "
            "Hugging Face fast tokenizer"
        ) from error
    try:
        return FastTokenizer(data, name, end_of_document)
    except ObjectError as error:
        raise ConfigError(
            f"tokenizer {path}: {error}; write it with `save` of the `tokenizers` package, and "
            "name a separator of its vocabulary"
        ) from error


def _ended(tokens: Tokens, entry: TokenizerEntry) -> Tokens:
    return np.append(tokens, np.uint32(entry.end_of_document))


def _check_ids(tokens: npt.NDArray[np.integer], vocab_size: int) -> None:
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < vocab_size):
        raise ValueError(f"tokens outside [0, {vocab_size})")


def _parsed(data: bytes) -> Any:
    """The tokenizer in a `tokenizer.json`; ObjectError for anything else.

    Padding and truncation, settings of a caller and not of the text, are taken out.
    """
    document = parse_json(data, FILE_NAME, max_bytes=MAX_TOKENIZER_BYTES)
    model = document.get("model") if isinstance(document, dict) else None
    # Old files of BPE name no type.
    if not isinstance(model, dict) or model.get("type", "BPE") not in _MODELS:
        raise ObjectError(
            f"{FILE_NAME}: refused: its model is none of {', '.join(_MODELS)}: not the file of a "
            "fast tokenizer"
        )
    found = _guarded(lambda: tokenizers.Tokenizer.from_buffer(data))
    found.no_padding()
    found.no_truncation()
    # A document that spells a special token is text: strangers' documents must not end others.
    found.encode_special_tokens = True
    return found


def _guarded(call: Callable[[], T]) -> T:
    """`call()`, with every fault of the compiled package as ObjectError.

    The package's panics, from Rust, derive from BaseException and have no name to import.
    """
    try:
        return call()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        raise ObjectError(f"{FILE_NAME}: refused: {fault(error)}") from error
