"""Files by digest: a read returns the written bytes or None."""

import hashlib
import os
import resource
from pathlib import Path

import pytest

from template.data.kept import KeptFiles
from template.errors import EXIT_OPERATOR, StateError, exit_status

DATA = b"some bytes"
DIGEST = hashlib.sha256(DATA).digest()
OTHER = hashlib.sha256(b"others").digest()


def test_what_was_put_comes_back_in_another_process(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "on demand"
    assert KeptFiles(folder, ".part").get(DIGEST, len(DATA)) is None
    KeptFiles(folder, ".part").put(DIGEST, DATA)
    assert KeptFiles(folder, ".part").get(DIGEST, len(DATA)) == DATA
    assert KeptFiles(folder, ".other").get(DIGEST, len(DATA)) is None
    assert [path.name for path in folder.iterdir()] == [f"{DIGEST.hex()}.part"]


def test_nothing_is_a_file_too(tmp_path: Path) -> None:
    kept, digest = KeptFiles(tmp_path, ".part"), hashlib.sha256(b"").digest()
    assert kept.get(digest, 0) is None
    kept.put(digest, b"")
    assert kept.get(digest, 0) == b""


@pytest.mark.parametrize("damaged", [b"", DATA[:-1], DATA + b"\0", b"S" + DATA[1:]])
def test_a_damaged_file_is_none(tmp_path: Path, damaged: bytes) -> None:
    kept = KeptFiles(tmp_path, ".part")
    kept.put(DIGEST, DATA)
    (tmp_path / f"{DIGEST.hex()}.part").write_bytes(damaged)
    assert kept.get(DIGEST, len(DATA)) is None
    kept.put(DIGEST, DATA)
    assert kept.get(DIGEST, len(DATA)) == DATA
    assert kept.get(DIGEST, len(DATA) - 1) is None
    assert kept.get(DIGEST, len(DATA) + 1) is None


def test_only_files_of_this_suffix_are_removed(tmp_path: Path) -> None:
    kept, shards = KeptFiles(tmp_path, ".part"), KeptFiles(tmp_path, ".tokens")
    kept.keep_only([])
    for store in (kept, shards):
        store.put(DIGEST, DATA)
        store.put(OTHER, b"others")
    (tmp_path / "node.part").write_bytes(b"not ours")
    kept.keep_only([OTHER])
    assert kept.get(DIGEST, len(DATA)) is None
    assert kept.get(OTHER, 6) == b"others"
    assert shards.get(DIGEST, len(DATA)) == DATA
    assert (tmp_path / "node.part").exists()


@pytest.mark.parametrize("digest", [b"", b"../../x", bytes(31), bytes(33)])
def test_only_a_digest_is_a_name(tmp_path: Path, digest: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        KeptFiles(tmp_path, ".part").put(digest, DATA)


def test_a_folder_that_is_none_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    kept = KeptFiles(tmp_path / "file", ".part")
    wrong = rf"{tmp_path}/file is a file, and a folder belongs there: move it away"
    for use in (lambda: kept.get(DIGEST, len(DATA)), lambda: kept.put(DIGEST, DATA)):
        with pytest.raises(StateError, match=wrong) as caught:
            use()
        assert exit_status(caught.value) == EXIT_OPERATOR
        assert "free the disk" not in str(caught.value)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StateError, match="free the disk"):
            KeptFiles(tmp_path, ".part").put(DIGEST, bytes(101))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def _digests(count: int, size: int) -> list[tuple[bytes, bytes]]:
    made = [bytes([n % 256, n // 256]) * (size // 2) for n in range(count)]
    return [(hashlib.sha256(data).digest(), data) for data in made]


def test_a_bounded_folder_loses_what_was_used_longest_ago(tmp_path: Path) -> None:
    kept, files = KeptFiles(tmp_path, ".part", max_bytes=1_000), _digests(30, 100)
    for age, (digest, data) in enumerate(files[:10]):
        kept.put(digest, data)
        path = tmp_path / f"{digest.hex()}.part"
        os.utime(path, ns=(age, age))
    assert kept.get(files[0][0], 100) == files[0][1], "used now: no longer the oldest"
    kept.put(*files[10])
    assert kept.has(files[0][0], 100)
    assert not kept.has(files[1][0], 100)
    for digest, data in files[11:]:
        kept.put(digest, data)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1_000
    assert kept.get(*(files[-1][0], 100)) == files[-1][1]


def test_two_processes_share_one_bound_and_other_suffixes_do_not_count(tmp_path: Path) -> None:
    one, two = (KeptFiles(tmp_path, ".part", max_bytes=1_000) for _ in range(2))
    KeptFiles(tmp_path, ".other").put(DIGEST, DATA)
    for number, (digest, data) in enumerate(_digests(60, 100)):
        (one, two)[number % 2].put(digest, data)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.part")) <= 2_000
    assert KeptFiles(tmp_path, ".other").has(DIGEST, len(DATA))
    # A bound below one file keeps nothing for long, and loses nothing that the caller holds.
    tiny = KeptFiles(tmp_path / "tiny", ".part", max_bytes=10)
    for digest, data in _digests(3, 100):
        tiny.put(digest, data)
    assert sum(1 for _ in (tmp_path / "tiny").iterdir()) <= 1


def test_has_looks_at_length_alone(tmp_path: Path) -> None:
    kept = KeptFiles(tmp_path, ".part")
    assert not kept.has(DIGEST, len(DATA))
    kept.put(DIGEST, DATA)
    assert kept.has(DIGEST, len(DATA))
    assert not kept.has(DIGEST, len(DATA) + 1)


def test_a_download_counts_once_it_is_accepted(tmp_path: Path) -> None:
    kept = KeptFiles(tmp_path / "made", ".part")
    coming = kept.coming(DIGEST)
    coming.write_bytes(DATA[:-1])
    assert kept.find(DIGEST, len(DATA)) is None
    assert kept.digests() == []
    kept.keep_only([DIGEST])
    assert coming.read_bytes() == DATA[:-1], "goes on after a restart"
    coming.write_bytes(DATA)
    assert kept.accept(DIGEST).read_bytes() == DATA
    assert not coming.exists()
    assert kept.find(DIGEST, len(DATA)) == kept.path(DIGEST)
    assert kept.find(DIGEST, len(DATA) + 1) is None
    assert kept.digests() == [DIGEST]
    kept.path(DIGEST).write_bytes(DATA[::-1])
    assert kept.find(DIGEST, len(DATA)) is None, "damaged"
    kept.coming(OTHER).write_bytes(b"oth")
    kept.keep_only([DIGEST])
    assert [path.name for path in (tmp_path / "made").iterdir()] == [f"{DIGEST.hex()}.part"]


def test_a_linked_file_stays_when_the_other_name_goes(tmp_path: Path) -> None:
    one, other = KeptFiles(tmp_path / "one", ".part"), KeptFiles(tmp_path / "other", ".blob")
    one.put(DIGEST, DATA)
    for _twice in range(2):
        linked = other.link(DIGEST, one.path(DIGEST))
    assert linked.stat().st_ino == one.path(DIGEST).stat().st_ino, "no copy"
    one.keep_only([])
    assert other.get(DIGEST, len(DATA)) == DATA
    other.remove(DIGEST)
    other.remove(DIGEST)
    assert other.digests() == []
    with pytest.raises(StateError):
        other.link(DIGEST, one.path(DIGEST))
