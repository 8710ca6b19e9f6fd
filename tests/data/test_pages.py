"""Reading pages: the right tokens, and only bytes with the manifest's digest."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from template.data.corpus import Corpus, Document
from template.data.manifest import Manifest, Shard
from template.data.pages import PageReader
from template.data.shards import Dataset, build_dataset
from template.data.tokenizer import load_tokenizer
from template.errors import ConfigError, NotFound, StateError, Unavailable


class Mirror:
    """Serves a dataset's blobs and records requests."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        self.blobs = dict(blobs)
        self.requests: list[str] = []

    def __call__(self, sha256: str, num_bytes: int) -> bytes:
        self.requests.append(sha256)
        if sha256 not in self.blobs:
            raise NotFound(f"shard {sha256} is not here")
        return self.blobs[sha256]


@pytest.fixture
def dataset() -> Dataset:
    """13 pages of 4 tokens in shards of 5, 5 and 3 pages; 2 held-out pages."""
    train = Document(name="a", work="a", text=bytes(range(100, 153)))
    held_out = Document(name="b", work="b", text=b"held out")
    corpus = Corpus(train=(train,), held_out=(held_out,))
    return build_dataset(corpus, load_tokenizer("byte"), page_tokens=4, shard_tokens=20)


@pytest.fixture
def mirror(dataset: Dataset) -> Mirror:
    return Mirror(dataset.blobs)


def _reader(
    dataset: Dataset, mirror: Mirror, cache_dir: Path | None = None, resident: int = 2
) -> PageReader:
    return PageReader(dataset.manifest, mirror, cache_dir, resident)


def _expected(page_id: int) -> list[int]:
    return list(range(100 + 4 * page_id, 104 + 4 * page_id))


def test_every_page_is_its_tokens(dataset: Dataset, mirror: Mirror) -> None:
    reader = _reader(dataset, mirror, resident=1)
    assert reader.num_pages == dataset.manifest.num_pages == 13
    for page_id in range(13):
        page = reader.page(page_id)
        assert page.dtype == np.int64
        assert page.tolist() == _expected(page_id)


def test_pages_come_in_the_order_asked_for_and_each_shard_once(
    dataset: Dataset, mirror: Mirror
) -> None:
    ids = [12, 0, 4, 5, 12, 9, 10, 1]
    pages = _reader(dataset, mirror, resident=1).pages(ids)
    assert pages.dtype == np.int64
    assert pages.tolist() == [_expected(page_id) for page_id in ids]
    assert len(mirror.requests) == 3


def test_no_pages(dataset: Dataset, mirror: Mirror) -> None:
    assert _reader(dataset, mirror).pages([]).shape == (0, 4)
    assert mirror.requests == []


@pytest.mark.parametrize("page_id", [-1, 13])
def test_page_ids_out_of_range(dataset: Dataset, mirror: Mirror, page_id: int) -> None:
    with pytest.raises(ValueError, match=r"\[0, 13\)"):
        _reader(dataset, mirror).page(page_id)


def test_held_out_is_the_held_out_shard(dataset: Dataset, mirror: Mirror) -> None:
    held_out = _reader(dataset, mirror).held_out()
    assert held_out.dtype == np.int64
    assert held_out.tolist() == [list(b"held"), list(b" out")]


def test_least_recently_used_shard_leaves_memory(dataset: Dataset, mirror: Mirror) -> None:
    first, second, third = (shard.sha256 for shard in dataset.manifest.shards)
    reader = _reader(dataset, mirror, resident=2)
    for page_id in (0, 5, 1, 10, 2, 6):
        reader.page(page_id)
    assert mirror.requests == [first, second, third, second]


def test_what_is_returned_is_the_callers_own(dataset: Dataset, mirror: Mirror) -> None:
    reader = _reader(dataset, mirror)
    reader.page(3)[:] = 0
    reader.held_out()[:] = 0
    assert reader.page(3).tolist() == _expected(3)
    assert reader.held_out()[0].tolist() == list(b"held")


def test_second_reader_reads_the_cache(dataset: Dataset, mirror: Mirror, tmp_path: Path) -> None:
    cache_dir = tmp_path / "made" / "on demand"
    _reader(dataset, mirror, cache_dir).pages(range(13))
    offline = Mirror({})
    assert _reader(dataset, offline, cache_dir).pages(range(13))[12].tolist() == _expected(12)
    assert offline.requests == []
    assert sorted(path.name for path in cache_dir.iterdir()) == sorted(
        f"{shard.sha256}.tokens" for shard in dataset.manifest.shards
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:7] + bytes([data[7] ^ 1]) + data[8:],
        lambda data: bytes(len(data)),
    ],
)
def test_corrupt_cache_is_fetched_again_once(
    dataset: Dataset, mirror: Mirror, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    sha256 = dataset.manifest.shards[0].sha256
    _reader(dataset, mirror, tmp_path).page(0)
    path = tmp_path / f"{sha256}.tokens"
    path.write_bytes(damage(path.read_bytes()))
    assert _reader(dataset, mirror, tmp_path).page(0).tolist() == _expected(0)
    assert mirror.requests == [sha256, sha256]
    assert path.read_bytes() == dataset.blobs[sha256]

    path.write_bytes(damage(path.read_bytes()))
    mirror.blobs[sha256] = damage(dataset.blobs[sha256])
    with pytest.raises(Unavailable, match=sha256):
        _reader(dataset, mirror, tmp_path).page(0)
    assert mirror.requests == [sha256] * 3


def test_wrong_bytes_from_a_mirror_are_never_cached(
    dataset: Dataset, mirror: Mirror, tmp_path: Path
) -> None:
    sha256 = dataset.manifest.shards[1].sha256
    mirror.blobs[sha256] = dataset.blobs[dataset.manifest.shards[0].sha256]
    reader = _reader(dataset, mirror, tmp_path)
    with pytest.raises(Unavailable, match=sha256):
        reader.pages([0, 5])
    assert not (tmp_path / f"{sha256}.tokens").exists()
    mirror.blobs[sha256] = dataset.blobs[sha256]
    assert reader.page(5).tolist() == _expected(5)


def test_errors_of_fetch_pass_through(dataset: Dataset) -> None:
    with pytest.raises(NotFound):
        _reader(dataset, Mirror({})).page(0)


def test_tokens_outside_the_vocabulary_are_refused() -> None:
    def shard(tokens: list[int]) -> tuple[Shard, bytes]:
        blob = np.array(tokens, dtype="<u2").tobytes()
        return Shard(sha256=hashlib.sha256(blob).hexdigest(), num_tokens=len(tokens)), blob

    good, good_blob = shard([0, 255])
    bad, bad_blob = shard([0, 256])
    manifest = Manifest(
        tokenizer="byte", vocab_size=256, page_tokens=2, shards=(good, bad), held_out=bad
    )
    reader = PageReader(manifest, Mirror({good.sha256: good_blob, bad.sha256: bad_blob}), None, 1)
    assert reader.page(0).tolist() == [0, 255]
    with pytest.raises(ConfigError, match=bad.sha256):
        reader.page(1)


def test_unusable_cache_names_the_remedy(dataset: Dataset, mirror: Mirror, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_bytes(b"")
    with pytest.raises(StateError, match=r"--neuron\.state_dir.*move it away") as caught:
        _reader(dataset, mirror, in_the_way).page(0)
    assert caught.value.is_lasting, "a restart cannot help"


def test_at_least_one_shard_must_stay(dataset: Dataset, mirror: Mirror) -> None:
    with pytest.raises(ValueError, match="max_resident_shards"):
        _reader(dataset, mirror, resident=0)


def test_each_shard_that_enters_memory_is_told_of(
    dataset: Dataset, mirror: Mirror, tmp_path: Path
) -> None:
    """A shard is reported from the network and from disk alike, for serving to peers."""
    for _process in range(2):
        told: dict[str, bytes] = {}
        reader = PageReader(dataset.manifest, mirror, tmp_path, 3, on_read=told.__setitem__)
        reader.pages(range(13))
        reader.page(0)
        assert told == {s.sha256: dataset.blobs[s.sha256] for s in dataset.manifest.shards}
    assert len(mirror.requests) == 3


def test_the_shards_that_no_bucket_has_are_found_and_the_others_stay_readable(
    dataset: Dataset, mirror: Mirror, caplog
) -> None:
    reader = _reader(dataset, mirror)
    assert reader.shards_of([0, 4, 5, 9, 10, 12]).tolist() == [0, 0, 1, 1, 2, 2]
    assert reader.find_missing_shards(np.arange(13)) == frozenset()
    lost = dataset.manifest.shards[1].sha256
    del mirror.blobs[lost]
    reader = _reader(dataset, mirror)
    mirror.requests.clear()
    assert reader.find_missing_shards(np.arange(13)) == {1}
    assert mirror.requests.count(lost) == 1, "asked for once, however many pages it has"
    assert reader.find_missing_shards(np.array([0, 12])) == frozenset()
    assert reader.pages([0, 12]).tolist() == [_expected(0), _expected(12)]
    with pytest.raises(NotFound):
        reader.pages([5])
