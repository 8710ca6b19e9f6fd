"""Which tokenizer a preparation uses: bytes, a `tokenizer.json`, or one trained on the text."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from template.data.chat import (
    BYTE_CHAT,
    BYTE_MARKERS,
    MARKERS,
    NAMED_MARKERS,
    ChatForm,
    special_tokens,
)
from template.data.preparing.bpe import END_OF_DOCUMENT
from template.data.tokenizer import ByteTokenizer, Tokenizer, read_tokenizer
from template.errors import ConfigError
from template.protocol.spec import ChatSpec
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
    the first `train_bytes` of shuffled training text, with the four markers of conversations as
    special tokens if `reserves_chat`. `end_of_document` None: found by its name.
    """

    path: Path | None = None
    end_of_document: str | None = None
    train_vocab_size: int = 0
    train_bytes: int = 256 * 2**20
    reserves_chat: bool = False

    @property
    def shown(self) -> str:
        """The choice in a word, for the card; the card's digest says which file it was."""
        if self.train_vocab_size:
            markers = ", with markers of conversations" if self.reserves_chat else ""
            return f"bpe of {self.train_vocab_size}, trained on the input{markers}"
        if self.path is None:
            return "byte"
        return f"{self.path.name}, {self.end_of_document or 'separator found by name'}"


def choose_tokenizer(choice: TokenizerChoice) -> Tokenizer:
    """The tokenizer of a file, or bytes. ConfigError with the remedy if the file is not usable."""
    if choice.path is None:
        return ByteTokenizer()
    name = choice.path.absolute().parent.name[:MAX_NAME_CHARS] or "tokenizer"
    return read_tokenizer(choice.path, name, choice.end_of_document or _end_of(choice.path))


def chat_form(choice: TokenizerChoice, chosen: Tokenizer) -> ChatForm:
    """How conversations become text for a tokenizer, before one is trained.

    `chosen`: of `choose_tokenizer`. ConfigError for a tokenizer without the markers.
    """
    if choice.train_vocab_size:
        refused = (END_OF_DOCUMENT, *MARKERS.values())
        return ChatForm(markers=NAMED_MARKERS, refused=refused)
    if not chosen.file:
        refused = tuple(chr(token) for token in asdict(BYTE_CHAT).values())
        return ChatForm(markers=BYTE_MARKERS, refused=refused)
    chat_of(chosen)
    refused = tuple(text for text in special_tokens(chosen.file) if text)
    return ChatForm(markers=NAMED_MARKERS, refused=refused)


def chat_of(tokenizer: Tokenizer) -> ChatSpec:
    """The table `[data.chat]` of a tokenizer. ConfigError for one without the markers."""
    if not tokenizer.file:
        return BYTE_CHAT
    found = special_tokens(tokenizer.file)
    missing = [text for text in MARKERS.values() if text not in found]
    if missing:
        raise ConfigError(
            f"--chat: the tokenizer has no special token {', '.join(missing)}: take one with all "
            f"of {', '.join(MARKERS.values())}, or train one by --train-tokenizer; for a later "
            "fine-tuning, by --train-tokenizer with --reserve-chat from the start"
        )
    chat = ChatSpec(**{key: found[text] for key, text in MARKERS.items()})
    for key, text in MARKERS.items():
        ids = tokenizer.encode_marked([text.encode()])[0].tolist()
        if ids != [getattr(chat, key)]:
            raise ConfigError(
                f"--chat: the tokenizer makes {len(ids)} tokens of {text}, and must make one: take "
                "another tokenizer"
            )
    return chat


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
