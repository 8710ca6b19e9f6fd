"""Cutting a corpus into shards in memory: from documents to the files and manifest of a dataset.

Pure: the caller publishes the files. For texts too large for memory there is `folder`;
`template.data.pages` reads pages.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from template.data.assignment import shuffled_blocks
from template.data.corpus import Corpus, Document
from template.data.folder import Layout
from template.data.manifest import (
    Manifest,
    Shard,
    digest_list,
    token_bytes_of,
    token_dtype,
)
from template.data.tokenizer import Tokenizer, Tokens
from template.errors import ConfigError, NotFound
from template.protocol.hashing import labelled_hash

SHARD_TOKENS = 2**20
"""Tokens of a shard cut in memory, less a part of a segment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A manifest and its files: digest lists and shards by hex SHA-256 of the list.

    `tokenizer_file`: empty for `byte`.
    """

    manifest: Manifest
    lists: dict[str, bytes]
    shards: dict[str, bytes]
    tokenizer_file: bytes = b""

    def digest_list(self, shard: Shard) -> bytes:
        """A shard's digest list. NotFound for an unknown shard."""
        if shard.sha256 not in self.lists:
            raise NotFound(f"digest list {shard.sha256} is not in this dataset")
        return self.lists[shard.sha256]

    def shard_data(self, shard: Shard) -> bytes:
        """A shard's bytes. NotFound for an unknown shard."""
        if shard.sha256 not in self.shards:
            raise NotFound(f"shard {shard.sha256} is not in this dataset")
        return self.shards[shard.sha256]

    def shard_file(self, _shard: Shard) -> None:
        """None: the shards are in memory."""

    def shard_range(self, shard: Shard, start: int, length: int) -> bytes:
        """Bytes [start, start + length) of a shard. NotFound for an unknown shard."""
        return self.shard_data(shard)[start : start + length]


def build_dataset(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    page_tokens: int,
    segment_pages: int,
    shard_tokens: int = SHARD_TOKENS,
) -> Dataset:
    """Tokenise, concatenate, shuffle and cut; deterministic, so every machine gets one manifest.

    Whole pages of each side are shuffled, by a hash, before they make segments: the texts are few
    and long, and the pages of a segment must be independent. Shards have as many whole segments as
    fit `shard_tokens`; the last may be shorter. A final partial page, and the pages of a partial
    segment, are dropped. Held-out documents make a single shard. Raises ConfigError if a side has
    less than a segment, or if two shards are equal.
    """
    layout = Layout(
        page_tokens=page_tokens,
        segment_pages=segment_pages,
        shard_segments=max(1, shard_tokens // max(1, page_tokens * segment_pages)),
        token_bytes=token_bytes_of(tokenizer.entry.vocab_size),
    )
    train = _shuffled_pages(corpus.train, tokenizer, layout, "training")
    held_out = _shuffled_pages(corpus.held_out, tokenizer, layout, "held-out")
    lists: dict[str, bytes] = {}
    shards: dict[str, bytes] = {}
    per_shard = layout.shard_segments * segment_pages
    listed = tuple(
        _add_shard(lists, shards, train[start : start + per_shard], layout)
        for start in range(0, len(train), per_shard)
    )
    manifest = Manifest(
        tokenizer=tokenizer.entry,
        token_bytes=layout.token_bytes,
        page_tokens=page_tokens,
        segment_pages=segment_pages,
        shards=listed,
        held_out=_add_shard(lists, shards, held_out, layout),
    )
    return Dataset(manifest=manifest, lists=lists, shards=shards, tokenizer_file=tokenizer.file)


def _shuffled_pages(
    documents: Iterable[Document], tokenizer: Tokenizer, layout: Layout, side: str
) -> Tokens:
    """The pages of a side in whole segments, [n, page_tokens], in a seeded order."""
    parts = tokenizer.encode_documents([document.text for document in documents])
    tokens = np.concatenate([np.empty(0, np.uint32), *parts])
    num_pages = tokens.size // layout.page_tokens
    if num_pages < layout.segment_pages:
        raise ConfigError(
            f"the {side} text has {num_pages} pages, less than one segment of "
            f"{layout.segment_pages}: take more text, or a smaller data.segment_pages"
        )
    pages = tokens[: num_pages * layout.page_tokens].reshape(num_pages, layout.page_tokens)
    seed = labelled_hash("page shuffle", side.encode("ascii"))
    order = shuffled_blocks(np.arange(num_pages), seed, num_pages)
    return pages[order[: num_pages - num_pages % layout.segment_pages]]


def _add_shard(
    lists: dict[str, bytes],
    shards: dict[str, bytes],
    pages: npt.NDArray[np.unsignedinteger],
    layout: Layout,
) -> Shard:
    data = pages.astype(token_dtype(layout.token_bytes)).tobytes()
    starts = range(0, len(data), layout.segment_bytes)
    digests = [hashlib.sha256(data[i : i + layout.segment_bytes]).digest() for i in starts]
    listed = digest_list(digests)
    sha256 = hashlib.sha256(listed).hexdigest()
    if sha256 in lists:
        raise ConfigError(f"two shards hold the same {pages.size} tokens; remove repeated text")
    lists[sha256], shards[sha256] = listed, data
    return Shard(sha256=sha256, num_segments=len(digests))
