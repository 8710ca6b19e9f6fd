"""A prepared dataset as a folder: written in bounded memory, verified when opened."""

import hashlib
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template.data.folder import (
    DatasetFolder,
    Layout,
    ShardWriter,
    list_path,
    open_folder,
    shard_path,
    write_dataset,
)
from template.data.manifest import MAX_SEGMENT_BYTES, Manifest, TokenizerEntry
from template.data.pages import PageReader
from template.data.source import LocalSource
from template.data.tokenizer import load_tokenizer
from template.errors import ConfigError, StateError

BYTE = load_tokenizer("byte").entry
FILE = b'{"model":{}}'
WORDS = TokenizerEntry(
    name="words",
    sha256=hashlib.sha256(FILE).hexdigest(),
    num_bytes=len(FILE),
    vocab_size=70_000,
    end_of_document=0,
)
LAYOUT = Layout(page_tokens=4, segment_pages=2, shard_segments=3, token_bytes=2)


def _pages(count: int, page_tokens: int = 4, high: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, (count, page_tokens))


def _write(folder: Path) -> Manifest:
    return write_dataset(folder, LAYOUT, BYTE, [_pages(15)], [_pages(5, seed=1)])


@settings(max_examples=40)
@given(
    page_tokens=st.integers(2, 6),
    segment_pages=st.integers(1, 5),
    shard_segments=st.integers(1, 4),
    wide=st.booleans(),
    parts=st.lists(st.integers(0, 17), min_size=1, max_size=8),
)
def test_what_is_written_is_read_in_whole_segments(
    tmp_path_factory: pytest.TempPathFactory,
    page_tokens: int,
    segment_pages: int,
    shard_segments: int,
    wide: bool,
    parts: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("dataset")
    entry, file = (WORDS, FILE) if wide else (BYTE, b"")
    layout = Layout(
        page_tokens=page_tokens,
        segment_pages=segment_pages,
        shard_segments=shard_segments,
        token_bytes=4 if wide else 2,
    )
    given_pages = [_pages(n, page_tokens, entry.vocab_size, seed=n) for n in parts]
    held_out = _pages(2 * segment_pages, page_tokens, entry.vocab_size, seed=99)
    every = np.concatenate(given_pages)
    num_segments = len(every) // segment_pages
    if not num_segments:
        with pytest.raises(ConfigError, match="at least one shard"):
            write_dataset(folder, layout, entry, given_pages, [held_out], file)
        return
    distinct = {page.tobytes() for page in (*every, *held_out)}
    if len(distinct) < len(every) + len(held_out):
        return  # two shards may be equal
    manifest = write_dataset(folder, layout, entry, given_pages, [*held_out], file)
    sizes = [shard.num_segments for shard in manifest.shards]
    assert sum(sizes) == num_segments
    assert set(sizes[:-1]) <= {shard_segments}
    opened = open_folder(folder)
    assert opened.manifest == manifest
    assert opened.tokenizer_file == file
    reader = PageReader(manifest, LocalSource(opened))
    kept = num_segments * segment_pages
    assert reader.pages(range(kept)).tolist() == every[:kept].tolist()
    assert reader.held_out_pages(range(len(held_out))).tolist() == held_out.tolist()
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert len(names) == 2 * (len(sizes) + 1) + 1 + wide
    assert not [name for name in names if name.startswith(".")]


def test_memory_holds_less_than_two_segments_however_much_is_written(tmp_path: Path) -> None:
    layout = Layout(page_tokens=512, segment_pages=32, shard_segments=4, token_bytes=2)
    rng = np.random.default_rng(0)

    def pages(count: int) -> Iterator[np.ndarray]:
        for _ in range(count):
            yield rng.integers(0, 256, 512)

    peaks = []
    for number, count in enumerate((128, 2_048)):
        tracemalloc.start()
        write_dataset(tmp_path / str(number), layout, BYTE, pages(count), pages(32))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_writer_gives_each_shard_when_it_is_whole(tmp_path: Path) -> None:
    """What was whole before a kill stays, and a new writer begins the next shard anew."""
    writer = ShardWriter(tmp_path, LAYOUT, 256)
    assert writer.add(_pages(5)) == []
    (first,) = writer.add(_pages(3, seed=1))
    assert first.num_segments == 3
    assert shard_path(tmp_path, first).stat().st_size == 6 * 4 * 2
    again = ShardWriter(tmp_path, LAYOUT, 256)
    assert again.add(_pages(4, seed=2)) == []
    (second,) = again.close()
    assert second.num_segments == 2
    assert again.close() == []
    assert hashlib.sha256(list_path(tmp_path, second).read_bytes()).hexdigest() == second.sha256


@pytest.mark.parametrize(
    ("layout", "named"),
    [
        ({"page_tokens": 1}, "page_tokens"),
        ({"segment_pages": 0}, "segment_pages"),
        ({"token_bytes": 3}, "token_bytes"),
        ({"shard_segments": 0}, "shard_segments"),
        ({"shard_segments": 2**16 + 1}, "shard_segments"),
        ({"page_tokens": MAX_SEGMENT_BYTES}, "segment_pages"),
        ({"page_tokens": 2**20, "segment_pages": 16, "shard_segments": 2**8}, "shard_segments"),
    ],
)
def test_a_layout_that_no_manifest_may_have(layout: dict[str, int], named: str) -> None:
    sizes = {"page_tokens": 4, "segment_pages": 2, "shard_segments": 3, "token_bytes": 2}
    with pytest.raises(ConfigError, match=named):
        Layout(**sizes | layout)


@pytest.mark.parametrize(
    ("pages", "held_out", "named"),
    [
        ([_pages(15)], [_pages(1)], "held-out text makes 0 shards"),
        ([_pages(1)], [_pages(5)], "at least one shard"),
        ([_pages(15, high=1000)], [_pages(5)], "vocabulary of 256"),
        ([_pages(15) - 200], [_pages(5)], "vocabulary of 256"),
        ([_pages(15, page_tokens=5)], [_pages(5)], "a page has 5 tokens, not 4"),
        ([_pages(6), _pages(6)], [_pages(5, seed=1)], "repeats another"),
        ([_pages(6)], [_pages(6)], "repeats another"),
    ],
)
def test_pages_that_make_no_dataset(
    tmp_path: Path, pages: list[np.ndarray], held_out: list[np.ndarray], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        write_dataset(tmp_path, LAYOUT, BYTE, pages, held_out)
    with pytest.raises(ConfigError, match="cannot be read"):
        open_folder(tmp_path)


def test_token_bytes_follow_the_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a vocabulary of 70000 takes 4"):
        write_dataset(tmp_path, LAYOUT, WORDS, [_pages(15)], [_pages(5, seed=1)], FILE)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "shards").write_bytes(b"in the way")
    with pytest.raises(StateError, match="cannot be written"):
        _write(tmp_path)


Spoil = Callable[[Path, Manifest], None]


def _change(find: Callable[[Path, Manifest], Path], change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(folder: Path, manifest: Manifest) -> None:
        path = find(folder, manifest)
        path.write_bytes(change(path.read_bytes()))

    return spoil


FAULTS: dict[str, Spoil] = {
    "no manifest": lambda folder, _m: (folder / "manifest.json").unlink(),
    "another manifest": _change(lambda f, _m: f / "manifest.json", lambda data: data + b" "),
    "no list": lambda folder, m: list_path(folder, m.shards[1]).unlink(),
    "a short list": _change(lambda f, m: list_path(f, m.shards[0]), lambda data: data[:-32]),
    "another list": _change(lambda f, m: list_path(f, m.shards[0]), lambda d: d[::-1]),
    "no shard": lambda folder, m: shard_path(folder, m.held_out).unlink(),
    "a short shard": _change(lambda f, m: shard_path(f, m.shards[0]), lambda data: data[:-1]),
    "a long shard": _change(lambda f, m: shard_path(f, m.shards[0]), lambda data: data + b"\0"),
}


@pytest.mark.parametrize("spoil", FAULTS.values(), ids=FAULTS)
def test_a_damaged_folder_is_the_owners_fault(tmp_path: Path, spoil: Spoil) -> None:
    manifest = _write(tmp_path)
    assert isinstance(open_folder(tmp_path), DatasetFolder)
    spoil(tmp_path, manifest)
    with pytest.raises(ConfigError, match="prepare"):
        open_folder(tmp_path)


def test_a_damaged_segment_is_found_when_its_shard_is_read(tmp_path: Path) -> None:
    manifest = _write(tmp_path)
    shard = manifest.shards[0]
    path = shard_path(tmp_path, shard)
    data = bytearray(path.read_bytes())
    data[manifest.segment_bytes] ^= 1
    path.write_bytes(data)
    opened = open_folder(tmp_path)
    with pytest.raises(ConfigError, match="segment 1 has another digest"):
        opened.shard_data(shard)
    reader = PageReader(manifest, LocalSource(opened))
    assert reader.pages([0, 1]).shape == (2, 4)
    with pytest.raises(ConfigError, match="prepare the dataset again"):
        reader.page(2)


def test_the_tokenizers_file_belongs_to_the_folder(tmp_path: Path) -> None:
    layout = Layout(page_tokens=4, segment_pages=2, shard_segments=3, token_bytes=4)
    write_dataset(tmp_path, layout, WORDS, [_pages(15)], [_pages(5, seed=1)], FILE)
    assert open_folder(tmp_path).tokenizer_file == FILE
    path = tmp_path / "tokenizer.json"
    for spoiled in (FILE[::-1], FILE[:-1], FILE + b" "):
        path.write_bytes(spoiled)
        with pytest.raises(ConfigError, match=r"tokenizer\.json"):
            open_folder(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        open_folder(tmp_path)
