"""Building a dataset in memory: every page once, shuffled, up to less than a segment."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template.data.corpus import Corpus, Document
from template.data.manifest import Shard, manifest_bytes, parse_digest_list, parse_manifest
from template.data.shards import Dataset, build_dataset
from template.data.tokenizer import load_tokenizer
from template.errors import ConfigError, NotFound


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


def _build(
    corpus: Corpus, page_tokens: int = 8, segment_pages: int = 2, shard_tokens: int = 32
) -> Dataset:
    return build_dataset(
        corpus,
        load_tokenizer("byte"),
        page_tokens=page_tokens,
        segment_pages=segment_pages,
        shard_tokens=shard_tokens,
    )


def _tokens(dataset: Dataset, shards: Iterable[Shard]) -> bytes:
    data = b"".join(dataset.shard_data(shard) for shard in shards)
    return np.frombuffer(data, dtype="<u2").astype(np.uint8).tobytes()


def _pages(text: bytes, page_tokens: int = 8) -> list[bytes]:
    return sorted(text[i : i + page_tokens] for i in range(0, len(text), page_tokens))


@settings(max_examples=40)
@given(
    num_train=st.integers(16, 300),
    page_tokens=st.integers(5, 9),
    segment_pages=st.integers(1, 4),
    shard_tokens=st.integers(1, 80),
)
def test_every_page_once_and_less_than_a_segment_dropped(
    num_train: int, page_tokens: int, segment_pages: int, shard_tokens: int
) -> None:
    corpus = _corpus(num_train, 60)
    text = b"".join(document.text + b"\n" for document in corpus.train)
    assert len(text) == num_train
    segment = page_tokens * segment_pages
    if num_train < segment:
        with pytest.raises(ConfigError, match="less than one segment"):
            _build(corpus, page_tokens, segment_pages, shard_tokens)
        return
    dataset = _build(corpus, page_tokens, segment_pages, shard_tokens)
    manifest = dataset.manifest
    assert parse_manifest(manifest_bytes(manifest)) == manifest
    sizes = [shard.num_segments for shard in manifest.shards]
    assert sum(sizes) == num_train // page_tokens // segment_pages
    assert set(sizes[:-1]) <= {max(1, shard_tokens // segment)}
    whole = text[: num_train // page_tokens * page_tokens]
    kept = _pages(_tokens(dataset, manifest.shards), page_tokens)
    left = _pages(whole, page_tokens)
    for page in kept:
        left.remove(page)
    assert len(left) < segment_pages


def test_pages_are_shuffled_the_same_way_everywhere() -> None:
    corpus = _corpus(4_000, 400)
    text = b"".join(document.text + b"\n" for document in corpus.train)
    tokens = _tokens(_build(corpus), _build(corpus).manifest.shards)
    places = [text.index(tokens[i : i + 8]) // 8 for i in range(0, len(tokens), 8)]
    assert places[:8] != sorted(places[:8])
    neighbours = np.abs(np.diff(places)) == 1
    assert neighbours.mean() < 0.05, "neighbours of the text are no neighbours of the dataset"
    held_out = _tokens(_build(corpus), [_build(corpus).manifest.held_out])
    assert held_out != (corpus.held_out[0].text + b"\n")[: len(held_out)]


def test_files_are_the_manifests_and_no_others() -> None:
    dataset = _build(_corpus(127, 20))
    manifest = dataset.manifest
    listed = {shard.sha256: shard for shard in (*manifest.shards, manifest.held_out)}
    assert dataset.shards.keys() == dataset.lists.keys() == listed.keys()
    for sha256, shard in listed.items():
        digests = parse_digest_list(dataset.lists[sha256], shard)
        data = dataset.shards[sha256]
        assert len(data) == manifest.shard_bytes(shard)
        for index, digest in enumerate(digests):
            segment = data[index * manifest.segment_bytes : (index + 1) * manifest.segment_bytes]
            assert hashlib.sha256(segment).digest() == digest.tobytes()
    unknown = Shard(sha256="00" * 32, num_segments=1)
    for ask in (dataset.digest_list, dataset.shard_data):
        with pytest.raises(NotFound):
            ask(unknown)


def test_tokens_are_little_endian() -> None:
    dataset = _build(
        Corpus(train=(_document("a", b"ABCDEFG"),), held_out=(_document("b", b"x" * 8),)),
        segment_pages=1,
    )
    assert dataset.shard_data(dataset.manifest.shards[0]) == b"A\0B\0C\0D\0E\0F\0G\0\n\0"


@pytest.mark.parametrize(("page_tokens", "segment_pages"), [(1, 4), (0, 1), (8, 0), (8, -1)])
def test_sizes_must_fit(page_tokens: int, segment_pages: int) -> None:
    with pytest.raises(ConfigError, match="page_tokens"):
        _build(_corpus(64, 20), page_tokens, segment_pages)


@pytest.mark.parametrize(
    ("num_train", "num_held_out", "side"), [(15, 20, "training"), (64, 15, "held-out")]
)
def test_a_side_of_less_than_a_segment(num_train: int, num_held_out: int, side: str) -> None:
    with pytest.raises(ConfigError, match=f"{side} text has 1 pages"):
        _build(_corpus(num_train, num_held_out))


def test_held_out_text_that_is_trained_on_is_refused() -> None:
    text = b"to be or not to"
    with pytest.raises(ConfigError, match="same 16 tokens"):
        _build(
            Corpus(train=(_document("a", text),), held_out=(_document("b", text),)),
            page_tokens=16,
            segment_pages=1,
        )
