"""The files from which `AutoTokenizer.from_pretrained` makes a dataset's tokenizer.

Owns the files beside a model in Hugging Face's layout. The bytes follow from the manifest's entry
and the tokenizer's file alone, so every node publishes the same files. `byte` gets a
`tokenizer.json` of its own: a vocabulary of 256 tokens whose ids are the bytes.
"""

import json
from typing import Any

from template.data.chat import chat_template, markers_of
from template.data.manifest import BYTE_TOKENIZER, MAX_TOKENIZER_BYTES, TokenizerEntry
from template.protocol.spec import ChatSpec
from template.protocol.strangers import parse_json

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
TOKENIZER_FILES = (TOKENIZER_FILE, CONFIG_FILE, SPECIAL_FILE)
NUM_BYTES = 256
MAX_CONFIG_BYTES = 4096
"""Limit on each of the two files beside `tokenizer.json`."""
MAX_BYTE_FILE_BYTES = 8192
"""Limit on the `tokenizer.json` of `byte`."""
_MAX_SPECIAL_CHARS = 256
_CLASS = "PreTrainedTokenizerFast"
"""The class that reads `tokenizer.json` as written, in transformers 4 and 5."""


def tokenizer_files(
    entry: TokenizerEntry, data: bytes, page_tokens: int, chat: ChatSpec | None = None
) -> dict[str, bytes]:
    """Name -> bytes of `TOKENIZER_FILES`. `data`: the dataset's `tokenizer.json`, checked.

    `chat`: the spec's `data.chat`; the config then has the chat template, if each marker is a
    special token.
    """
    end = end_token(entry, data)
    special = {} if end is None else {"eos_token": end}
    markers = None if chat is None else markers_of(chat, entry, data)
    template = {} if markers is None else {"chat_template": chat_template(markers)}
    config = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": page_tokens,
        "tokenizer_class": _CLASS,
        **special,
        **template,
    }
    is_byte = entry.name == BYTE_TOKENIZER
    return {
        TOKENIZER_FILE: byte_tokenizer_json() if is_byte else data,
        CONFIG_FILE: _as_json(config),
        SPECIAL_FILE: _as_json(special),
    }


def end_token(entry: TokenizerEntry, data: bytes) -> str | None:
    """The document separator's text, if the tokenizer treats the separator as a special token.

    None for an ordinary token, as the line feed of `byte`: named as special, an ordinary token
    would cut other words and vanish from decoded text. ObjectError for a file that is no JSON.
    """
    if entry.name == BYTE_TOKENIZER:
        return None
    document = parse_json(data, TOKENIZER_FILE, max_bytes=MAX_TOKENIZER_BYTES)
    added = document.get("added_tokens") if isinstance(document, dict) else None
    for token in added if isinstance(added, list) else ():
        if not isinstance(token, dict):
            continue
        text, is_special = token.get("content"), token.get("special") is True
        if is_special and token.get("id") == entry.end_of_document and isinstance(text, str):
            return text if len(text) <= _MAX_SPECIAL_CHARS else None
    return None


def byte_tokenizer_json() -> bytes:
    """The `tokenizer.json` of `byte`: one token for each byte, and the byte's value as the id.

    Written by hand, since the bytes that `tokenizers` writes differ between its versions.
    """
    level: dict[str, Any] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    document: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {letter: byte for byte, letter in enumerate(_letters())},
            "merges": [],
        },
    }
    return _as_json(document)


def _letters() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies, GPT-2's table.

    Printable characters of Latin-1 stand for themselves, and the rest for characters from U+0100.
    """
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, following = [], NUM_BYTES
    for byte in range(NUM_BYTES):
        letters.append(chr(byte if byte in shown else following))
        following += byte not in shown
    return letters


def _as_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).encode("ascii")
