"""Building a dataset: every token once, in order, up to less than a page."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pytest

from template.data.corpus import Corpus, Document
from template.data.manifest import Shard, manifest_bytes, parse_manifest
from template.data.shards import Dataset, build_dataset
from template.data.tokenizer import load_tokenizer
from template.errors import ConfigError


def _document(name: str, text: bytes) -> Document:
    return Document(name=name, work=name, text=text)


def _corpus(num_train: int, num_held_out: int) -> Corpus:
    """A corpus whose sides have exactly these many tokens, separators counted."""
    rng = np.random.default_rng(1)
    letters = rng.integers(97, 123, num_train + num_held_out - 3, dtype=np.uint8).tobytes()
    half = num_train // 2
    return Corpus(
        train=(
            _document("a", letters[: half - 1]),
            _document("b", letters[half - 1 : num_train - 2]),
        ),
        held_out=(_document("c", letters[num_train - 2 :]),),
    )


def _build(corpus: Corpus, page_tokens: int = 8, shard_tokens: int = 32) -> Dataset:
    return build_dataset(
        corpus, load_tokenizer("byte"), page_tokens=page_tokens, shard_tokens=shard_tokens
    )


def _tokens(dataset: Dataset, shards: Iterable[Shard]) -> bytes:
    blobs = [dataset.blobs[shard.sha256] for shard in shards]
    return np.frombuffer(b"".join(blobs), dtype="<u2").astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("num_train", "sizes"),
    [
        (8, [8]),
        (15, [8]),
        (32, [32]),
        (33, [32]),
        (40, [32, 8]),
        (64, [32, 32]),
        (103, [32, 32, 32]),
        (127, [32, 32, 32, 24]),
    ],
)
def test_every_token_once_in_order_and_less_than_a_page_dropped(
    num_train: int, sizes: list[int]
) -> None:
    corpus = _corpus(num_train, 20)
    dataset = _build(corpus)
    assert [shard.num_tokens for shard in dataset.manifest.shards] == sizes
    text = b"".join(document.text + b"\n" for document in corpus.train)
    assert len(text) == num_train
    assert _tokens(dataset, dataset.manifest.shards) == text[: sum(sizes)]
    assert num_train - sum(sizes) < 8
    assert _tokens(dataset, [dataset.manifest.held_out]) == corpus.held_out[0].text[:16]


def test_blobs_are_the_manifests_and_no_others() -> None:
    dataset = _build(_corpus(127, 20))
    manifest = dataset.manifest
    listed = {shard.sha256: shard for shard in (*manifest.shards, manifest.held_out)}
    assert dataset.blobs.keys() == listed.keys()
    for sha256, blob in dataset.blobs.items():
        assert hashlib.sha256(blob).hexdigest() == sha256
        assert len(blob) == listed[sha256].num_bytes
    assert parse_manifest(manifest_bytes(manifest)) == manifest
    assert (manifest.tokenizer, manifest.vocab_size, manifest.num_pages) == ("byte", 256, 15)


def test_tokens_are_little_endian() -> None:
    dataset = _build(
        Corpus(train=(_document("a", b"ABCDEFG"),), held_out=(_document("b", b"x" * 8),))
    )
    assert dataset.blobs[dataset.manifest.shards[0].sha256] == b"A\0B\0C\0D\0E\0F\0G\0\n\0"


@pytest.mark.parametrize(("page_tokens", "shard_tokens"), [(8, 12), (8, 4), (8, 0), (1, 4), (0, 0)])
def test_sizes_must_fit(page_tokens: int, shard_tokens: int) -> None:
    with pytest.raises(ConfigError, match="shard_tokens"):
        _build(_corpus(64, 20), page_tokens, shard_tokens)


@pytest.mark.parametrize(
    ("num_train", "num_held_out", "side"), [(7, 20, "training"), (64, 7, "held-out")]
)
def test_a_side_of_less_than_a_page(num_train: int, num_held_out: int, side: str) -> None:
    with pytest.raises(ConfigError, match=side):
        _build(_corpus(num_train, num_held_out))


def test_held_out_text_that_is_trained_on_is_refused() -> None:
    text = b"to be or not to"
    with pytest.raises(ConfigError, match="same 16 tokens"):
        _build(Corpus(train=(_document("a", text),), held_out=(_document("b", text),)))
