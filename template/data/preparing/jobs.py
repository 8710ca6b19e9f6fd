"""Jobs: the units of work of the four phases, each of which leaves whole files or none.

A job is a value that a worker process takes; what it leaves is a small JSON file, written last, and
the files named by it. A job whose JSON file is there is done.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import numpy as np
import numpy.typing as npt

from template.data.folder import Layout, ShardWriter
from template.data.manifest import TokenizerEntry, token_dtype
from template.data.preparing.documents import BadDocument, pieces_of, slices
from template.data.preparing.leak import GramSketch, gram_hashes, gram_tokens
from template.data.preparing.packing import Packer
from template.data.preparing.readers import Reading, read_part
from template.data.preparing.runs import RunFile, RunWriter, Text, bucket_bounds, read_bucket
from template.data.preparing.settings import Bounds, Choices
from template.data.preparing.sources import HUB, Part, Source, file_sha256
from template.data.tokenizer import Tokenizer, open_tokenizer
from template.errors import ConfigError, StateError
from template.files import is_lasting, reason, remedy

Tell = Callable[[int], object]
"""Told how many bytes of the job's work were done since the last call."""
Tokens = npt.NDArray[np.unsignedinteger]

BATCH_BYTES: Final = 2**20
"""Text that the tokenizer is given at once; a longer document goes in slices."""
BLOCK_TOKENS: Final = 2**20
MAX_EXAMPLES: Final = 10
"""Bad documents of a part that are named; the others are counted."""


class Job(Protocol):
    """A unit of work with a result on disk."""

    @property
    def done(self) -> Path:
        """The JSON file with the result."""

    @property
    def num_bytes(self) -> int:
        """Size of the work, for the progress."""

    def run(self, tell: Tell) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class HashJob:
    """Hashes files. A `datasets` dataset has no file of its own, and no digest."""

    done: Path
    sources: tuple[Source, ...]

    @property
    def num_bytes(self) -> int:
        return sum(source.num_bytes for source in self.sources if source.kind != HUB)

    def run(self, tell: Tell) -> None:
        digests = []
        for source in self.sources:
            digests.append("" if source.kind == HUB else file_sha256(Path(source.path)))
            tell(0 if source.kind == HUB else source.num_bytes)
        write_json(self.done, digests)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadJob:
    """Reads a part of the sources into runs. `sources`: the part's own, of maybe a million."""

    stem: Path
    part: Part
    sources: tuple[Source, ...]
    choices: Choices
    bounds: Bounds

    @property
    def done(self) -> Path:
        return self.stem.with_suffix(".json")

    @property
    def num_bytes(self) -> int:
        return self.part.num_bytes

    def run(self, tell: Tell) -> None:
        """ConfigError for a damaged file, and without `skip_bad` for the first bad document."""
        reading = Reading(
            sources=dict(enumerate(self.sources, self.part.first)),
            field=self.choices.field,
            max_document_bytes=self.bounds.max_document_bytes,
            read_bytes=tell,
            chat=self.choices.chat,
        )
        counts = {"documents": 0, "bytes": 0, "empty": 0, "bad": 0}
        examples: list[str] = []
        texts, rows = self.stem.with_suffix(".text"), self.stem.with_suffix(".rows")
        with disk_faults(texts):
            writer = RunWriter(texts, rows, self.bounds.run_bytes)
        for document in read_part(reading, self.part):
            if isinstance(document, BadDocument):
                if not self.choices.skip_bad:
                    raise ConfigError(f"input {document}; mend it, or leave it out by --skip-bad")
                counts["bad"] += 1
                examples += [str(document)][: MAX_EXAMPLES - len(examples)]
                continue
            if not document.text:
                counts["empty"] += 1
                continue
            counts["documents"] += 1
            counts["bytes"] += len(document.text)
            for piece in pieces_of(document, self.choices):
                with disk_faults(texts):
                    writer.add(piece)
        with disk_faults(texts):
            writer.close()
        result = {"runs": writer.run_rows, "peak_bytes": writer.peak_bytes, "examples": examples}
        write_json(self.done, {**result, **counts})


def run_file(stem: Path, result: Mapping[str, Any]) -> RunFile:
    """The runs that a `ReadJob` left."""
    return RunFile(
        text=stem.with_suffix(".text"),
        rows=stem.with_suffix(".rows"),
        run_rows=tuple(result["runs"]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeJob:
    """Encodes the documents of a bucket: `.train` and `.held` hold their tokens, `.grams` a sketch
    of the held-out n-grams.

    `chat_page_tokens` 0: documents follow each other. Otherwise they are conversations, and the
    files hold pages of so many tokens with whole conversations.
    """

    stem: Path
    number: int
    num_buckets: int
    num_bytes: int
    files: tuple[RunFile, ...]
    tokenizer: Path | None
    entry: TokenizerEntry
    dedup: bool
    token_bytes: int
    chat_page_tokens: int = 0

    @property
    def done(self) -> Path:
        return self.stem.with_suffix(".json")

    def run(self, tell: Tell) -> None:
        tokenizer = _tokenizer(self.tokenizer, self.entry)
        low, high = bucket_bounds(self.number, self.num_buckets)
        bucket = read_bucket(self.files, low, high, dedup=self.dedup)
        sketch = GramSketch(gram_tokens(self.entry))
        train, held = self.stem.with_suffix(".train"), self.stem.with_suffix(".held")
        with disk_faults(train), _whole(train) as to_train, _whole(held) as to_held:
            sides = {False: self._side(to_train), True: self._side(to_held)}
            is_chat = self.chat_page_tokens > 0
            for text, tokens in encoded(bucket.texts, tokenizer, is_chat=is_chat):
                if sides[text.is_held_out].add(text, tokens) and text.is_held_out:
                    sketch.add(tokens if is_chat else tokens[:-1])
                tell(len(text.text))
            for side in sides.values():
                side.close()
        tell(bucket.repeated_bytes)
        with disk_faults(self.stem), _whole(self.stem.with_suffix(".grams")) as file:
            file.write(sketch.hashes.tobytes())
        write_json(
            self.done,
            {
                "train": sides[False].counts,
                "held_out": sides[True].counts,
                "repeats": bucket.repeats,
            },
        )

    def _side(self, file: BinaryIO) -> "Side":
        dtype = token_dtype(self.token_bytes)
        if not self.chat_page_tokens:
            return Side(file, dtype, None)
        return Side(file, dtype, Packer(self.chat_page_tokens, self.entry.end_of_document))


class Side:
    """The tokens of one side of a bucket, and what was counted of them."""

    def __init__(self, file: BinaryIO, dtype: npt.DTypeLike, packer: Packer | None) -> None:
        """`packer`: for conversations."""
        self._file, self._dtype, self._packer = file, dtype, packer
        self.counts = {"documents": 0, "tokens": 0, "bytes": 0}
        if packer is not None:
            self.counts |= {"too_long": 0, "filling": 0}

    def add(self, text: Text, tokens: Tokens) -> bool:
        """Take a document; False for a conversation longer than a page, which is left out."""
        if self._packer is not None and tokens.size > self._packer.page_tokens:
            self.counts["too_long"] += 1
            return False
        self.counts["documents"] += 1
        self.counts["bytes"] += len(text.text)
        if self._packer is None:
            self._write(tokens)
        else:
            self.counts["filling"] -= tokens.size
            self._write_pages(self._packer.add(tokens))
        return True

    def close(self) -> None:
        """Write the pages under way."""
        if self._packer is not None:
            self._write_pages(self._packer.close())

    def _write_pages(self, pages: Sequence[Tokens]) -> None:
        for page in pages:
            self.counts["filling"] += page.size
            self._write(page)

    def _write(self, tokens: Tokens) -> None:
        self.counts["tokens"] += tokens.size
        self._file.write(tokens.astype(self._dtype).tobytes())


def encoded(
    texts: Sequence[Text], tokenizer: Tokenizer, *, is_chat: bool = False
) -> Iterator[tuple[Text, Tokens]]:
    """Each text with its tokens, the last one the end of the document; of a conversation with
    markers, the end of its last message.

    A text over `BATCH_BYTES` is encoded in slices: the tokenizer needs a hundred bytes of memory
    for a byte of text. A conversation is never cut.
    """
    if is_chat:
        for text in texts:
            yield text, tokenizer.encode_marked([text.text])[0]
        return
    batch: list[Text] = []
    num_bytes = 0
    for text in texts:
        if len(text.text) > BATCH_BYTES:
            yield from _encode_batch(batch, tokenizer)
            batch, num_bytes = [], 0
            *first, last = slices(text.text, BATCH_BYTES)
            parts = [tokenizer.encode(part) for part in first]
            yield text, np.concatenate([*parts, *tokenizer.encode_documents([last])])
            continue
        batch.append(text)
        num_bytes += len(text.text)
        if num_bytes >= BATCH_BYTES:
            yield from _encode_batch(batch, tokenizer)
            batch, num_bytes = [], 0
    yield from _encode_batch(batch, tokenizer)


def _encode_batch(batch: Sequence[Text], tokenizer: Tokenizer) -> Iterator[tuple[Text, Tokens]]:
    found = tokenizer.encode_documents([text.text for text in batch])
    yield from zip(batch, found, strict=True)


@lru_cache(maxsize=1)
def _tokenizer(path: Path | None, entry: TokenizerEntry) -> Tokenizer:
    data = b"" if path is None else path.read_bytes()
    return open_tokenizer(entry, data)


@dataclass(frozen=True, kw_only=True, slots=True)
class LeakJob:
    """Looks for held-out n-grams in the training tokens of a bucket; leaves which were found."""

    stem: Path
    train: Path
    sample: Path
    num_tokens: int
    size: int
    token_bytes: int

    @property
    def done(self) -> Path:
        return self.stem.with_suffix(".json")

    @property
    def num_bytes(self) -> int:
        return self.num_tokens * self.token_bytes

    def run(self, tell: Tell) -> None:
        wanted = np.fromfile(self.sample, "<u8")
        found = np.zeros(wanted.size, bool)
        tokens = read_tokens(self.train, self.token_bytes)
        step = BLOCK_TOKENS
        for start in range(0, tokens.size, step):
            block = tokens[start : start + step + self.size - 1]
            hashes = gram_hashes(block, self.size)
            if wanted.size and hashes.size:
                hashes = hashes[hashes <= wanted[-1]]
                found[np.searchsorted(wanted, hashes[np.isin(hashes, wanted)])] = True
            tell(min(step, tokens.size - start) * self.token_bytes)
        with disk_faults(self.stem), _whole(self.stem.with_suffix(".found")) as file:
            file.write(np.packbits(found).tobytes())
        write_json(self.done, {"found": int(found.sum())})


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """Writes the tokens [start, end) of a side as a shard; they lie in the files of its buckets."""

    done: Path
    folder: Path
    name: str
    layout: Layout
    vocab_size: int
    files: tuple[tuple[Path, int], ...]
    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        return (self.end - self.start) * self.layout.token_bytes

    def run(self, tell: Tell) -> None:
        writer = ShardWriter(self.folder, self.layout, self.vocab_size, self.name)
        shards = []
        page = self.layout.page_tokens
        rest = np.empty(0, token_dtype(self.layout.token_bytes))
        for block in self._blocks():
            tokens = np.concatenate([rest, block])
            whole = tokens.size - tokens.size % page
            shards += writer.add(tokens[:whole].reshape(-1, page))
            rest = tokens[whole:].copy()
            tell(block.nbytes)
        shards += writer.close()
        found = [{"sha256": shard.sha256, "num_segments": shard.num_segments} for shard in shards]
        write_json(self.done, {"shards": found})

    def _blocks(self) -> Iterator[Tokens]:
        offset = 0
        for path, num_tokens in self.files:
            first, last = max(self.start - offset, 0), min(self.end - offset, num_tokens)
            if first < last:
                tokens = read_tokens(path, self.layout.token_bytes)
                for start in range(first, last, BLOCK_TOKENS):
                    yield np.array(tokens[start : min(start + BLOCK_TOKENS, last)])
            offset += num_tokens


def read_tokens(path: Path, token_bytes: int) -> Tokens:
    """The tokens of a file, mapped and not read."""
    dtype = token_dtype(token_bytes)
    if path.stat().st_size == 0:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r")


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that is on the disk when the block ends; the job's JSON file says that it is whole."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """An OSError becomes a StateError with the remedy."""
    try:
        yield
    except OSError as error:
        raise StateError(
            f"--out: {path} cannot be written ({reason(error)}); {remedy(path, error)}: what was "
            "prepared so far is kept, start the same command again",
            is_lasting=is_lasting(error),
        ) from error


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all."""
    # The process's number: a job of a killed command may still be ending.
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with disk_faults(path):
        with _whole(part) as file:
            file.write(json.dumps(value, sort_keys=True).encode("ascii"))
        part.replace(path)


def read_json(path: Path) -> Any:
    """The content of a JSON file of the work folder. ConfigError if it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}): remove the folder {path.parent} and start again"
        ) from error
    return found
