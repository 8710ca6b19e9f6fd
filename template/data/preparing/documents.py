"""Documents: their keys, their side and their pieces.

Pure. A document's place in the dataset follows from a seed and the SHA-256 of its text, so equal
texts meet, wherever they came from, and no worker has to know another's documents.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from template.data.preparing.settings import PER_MILLION, Choices

_NEWLINE: Final = b"\n"
_SIDE: Final = b"tessera held-out document"
_ORDER: Final = b"tessera document order"


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text in UTF-8 and where it lies: `place` is a byte or row of the source number `source`.

    `is_held_out` None: the text's hash decides.
    """

    source: int
    place: int
    text: bytes
    is_held_out: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BadDocument:
    """A document that cannot be read: `where` names file and line, `why` the fault."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A whole document or a part of one, with the 32-byte key that gives its order."""

    key: bytes
    source: int
    place: int
    number: int
    is_held_out: bool
    text: bytes


def pieces_of(document: Document, choices: Choices) -> Iterator[Piece]:
    """The pieces of a document, all on one side.

    With `dedup` equal texts have equal keys, else the place makes the keys differ.
    """
    seed = choices.seed.to_bytes(8, "little")
    digest = hashlib.sha256(document.text).digest()
    is_held_out = document.is_held_out
    if is_held_out is None:
        drawn = int.from_bytes(hashlib.sha256(_SIDE + seed + digest).digest()[:8], "big")
        is_held_out = drawn * PER_MILLION < choices.held_out_ppm << 64
    origin = _ORDER + seed + digest
    if not choices.dedup:
        origin += document.source.to_bytes(8, "little") + document.place.to_bytes(8, "little")
    texts = slices(document.text, choices.cut_bytes) if choices.cut_bytes else (document.text,)
    for number, text in enumerate(texts):
        yield Piece(
            key=hashlib.sha256(origin + number.to_bytes(8, "little")).digest(),
            source=document.source,
            place=document.place,
            number=number,
            is_held_out=is_held_out,
            text=text,
        )


def slices(text: bytes, limit_bytes: int) -> Iterator[bytes]:
    """A UTF-8 text in slices of at most `limit_bytes`, cut behind a line end where there is one.

    Joined, the slices are the text; no letter is cut. `limit_bytes` is 4 or more.
    """
    start = 0
    while len(text) - start > limit_bytes:
        end = text.rfind(_NEWLINE, start, start + limit_bytes) + 1
        if end <= start:
            end = start + limit_bytes
            while text[end] & 0xC0 == 0x80:  # inside a letter
                end -= 1
        yield text[start:end]
        start = end
    yield text[start:]
