"""A prepared dataset as a folder: what `tessera data prepare` leaves and an owner publishes.

    manifest.json, lists/<shard digest>.digests, shards/<shard digest>.tokens, tokenizer.json

Owns names, whole writes, and the check of everything read back. Faults are ConfigError with the
remedy: the folder is the owner's own. A shard is in the folder whole or not at all, so a writer
that was killed continues with the next shard.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from template.data.manifest import (
    MAX_MANIFEST_BYTES,
    MAX_SEGMENT_BYTES,
    MAX_SHARD_BYTES,
    MAX_SHARD_SEGMENTS,
    Manifest,
    Shard,
    TokenizerEntry,
    digest_list,
    manifest_bytes,
    parse_digest_list,
    parse_manifest,
    token_bytes_of,
    token_dtype,
)
from template.errors import ConfigError, ObjectError, StateError
from template.files import is_lasting, reason, remedy

T = TypeVar("T")

MANIFEST_NAME, TOKENIZER_NAME = "manifest.json", "tokenizer.json"
LISTS, LIST_SUFFIX = "lists", ".digests"
SHARDS, SHARD_SUFFIX = "shards", ".tokens"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How pages become files. `shard_segments`: segments of every shard but the last.

    ConfigError, naming the field, for sizes that no manifest may have.
    """

    page_tokens: int
    segment_pages: int
    shard_segments: int
    token_bytes: int

    def __post_init__(self) -> None:
        if self.token_bytes not in (2, 4) or self.page_tokens < 2 or self.segment_pages < 1:
            raise ConfigError(
                f"page_tokens ({self.page_tokens}) must be at least 2, segment_pages "
                f"({self.segment_pages}) at least 1, token_bytes ({self.token_bytes}) 2 or 4"
            )
        if self.segment_bytes > MAX_SEGMENT_BYTES:
            raise ConfigError(
                f"segment_pages ({self.segment_pages}): a segment of {self.segment_bytes} bytes is "
                f"over {MAX_SEGMENT_BYTES}: take fewer pages"
            )
        most = min(MAX_SHARD_SEGMENTS, MAX_SHARD_BYTES // self.segment_bytes)
        if not 1 <= self.shard_segments <= most:
            raise ConfigError(f"shard_segments ({self.shard_segments}) must be in [1, {most}]")

    @property
    def segment_tokens(self) -> int:
        return self.segment_pages * self.page_tokens

    @property
    def segment_bytes(self) -> int:
        return self.segment_tokens * self.token_bytes


class ShardWriter:
    """Writes pages into shards of a folder, holding less than a segment in memory.

    `add` takes pages, `close` ends the last shard; both return the shards that became whole. What
    is left over, less than a segment, is dropped. StateError if the disk refuses.
    """

    def __init__(self, folder: Path, layout: Layout, vocab_size: int, name: str = "train") -> None:
        self._folder, self._layout, self._vocab_size = folder, layout, vocab_size
        self._part = folder / SHARDS / f".{name}.part"
        self._file: BinaryIO | None = None
        self._digests: list[bytes] = []
        self._waiting: list[npt.NDArray[np.unsignedinteger]] = []
        self._num_waiting = 0

    def add(self, pages: npt.NDArray[np.integer]) -> list[Shard]:
        """Take pages, integers [page_tokens] or [n, page_tokens]. ConfigError for a wrong token."""
        layout = self._layout
        if pages.shape[-1] != layout.page_tokens:
            raise ConfigError(f"a page has {pages.shape[-1]} tokens, not {layout.page_tokens}")
        if pages.size and not (pages.min() >= 0 and pages.max() < self._vocab_size):
            raise ConfigError(f"a page holds tokens outside the vocabulary of {self._vocab_size}")
        self._waiting.append(pages.astype(token_dtype(layout.token_bytes)).reshape(-1))
        self._num_waiting += pages.size
        done: list[Shard] = []
        if self._num_waiting >= layout.segment_tokens:
            tokens = np.concatenate(self._waiting)
            end = tokens.size - tokens.size % layout.segment_tokens
            for start in range(0, end, layout.segment_tokens):
                self._write(tokens[start : start + layout.segment_tokens].tobytes())
                if len(self._digests) == layout.shard_segments:
                    done += self.close()
            self._waiting, self._num_waiting = [tokens[end:].copy()], tokens.size - end
        return done

    def close(self) -> list[Shard]:
        """End the shard under way, if it has a segment."""
        if self._file is None:
            return []
        listed = digest_list(self._digests)
        shard = Shard(sha256=hashlib.sha256(listed).hexdigest(), num_segments=len(self._digests))
        target = shard_path(self._folder, shard)
        try:
            self._file.close()
            _write_whole(list_path(self._folder, shard), listed)
            self._part.replace(target)
        except OSError as error:
            raise _unwritable(target, error) from error
        self._file, self._digests = None, []
        return [shard]

    def give_up(self) -> None:
        """Close the file of a shard under way, which stays unfinished; nothing after `close`."""
        if self._file is not None:
            self._file.close()

    def _write(self, segment: bytes) -> None:
        try:
            if self._file is None:
                self._part.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._part.open("wb")
            self._file.write(segment)
        except OSError as error:
            raise _unwritable(self._part, error) from error
        self._digests.append(hashlib.sha256(segment).digest())


def write_dataset(
    folder: Path,
    layout: Layout,
    tokenizer: TokenizerEntry,
    pages: Iterable[npt.NDArray[np.integer]],
    held_out: Iterable[npt.NDArray[np.integer]],
    tokenizer_file: bytes = b"",
) -> Manifest:
    """Write pages to train on and held-out pages into `folder`, in bounded memory; the manifest.

    Arrays of both are [page_tokens] or [n, page_tokens]. Neighbouring pages should be independent:
    whoever calls has shuffled them. ConfigError if a side has less than a segment.
    """
    held_layout = Layout(
        page_tokens=layout.page_tokens,
        segment_pages=layout.segment_pages,
        shard_segments=min(MAX_SHARD_SEGMENTS, MAX_SHARD_BYTES // layout.segment_bytes),
        token_bytes=layout.token_bytes,
    )
    kept = _write_shards(ShardWriter(folder, held_layout, tokenizer.vocab_size, "held"), held_out)
    if len(kept) != 1:
        raise ConfigError(
            f"the held-out text makes {len(kept)} shards, and must make one: it has to fill a "
            f"segment of {layout.segment_pages} pages, and to stay under {MAX_SHARD_BYTES} bytes"
        )
    shards = _write_shards(ShardWriter(folder, layout, tokenizer.vocab_size), pages)
    manifest = make_manifest(folder, layout, tokenizer, shards, kept[0])
    write_manifest(folder, manifest, tokenizer_file)
    return manifest


def make_manifest(
    folder: Path,
    layout: Layout,
    tokenizer: TokenizerEntry,
    shards: Iterable[Shard],
    held_out: Shard,
) -> Manifest:
    """The manifest of shards in the folder.

    ConfigError for shards that make no manifest, two equal ones for example.
    """
    if layout.token_bytes != token_bytes_of(tokenizer.vocab_size):
        raise ConfigError(
            f"token_bytes is {layout.token_bytes}: a vocabulary of {tokenizer.vocab_size} takes "
            f"{token_bytes_of(tokenizer.vocab_size)}"
        )
    manifest = Manifest(
        tokenizer=tokenizer,
        token_bytes=layout.token_bytes,
        page_tokens=layout.page_tokens,
        segment_pages=layout.segment_pages,
        shards=tuple(shards),
        held_out=held_out,
    )
    data = manifest_bytes(manifest)
    _demand(lambda: parse_manifest(data), folder / MANIFEST_NAME)
    return manifest


def write_manifest(
    folder: Path,
    manifest: Manifest,
    tokenizer_file: bytes = b"",
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Write the manifest last: a folder with a manifest is whole. StateError if the disk refuses.

    `beside`: name -> bytes of other files of the dataset, as its card.
    """
    files = {**(beside or {}), **({TOKENIZER_NAME: tokenizer_file} if tokenizer_file else {})}
    path = folder
    try:
        for name, data in (*files.items(), (MANIFEST_NAME, manifest_bytes(manifest))):
            path = folder / name
            _write_whole(path, data)
    except OSError as error:
        raise _unwritable(path, error) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFolder:
    """A prepared folder whose manifest, digest lists and file lengths are right.

    `tokenizer_file`: the bytes of `tokenizer.json`, empty for `byte`.
    """

    folder: Path
    manifest: Manifest
    tokenizer_file: bytes

    def digest_list(self, shard: Shard) -> bytes:
        """A shard's verified digest list."""
        path = list_path(self.folder, shard)
        data = _read(path, shard.list_bytes)
        _demand(lambda: parse_digest_list(data, shard), path)
        return data

    def shard_data(self, shard: Shard) -> bytes:
        """A shard's bytes, every segment verified."""
        path = shard_path(self.folder, shard)
        data = _read(path, self.manifest.shard_bytes(shard))
        self._check_segments(shard, BytesIO(data))
        return data

    def shard_file(self, shard: Shard) -> Path:
        """A shard's file, every segment verified, and one of them in memory at a time."""
        path = shard_path(self.folder, shard)
        _check_length(path, self.manifest.shard_bytes(shard))
        try:
            with path.open("rb") as file:
                self._check_segments(shard, file)
        except OSError as error:
            raise _unreadable(path, error) from error
        return path

    def _check_segments(self, shard: Shard, file: BinaryIO) -> None:
        digests, size = self.digest_list(shard), self.manifest.segment_bytes
        for index in range(shard.num_segments):
            found = hashlib.sha256(file.read(size)).digest()
            if found != digests[32 * index : 32 * index + 32]:
                raise ConfigError(
                    f"{shard_path(self.folder, shard)}: segment {index} has another digest than "
                    "its list says: the file is damaged; prepare the dataset again"
                )

    def shard_range(self, shard: Shard, start: int, length: int) -> bytes:
        """Bytes [start, start + length) of a shard, unverified."""
        path = shard_path(self.folder, shard)
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise _unreadable(path, error) from error


def open_folder(folder: Path) -> DatasetFolder:
    """A prepared folder. ConfigError, with the remedy, unless everything named is there.

    Digests of manifest, lists and tokenizer are verified, and lengths of shards; the bytes of a
    shard are verified by `shard_data` and `shard_file`.
    """
    path = folder / MANIFEST_NAME
    data = _read(path, MAX_MANIFEST_BYTES)
    manifest = _demand(lambda: parse_manifest(data), path)
    tokenizer_file = _tokenizer_file(folder, manifest.tokenizer)
    found = DatasetFolder(folder=folder, manifest=manifest, tokenizer_file=tokenizer_file)
    for shard in (*manifest.shards, manifest.held_out):
        found.digest_list(shard)
        _check_length(shard_path(folder, shard), manifest.shard_bytes(shard))
    return found


def shard_path(folder: Path, shard: Shard) -> Path:
    return folder / SHARDS / f"{shard.sha256}{SHARD_SUFFIX}"


def list_path(folder: Path, shard: Shard) -> Path:
    return folder / LISTS / f"{shard.sha256}{LIST_SUFFIX}"


def _write_shards(writer: ShardWriter, pages: Iterable[npt.NDArray[np.integer]]) -> list[Shard]:
    shards = [shard for each in pages for shard in writer.add(each)]
    return shards + writer.close()


def _tokenizer_file(folder: Path, entry: TokenizerEntry) -> bytes:
    if not entry.num_bytes:
        return b""
    path = folder / TOKENIZER_NAME
    data = _read(path, entry.num_bytes)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ConfigError(f"{path} is another file than the manifest names: prepare it again")
    return data


def _check_length(path: Path, num_bytes: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error
    if found != num_bytes:
        raise ConfigError(
            f"{path} has {found} bytes, the manifest says {num_bytes}: prepare the dataset again"
        )


def _write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def _read(path: Path, max_bytes: int) -> bytes:
    """The first `max_bytes` + 1 bytes: the last shows a file too long."""
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path} cannot be read ({error.strerror}): name a folder that `tessera data prepare` has "
        "finished"
    )


def _unwritable(path: Path, error: OSError) -> StateError:
    return StateError(
        f"{path} cannot be written ({reason(error)}); {remedy(path, error)}",
        is_lasting=is_lasting(error),
    )


def _demand(parse: Callable[[], T], path: Path) -> T:
    """`parse()`; its refusal as the fault of the owner's own file."""
    try:
        return parse()
    except ObjectError as error:
        raise ConfigError(f"{path}: {error}; prepare the dataset again") from error
