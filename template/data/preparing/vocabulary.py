"""Which tokenizer a preparation uses: bytes, a `tokenizer.json`, or one trained on the text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from template.data.tokenizer import ByteTokenizer, Tokenizer, read_tokenizer
from template.errors import ConfigError
from template.protocol.spec.constraints import MAX_NAME_CHARS

_ENDS: Final = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "</s>",
    "<eos>",
    "<|end|>",
    "[SEP]",
)
"""Names of the token after a document, as models of today have them, the usual first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerChoice:
    """`path`: a `tokenizer.json`, None for bytes; `train_vocab_size`: train one of this size on
    the first `train_bytes` of shuffled training text. `end_of_document` None: found by its name.
    """

    path: Path | None = None
    end_of_document: str | None = None
    train_vocab_size: int = 0
    train_bytes: int = 256 * 2**20

    @property
    def shown(self) -> str:
        """The choice in a word, for the card; the card's digest says which file it was."""
        if self.train_vocab_size:
            return f"bpe of {self.train_vocab_size}, trained on the input"
        if self.path is None:
            return "byte"
        return f"{self.path.name}, {self.end_of_document or 'separator found by name'}"


def choose_tokenizer(choice: TokenizerChoice) -> Tokenizer:
    """The tokenizer of a file, or bytes. ConfigError with the remedy if the file is not usable."""
    if choice.path is None:
        return ByteTokenizer()
    name = choice.path.absolute().parent.name[:MAX_NAME_CHARS] or "tokenizer"
    return read_tokenizer(choice.path, name, choice.end_of_document or _end_of(choice.path))


def _end_of(path: Path) -> str:
    """The token after a document, by its name; `read_tokenizer` tells what is wrong with a file."""
    try:
        document = json.loads(path.read_bytes())
        names = {str(token["content"]) for token in document["added_tokens"]}
    except (OSError, ValueError, KeyError, TypeError):
        names = set()
    found = next((end for end in _ENDS if end in names), None)
    if found is None and names:
        raise ConfigError(
            f"--tokenizer {path}: none of its special tokens is known as the end of a document: "
            f"name one with --end-of-document ({', '.join(sorted(names)[:10])})"
        )
    return found or _ENDS[0]
