"""Cutting a corpus into shards: from documents to the files and the manifest of a dataset.

Pure: the caller publishes the blobs under their SHA-256. `template.data.pages` reads pages.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from template.data.corpus import Corpus, Document
from template.data.manifest import MAX_VOCAB_SIZE, Manifest, Shard
from template.data.tokenizer import Tokenizer
from template.errors import ConfigError

TOKEN_DTYPE = np.dtype("<u2")

DOCUMENT_SEPARATOR = b"\n"
"""Follows each document; documents end with a newline, so the separator is a blank line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A manifest and the files of its shards, by hex SHA-256."""

    manifest: Manifest
    blobs: dict[str, bytes]


def build_dataset(
    corpus: Corpus, tokenizer: Tokenizer, *, page_tokens: int, shard_tokens: int
) -> Dataset:
    """Tokenise, concatenate and cut; deterministic, so every machine gets the same manifest.

    Training documents fill shards of `shard_tokens` tokens in order; the last shard may be
    shorter. A final partial page is dropped, because padding would add artificial tokens to the
    loss. Held-out documents make a single shard of whole pages. Pages may span two documents of
    the same side. Raises ConfigError if `shard_tokens` is not a multiple of `page_tokens`, if a
    side has less than a page, or if two shards are equal.
    """
    if page_tokens < 2 or shard_tokens < page_tokens or shard_tokens % page_tokens:
        raise ConfigError(
            f"shard_tokens ({shard_tokens}) must be a multiple of page_tokens ({page_tokens}), "
            "which must be at least 2"
        )
    train = _whole_pages(corpus.train, tokenizer, page_tokens, "training")
    held_out = _whole_pages(corpus.held_out, tokenizer, page_tokens, "held-out")
    blobs: dict[str, bytes] = {}
    shards = tuple(
        _add_shard(blobs, train[start : start + shard_tokens])
        for start in range(0, train.size, shard_tokens)
    )
    manifest = Manifest(
        tokenizer=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        page_tokens=page_tokens,
        shards=shards,
        held_out=_add_shard(blobs, held_out),
    )
    return Dataset(manifest=manifest, blobs=blobs)


def _whole_pages(
    documents: Iterable[Document], tokenizer: Tokenizer, page_tokens: int, side: str
) -> npt.NDArray[np.uint16]:
    """All tokens of a side of the corpus, without the last partial page."""
    if tokenizer.vocab_size > MAX_VOCAB_SIZE:
        raise ConfigError(
            f"tokenizer {tokenizer.name} has {tokenizer.vocab_size} tokens, shards hold at most "
            f"{MAX_VOCAB_SIZE}"
        )
    parts = [tokenizer.encode(document.text + DOCUMENT_SEPARATOR) for document in documents]
    tokens = np.concatenate([np.empty(0, np.uint16), *parts])
    num_tokens = tokens.size - tokens.size % page_tokens
    if num_tokens == 0:
        raise ConfigError(f"the {side} text has {tokens.size} tokens, less than one page")
    return tokens[:num_tokens]


def _add_shard(blobs: dict[str, bytes], tokens: npt.NDArray[np.uint16]) -> Shard:
    blob = tokens.astype(TOKEN_DTYPE).tobytes()
    sha256 = hashlib.sha256(blob).hexdigest()
    if sha256 in blobs:
        raise ConfigError(
            f"two shards hold the same {tokens.size} tokens; remove the repeated text"
        )
    blobs[sha256] = blob
    return Shard(sha256=sha256, num_tokens=int(tokens.size))
