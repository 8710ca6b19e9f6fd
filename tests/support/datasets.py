"""Datasets in memory whose pages tell their own numbers."""

import hashlib

import numpy as np

from template.data.folder import Layout
from template.data.manifest import (
    Manifest,
    Shard,
    TokenizerEntry,
    digest_list,
    token_bytes_of,
    token_dtype,
)
from template.data.shards import Dataset

SEGMENT_PAGES, PAGE_TOKENS = 3, 4


def make_dataset(
    sizes: tuple[int, ...] = (4, 4, 2),
    held_out: int = 2,
    segment_pages: int = SEGMENT_PAGES,
    page_tokens: int = PAGE_TOKENS,
    vocab_size: int = 60_000,
) -> Dataset:
    """Pages whose first token is their id, in shards of so many segments."""
    entry = TokenizerEntry(
        name="numbers", sha256="ab" * 32, num_bytes=1, vocab_size=vocab_size, end_of_document=0
    )
    layout = Layout(
        page_tokens=page_tokens,
        segment_pages=segment_pages,
        shard_segments=max(*sizes, held_out, 1),
        token_bytes=token_bytes_of(vocab_size),
    )
    lists, shards, listed, first = {}, {}, [], 0
    for num_segments in (*sizes, held_out):
        count = num_segments * segment_pages
        pages = np.zeros((count, page_tokens), dtype=token_dtype(layout.token_bytes))
        pages[:, 0] = np.arange(first, first + count) % 50_000
        pages[:, 1] = np.arange(first, first + count) // 50_000
        first += count
        data, size = pages.tobytes(), layout.segment_bytes
        digests = [hashlib.sha256(data[i : i + size]).digest() for i in range(0, len(data), size)]
        digest_bytes = digest_list(digests)
        sha256 = hashlib.sha256(digest_bytes).hexdigest()
        lists[sha256], shards[sha256] = digest_bytes, data
        listed.append(Shard(sha256=sha256, num_segments=num_segments))
    manifest = Manifest(
        tokenizer=entry,
        token_bytes=layout.token_bytes,
        page_tokens=page_tokens,
        segment_pages=segment_pages,
        shards=tuple(listed[:-1]),
        held_out=listed[-1],
    )
    return Dataset(manifest=manifest, lists=lists, shards=shards)
