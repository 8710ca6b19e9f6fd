"""Readers: the documents of a part of the sources, one at a time.

A document that cannot be read becomes a `BadDocument` that names file and line; a file that is
damaged or unreadable as a whole raises ConfigError.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, Any, Final

from template.data.chat import ChatError, ChatForm, rendered
from template.data.corpus import load_corpus
from template.data.preparing.documents import BadDocument, Document
from template.data.preparing.extras import load_zstandard, open_parquet
from template.data.preparing.settings import MAX_DOCUMENT_BYTES
from template.data.preparing.sources import (
    GZIP,
    HUB,
    JSONL,
    PARQUET,
    TEXT,
    WORKS,
    ZSTD,
    Part,
    Source,
    open_rows,
)
from template.errors import ConfigError
from template.files import reason, remedy

Read = Iterator[Document | BadDocument]
_BOM: Final = b"\xef\xbb\xbf"
_PACKED_CHUNK_BYTES: Final = 16 * 1024
"""Read of a packed file at a time: a hostile zstd frame unfolds 16 KiB to 512 MiB at most."""
_BUFFER_BYTES: Final = 2**18
_ROWS: Final = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What every reader needs. `sources`: by number; `read_bytes` is told what has been read.

    `chat`: the field holds the messages of a conversation, and the document is their text with
    markers.
    """

    sources: Mapping[int, Source]
    field: str
    max_document_bytes: int = MAX_DOCUMENT_BYTES
    read_bytes: Callable[[int], object] = lambda _: None
    chat: ChatForm | None = None


def read_part(reading: Reading, part: Part) -> Read:
    """The documents of a part in order. Raises ConfigError for a damaged or unreadable file."""
    for number in range(part.first, part.last + 1):
        source = reading.sources[number]
        with _named_errors(source):
            yield from _READERS[source.kind](reading, number, part)


@contextmanager
def _named_errors(source: Source) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"input {source.path}: damaged ({error}); fetch it again") from error
    except OSError as error:
        path = Path(source.path)
        raise ConfigError(
            f"input {path}: cannot be read ({reason(error)}); {remedy(path, error)}"
        ) from error


def _read_text(reading: Reading, number: int, _part: Part) -> Read:
    """A file is a document."""
    source = reading.sources[number]
    with open(source.path, "rb") as file:
        text = file.read(reading.max_document_bytes + 1)
    reading.read_bytes(len(text))
    yield _checked(reading, number, 0, text.removeprefix(_BOM), source.path)


def _read_works(reading: Reading, number: int, _part: Part) -> Read:
    """The shipped text, cleaned; held out are the works of its own table."""
    source = reading.sources[number]
    corpus = load_corpus(Path(source.path))
    for place, document in enumerate((*corpus.train, *corpus.held_out)):
        is_held_out = place >= len(corpus.train)
        yield Document(source=number, place=place, text=document.text, is_held_out=is_held_out)
    reading.read_bytes(source.num_bytes)


def _read_jsonl(reading: Reading, number: int, part: Part) -> Read:
    """The lines that begin in the part."""
    path = reading.sources[number].path
    with open(path, "rb", buffering=_BUFFER_BYTES) as file:
        place = part.start
        if place:
            file.seek(place - 1)
            # A line that began before belongs to the part before, however long it is.
            place += _skip_line(file) - 1
        line_number = _LineNumbers(path, place)
        yield from _read_lines(reading, number, file, _Span(place, part.end, line_number))
    reading.read_bytes(0)


def _read_packed(reading: Reading, number: int, _part: Part) -> Read:
    source = reading.sources[number]
    with open(source.path, "rb") as packed:
        counted = _Counted(packed, reading.read_bytes)
        span = _Span(0, None, lambda: 0)
        if source.kind == GZIP:
            with gzip.GzipFile(fileobj=counted) as file:
                yield from _read_lines(reading, number, file, span)
        else:
            unpacked = BufferedReader(_Unpacked(counted, source.path), _BUFFER_BYTES)
            yield from _read_lines(reading, number, unpacked, span)


@dataclass(frozen=True, slots=True)
class _Span:
    """Lines that begin in [start, end), None for the end; `lines_before` is asked late."""

    start: int
    end: int | None
    lines_before: Callable[[], int]


def _read_lines(reading: Reading, number: int, file: IO[bytes] | Any, span: _Span) -> Read:
    source = reading.sources[number]
    place, count = span.start, 0
    limit = 8 * reading.max_document_bytes  # an escaped letter takes six bytes
    while span.end is None or place < span.end:
        line = file.readline(limit)
        if not line:
            return
        count += 1
        num_bytes = len(line)
        found: Document | BadDocument | None = None
        if num_bytes == limit and not line.endswith(b"\n"):
            num_bytes += _skip_line(file)
            found = BadDocument(where="", why=_too_long(reading))
        elif line.strip():
            found = _parsed(reading, number, place, line.removeprefix(_BOM) if not place else line)
        if isinstance(found, BadDocument):
            where = f"{source.path}, line {span.lines_before() + count}"
            found = BadDocument(where=where, why=found.why)
        if found is not None:
            yield found
        place += num_bytes
        if source.kind == JSONL:
            reading.read_bytes(num_bytes)


def _skip_line(file: IO[bytes] | Any) -> int:
    """Read to the next line end; the number of bytes read."""
    num_bytes = 0
    while piece := file.readline(_BUFFER_BYTES):
        num_bytes += len(piece)
        if piece.endswith(b"\n"):
            break
    return num_bytes


def _parsed(reading: Reading, number: int, place: int, line: bytes) -> Document | BadDocument:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadDocument(where="", why=f"is not UTF-8 ({error.reason} at byte {error.start})")
    except (ValueError, RecursionError) as error:
        return BadDocument(where="", why=f"is not JSON ({error})")
    if not isinstance(record, dict):
        return BadDocument(where="", why="is no JSON object")
    if reading.field not in record:
        return BadDocument(where="", why=_no_field(reading.field, list(record)))
    return _of_value(reading, number, place, record[reading.field], "")


def _of_value(
    reading: Reading, number: int, place: int, value: object, where: str
) -> Document | BadDocument:
    if reading.chat is not None:
        try:
            value = rendered(value, reading.chat)
        except ChatError as error:
            return BadDocument(where=where, why=f"field {reading.field} {error}")
    if not isinstance(value, str):
        return BadDocument(where=where, why=f"field {reading.field} holds no text")
    try:
        text = value.encode("utf-8")
    except UnicodeEncodeError:
        return BadDocument(where=where, why=f"field {reading.field} holds half a letter (UTF-16)")
    if len(text) > reading.max_document_bytes:
        return BadDocument(where=where, why=_too_long(reading))
    return Document(source=number, place=place, text=text)


def _checked(
    reading: Reading, number: int, place: int, text: bytes, where: str
) -> Document | BadDocument:
    if len(text) > reading.max_document_bytes:
        return BadDocument(where=where, why=_too_long(reading))
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        return BadDocument(
            where=f"{where}, line {line}",
            why=f"is not UTF-8 ({error.reason} at byte {error.start})",
        )
    return Document(source=number, place=place, text=text)


def _no_field(field: str, names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:10]) or "none"
    return f"has no field {field} (its fields: {shown}); name the text's field with --field"


def _too_long(reading: Reading) -> str:
    return f"is longer than {reading.max_document_bytes:,} bytes; cut it into documents"


def _read_parquet(reading: Reading, number: int, part: Part) -> Read:
    path = reading.sources[number].path
    with open_parquet(path) as file:
        _require_column(path, file.schema_arrow.names, reading.field)
        sizes = [file.metadata.row_group(group).num_rows for group in range(part.end)]
        batches = file.iter_batches(
            batch_size=_ROWS,
            row_groups=list(range(part.start, part.end)),
            columns=[reading.field],
            use_threads=False,
        )
        values = (batch.column(0) for batch in batches)
        rows = _Rows(sum(sizes[: part.start]), sum(sizes[part.start :]), values)
        yield from _read_columns(reading, number, part, rows)


def _read_hub(reading: Reading, number: int, part: Part) -> Read:
    source = reading.sources[number]
    rows = open_rows(source)
    _require_column(source.path, rows.column_names, reading.field)
    table = rows.select_columns([reading.field]).with_format("arrow")
    starts = range(part.start, part.end, _ROWS)
    values = (table[start : min(start + _ROWS, part.end)].column(0) for start in starts)
    yield from _read_columns(
        reading, number, part, _Rows(part.start, part.end - part.start, values)
    )


def _require_column(path: str, names: list[str], field: str) -> None:
    if field not in names:
        raise ConfigError(f"input {path}: {_no_field(field, list(names))}")


@dataclass(frozen=True, slots=True)
class _Rows:
    start: int
    num_rows: int
    columns: Iterator[Any]


def _read_columns(reading: Reading, number: int, part: Part, rows: _Rows) -> Read:
    path = reading.sources[number].path
    place, told = rows.start, 0
    for column in rows.columns:
        for value in _texts(column):
            where = f"{path}, row {place + 1}"
            yield _of_value(reading, number, place, value, where)
            place += 1
        done = part.num_bytes * (place - rows.start) // max(1, rows.num_rows)
        reading.read_bytes(done - told)
        told = done


def _texts(column: Any) -> Iterator[object]:
    """The values of a column; a value that is no UTF-8 becomes its bytes."""
    for scalar in column:
        try:
            yield scalar.as_py()
        except UnicodeDecodeError:
            yield b""


class _LineNumbers:
    """Counts the lines before a byte of a file when first asked: nobody asks of a sound file."""

    def __init__(self, path: str, place: int) -> None:
        self._path = path
        self._place = place
        self._count: int | None = None

    def __call__(self) -> int:
        if self._count is None:
            count, rest = 0, self._place
            with open(self._path, "rb") as file:
                while rest and (piece := file.read(min(rest, _BUFFER_BYTES))):
                    count += piece.count(b"\n")
                    rest -= len(piece)
            self._count = count
        return self._count


class _Counted:
    """A file that tells how many bytes were read."""

    def __init__(self, file: IO[bytes], read_bytes: Callable[[int], object]) -> None:
        self._file = file
        self._read_bytes = read_bytes

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._read_bytes(len(data))
        return data

    def seek(self, place: int) -> int:
        return self._file.seek(place)


class _Unpacked(RawIOBase):
    """The content of a zstd file of one or more frames. A file that ends early raises EOFError."""

    def __init__(self, file: _Counted, path: str) -> None:
        super().__init__()
        self._file = file
        self._zstandard = load_zstandard(path)
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = self._file.read(_PACKED_CHUNK_BYTES)
            if not chunk:
                if self._frame is not None:
                    raise EOFError("the zstd frame does not end")
                return 0
            self._ready = memoryview(self._unpack(chunk))
        num_bytes = min(len(buffer), len(self._ready))
        buffer[:num_bytes] = self._ready[:num_bytes]
        self._ready = self._ready[num_bytes:]
        return num_bytes

    def _unpack(self, chunk: bytes) -> bytes:
        unpacked = bytearray()
        while chunk:
            if self._frame is None:
                self._frame = self._zstandard.ZstdDecompressor().decompressobj()
            try:
                unpacked += self._frame.decompress(chunk)
            except self._zstandard.ZstdError as error:
                raise EOFError(str(error)) from error
            if not self._frame.eof:
                break
            chunk, self._frame = self._frame.unused_data, None
        return bytes(unpacked)


_READERS: Final[dict[str, Callable[[Reading, int, Part], Read]]] = {
    TEXT: _read_text,
    WORKS: _read_works,
    JSONL: _read_jsonl,
    GZIP: _read_packed,
    ZSTD: _read_packed,
    PARQUET: _read_parquet,
    HUB: _read_hub,
}
