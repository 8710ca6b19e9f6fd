"""Mixtures: shares of segments, samples and repeats, the same bytes again, and what is refused."""

import hashlib
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from template.cli.main import run_command
from template.commands.plan import Dataset, upload_missing
from template.data.folder import DatasetFolder, Layout, open_folder, write_dataset
from template.data.manifest import Manifest, manifest_digest
from template.data.mixing import open_ingredients, shared_out
from template.data.preparing.card import CARD_NAME, card_json, read_chat
from template.data.tokenizer import ByteTokenizer
from template.errors import ConfigError
from template.protocol.keys import blob_key, shard_key
from template.store.memory import MemoryStore

PAGE, SEGMENT = 8, 2
CHAT = {"system": 1, "user": 5, "assistant": 2, "end": 3}


def dataset(
    folder: Path, first: int, segments: int, *, segment: int = SEGMENT, held_out: int = 3
) -> Path:
    """A dataset whose segments are known by their tokens: `first` + the segment's number."""
    layout = Layout(page_tokens=PAGE, segment_pages=segment, shard_segments=4, token_bytes=2)
    numbers = np.arange(first, first + segments)
    pages = np.repeat(numbers, segment * PAGE).reshape(-1, PAGE)
    kept = np.full((held_out * segment, PAGE), first + segments)
    write_dataset(folder, layout, ByteTokenizer.entry, [pages], [kept])
    (folder / CARD_NAME).write_bytes(card_json({}))
    return folder


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path]:
    return dataset(tmp_path / "better", 10, 9), dataset(tmp_path / "replay", 100, 50)


def tessera(*argv: str) -> int:
    return run_command("data", ["mix", *argv], "tessera data")


def segments_of(folder: DatasetFolder) -> list[int]:
    """The token of each training segment in order."""
    data = b"".join(folder.shard_data(shard) for shard in folder.manifest.shards)
    found = np.frombuffer(data, "<u2").reshape(-1, SEGMENT * PAGE)
    assert (found == found[:, :1]).all(), "segments are whole"
    return [int(each) for each in found[:, 0]]


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def held_out_of(manifest: Manifest) -> str:
    return manifest.held_out.sha256


def test_a_mixture_has_its_shares_without_repeats(two, tmp_path, capsys) -> None:
    better, replay = two
    assert tessera("--out", str(tmp_path / "m"), f"{better}:0.3", f"{replay}:70%") == 0
    found = open_folder(tmp_path / "m")
    taken = Counter(segments_of(found))
    assert max(taken.values()) == 1
    assert {token for token in taken if token < 100} == set(range(10, 19)), "all of the smaller one"
    assert sum(1 for token in taken if token >= 100) == 21
    assert found.manifest.num_segments == 30
    assert held_out_of(found.manifest) == held_out_of(open_folder(better).manifest)
    assert segments_of(found) != sorted(segments_of(found)), "shuffled"
    out = capsys.readouterr().out
    assert "9 segments, 30.00% of the mixture, a sample of its 9" in out
    assert manifest_digest(found.manifest).hex() in out
    assert read_chat(tmp_path / "m") is None


def test_a_small_source_is_repeated_as_often_as_is_said(two, tmp_path, capsys) -> None:
    better, replay = two
    argv = ("--segments", "50", f"{better}:0.7", f"{replay}:0.3", "--held-out", str(replay))
    assert tessera("--out", str(tmp_path / "m"), *argv) == 0
    taken = Counter(segments_of(open_folder(tmp_path / "m")))
    assert sum(count for token, count in taken.items() if token < 100) == 35
    assert sorted(count for token, count in taken.items() if token < 100) == [3, *[4] * 8]
    assert all(count == 1 for token, count in taken.items() if token >= 100)
    assert "each of its 9 about 3.9 times" in capsys.readouterr().out
    manifest = open_folder(tmp_path / "m").manifest
    assert held_out_of(manifest) == held_out_of(open_folder(replay).manifest)


def test_the_same_command_makes_the_same_bytes_and_another_seed_others(two, tmp_path) -> None:
    sources = [f"{two[0]}:0.3", f"{two[1]}:0.7"]
    made = {}
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        out = tmp_path / name
        if name == "b":  # as an interrupted command has left it
            (out / "shards").mkdir(parents=True)
            (out / "shards" / ".train.part").write_bytes(b"half")
        assert tessera("--out", str(out), "--seed", seed, *sources) == 0
        made[name] = files_of(out)
    assert made["a"] == made["b"]
    assert made["a"] != made["c"]
    assert tessera("--out", str(tmp_path / "a"), *sources) == 2, "a finished folder stays"


def test_conversations_bring_their_table(two, tmp_path) -> None:
    (two[0] / CARD_NAME).write_bytes(card_json({"chat": CHAT}))
    sources = [f"{two[0]}:0.3", f"{two[1]}:0.7"]
    assert tessera("--out", str(tmp_path / "m"), *sources) == 0
    found = read_chat(tmp_path / "m")
    assert found is not None
    assert found.end == 3
    (two[1] / CARD_NAME).write_bytes(card_json({"chat": {**CHAT, "end": 4}}))
    assert tessera("--out", str(tmp_path / "n"), *sources) == 2


def test_a_mixture_is_whole_with_its_card_or_none_at_all(two, tmp_path, capsys) -> None:
    """A dataset whose card was never written would lose its conversations without a word."""
    (two[0] / CARD_NAME).write_bytes(card_json({"chat": CHAT}))
    out, sources = tmp_path / "m", [f"{two[0]}:0.3", f"{two[1]}:0.7"]
    (out / CARD_NAME).mkdir(parents=True)  # the disk refuses the card
    assert tessera("--out", str(out), *sources) == 2
    assert f"{out / CARD_NAME} cannot be written" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="cannot be read"):
        open_folder(out)
    (out / CARD_NAME).rmdir()
    assert tessera("--out", str(out), *sources) == 0
    assert read_chat(out) is not None


def test_a_dataset_without_a_card_is_refused(two, tmp_path, capsys) -> None:
    (two[0] / CARD_NAME).unlink()
    assert tessera("--out", str(tmp_path / "m"), f"{two[0]}:0.3", f"{two[1]}:0.7") == 2
    assert f"{two[0]}: has no card.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "[]", "\xff", "[" * 50_000, '{"chat": 5}', '{"chat": {"user": 1}}']
)
def test_a_damaged_card_is_named(tmp_path, text: str) -> None:
    (tmp_path / CARD_NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=f"{tmp_path / CARD_NAME}: cannot be read .* again"):
        read_chat(tmp_path)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["{a}:0.7", "{b}:0.2"], "the shares make 0.9 together, and must make 1"),
        (["{a}:0.7", "{a}:0.3"], "given twice"),
        (["{a}", "{b}:0.3"], "write DIR:SHARE"),
        (["{a}:x", "{b}:0.3"], "write DIR:SHARE"),
        (["{a}:0", "{b}:1"], "write DIR:SHARE"),
        (["{a}:0.5", "{none}:0.5"], "cannot be read"),
        (["{a}:0.5", "{wide}:0.5"], "wide: segment_pages is 3, and 2 in"),
        (["--segments", "4294967296", "{a}:0.5", "{b}:0.5"], "than a mixture can have, 16,777,216"),
        (["--segments", "3", "{a}:0.1", "{b}:0.9"], "the smallest share has no segment"),
    ],
)
def test_what_cannot_be_mixed_is_named(two, tmp_path, capsys, sources, message: str) -> None:
    wide = dataset(tmp_path / "wide", 10, 9, segment=3)
    paths = {"a": two[0], "b": two[1], "none": tmp_path / "none", "wide": wide}
    argv = [each.format(**paths) for each in sources]
    assert tessera("--out", str(tmp_path / "m"), *argv) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m" / "manifest.json").exists()


def test_a_damaged_segment_is_found(two, tmp_path, capsys) -> None:
    path = next((two[1] / "shards").iterdir())
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    argv = [f"{two[0]}:0.2", f"{two[1]}:0.8", "--segments", "60"]
    assert tessera("--out", str(tmp_path / "m"), *argv) == 2
    assert "another digest than its list says" in capsys.readouterr().err


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(200, 5000))
def test_counts_make_the_whole_and_miss_no_share_by_one(weights: list[int], total: int) -> None:
    shares = [Fraction(weight, sum(weights)) for weight in weights]
    counts = shared_out(shares, total)
    assert sum(counts) == total
    assert all(abs(c - s * total) < 1 for c, s in zip(counts, shares, strict=True))


def test_no_share_is_left_without_a_segment() -> None:
    with pytest.raises(ConfigError, match="--segments 10"):
        shared_out([Fraction(1, 100), Fraction(99, 100)], 10)


def test_a_dataset_goes_into_a_bucket_whole_and_once(two) -> None:
    folder, bucket = open_folder(two[0]), MemoryStore()
    sent = upload_missing(Dataset(folder), bucket, bucket, lambda _: None)
    manifest = folder.manifest
    for shard in (*manifest.shards, manifest.held_out):
        digest = bytes.fromhex(shard.sha256)
        assert bucket.get(shard_key(digest), max_bytes=2**20) == folder.shard_data(shard)
        assert bucket.get(blob_key(digest), max_bytes=2**20) == folder.digest_list(shard)
    assert bucket.size(blob_key(manifest_digest(manifest))) > 0
    assert sent > 0
    assert upload_missing(Dataset(folder), bucket, bucket, lambda _: None) == 0


def test_without_a_wish_nothing_is_repeated(two) -> None:
    found = open_ingredients({two[0]: Fraction(1, 2), two[1]: Fraction(1, 2)}, 0)
    assert [each.segments for each in found] == [9, 9]
    assert found[0].repeats == 1
