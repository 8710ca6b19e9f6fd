"""Small files of a checkpoint beside config and tensors: what people need to use the model.

The tokenizer's files and the settings of generation. The bytes follow from spec and dataset alone,
so every node publishes the same files: those of the spec of the payloads that lead to the
checkpoint (`Run.maker`). A node that joins reads none of them.
"""

import json

from template.data.manifest import TokenizerEntry
from template.data.tokenizer_files import (
    MAX_BYTE_FILE_BYTES,
    MAX_CONFIG_BYTES,
    TOKENIZER_FILES,
    end_token,
    tokenizer_files,
)
from template.protocol.spec import ChatSpec, RunSpec

GENERATION_FILE = "generation_config.json"
COMPANIONS = frozenset({*TOKENIZER_FILES, GENERATION_FILE})
MAX_COMPANIONS_BYTES = MAX_BYTE_FILE_BYTES + (len(COMPANIONS) - 1) * MAX_CONFIG_BYTES
"""Limit on what companions add to a bucket. A `tokenizer.json` of the dataset's adds nothing: the
bucket has the file already, under the same digest."""


def companion_files(spec: RunSpec, entry: TokenizerEntry, tokenizer: bytes) -> dict[str, bytes]:
    """Name -> bytes of all `COMPANIONS`. `tokenizer`: the dataset's `tokenizer.json`, checked."""
    return {
        **tokenizer_files(entry, tokenizer, spec.data.page_tokens, spec.data.chat),
        GENERATION_FILE: _generation_json(entry, tokenizer, spec.data.chat),
    }


def _generation_json(entry: TokenizerEntry, tokenizer: bytes, chat: ChatSpec | None) -> bytes:
    """Generation ends at the separator of documents, unless text within a document has it too; of a
    model of conversations, at the end of a message.
    """
    end = None if end_token(entry, tokenizer) is None else entry.end_of_document
    if chat is not None:
        end = chat.end
    fields = {"eos_token_id": end, "pad_token_id": end, "use_cache": True}
    return json.dumps(fields, sort_keys=True, indent=1).encode()
