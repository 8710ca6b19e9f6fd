"""The order of the phases, and the folder in which an interrupted preparation continues.

Everything unfinished lies in `.unfinished` of the output folder: `plan.json` with the settings and
the sources, and for every job its files. The manifest is written last.
"""

import fcntl
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from template.data.folder import MANIFEST_NAME, TOKENIZER_NAME, Layout, write_manifest
from template.data.manifest import (
    MAX_SHARD_BYTES,
    MAX_SHARD_SEGMENTS,
    Manifest,
    Shard,
    manifest_digest,
    token_bytes_of,
)
from template.data.preparing.bpe import END_OF_DOCUMENT, train_bpe
from template.data.preparing.card import CARD_NAME, TEXT_NAME, card_json, card_text, percent
from template.data.preparing.jobs import (
    EncodeJob,
    HashJob,
    Job,
    LeakJob,
    ReadJob,
    ShardJob,
    disk_faults,
    read_json,
    run_file,
    write_json,
)
from template.data.preparing.leak import GramSketch, gram_tokens
from template.data.preparing.pool import Workers
from template.data.preparing.progress import Progress, size
from template.data.preparing.runs import RunFile, bucket_bounds, read_bucket
from template.data.preparing.settings import Bounds, Choices
from template.data.preparing.sources import Source, cut_sources, find_sources
from template.data.preparing.vocabulary import TokenizerChoice, choose_tokenizer
from template.data.tokenizer import FastTokenizer, Tokenizer
from template.errors import ConfigError

WORK: Final = ".unfinished"
_ENDED: Final = ".ended"
MAX_PARTS: Final = 1_024
MAX_PART_BYTES: Final = 2**30
SHARD_TOKENS: Final = 2**28

Say = Callable[[str], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What to prepare. `shard_segments` 0: as many as make 2^28 tokens."""

    inputs: tuple[str, ...]
    out: Path
    choices: Choices
    tokenizer: TokenizerChoice
    page_tokens: int
    segment_pages: int
    shard_segments: int = 0
    licence: str = ""
    bounds: Bounds = field(default_factory=Bounds)
    workers: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A finished dataset and its card."""

    manifest: Manifest
    card: dict[str, Any]


def prepare(order: Order, say: Say) -> Prepared:
    """Prepare a dataset, or continue where an interrupted preparation of the same order stopped.

    The files are the same bytes for any number of workers and interruptions. ConfigError for wrong
    inputs, StateError if the disk refuses.
    """
    _check_out(order.out)
    with _locked(order.out / WORK) as work, Workers(order.workers) as workers:
        return _Preparation(order, work, workers, say).run()


def _check_out(out: Path) -> None:
    ended = out / _ENDED
    shutil.rmtree(ended, ignore_errors=True)
    if (out / MANIFEST_NAME).exists() and not (out / WORK).exists():
        raise ConfigError(f"--out {out}: holds a prepared dataset already; name another folder")


@contextmanager
def _locked(work: Path) -> Iterator[Path]:
    """The work folder, held against a second command on the same output."""
    with disk_faults(work):
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"--out {work.parent}: another command prepares it; wait for its end"
            ) from error
        yield work


class _Preparation:
    """One run over the phases; every phase finds on disk what an earlier run has done."""

    def __init__(self, order: Order, work: Path, workers: Workers, say: Say) -> None:
        self._order, self._work, self._workers, self._say = order, work, workers, say
        # Judged before hours of reading: a tokenizer's file, and sizes that no manifest may have.
        self._chosen = choose_tokenizer(order.tokenizer)
        _layout(order, order.tokenizer.train_vocab_size or self._chosen.entry.vocab_size)
        self._progress = Progress(say)

    def run(self) -> Prepared:
        sources = self._plan()
        digests = self._hash(sources)
        reads = self._read(sources)
        files = tuple(run_file(job.stem, read_json(job.done)) for job in reads)
        counts = _totals([read_json(job.done) for job in reads])
        self._say_counts(counts)
        bounds = self._order.bounds
        num_buckets = max(bounds.min_buckets, -(-counts["bytes"] // bounds.bucket_bytes))
        tokenizer = self._tokenizer(files, num_buckets)
        encodes = self._encode(files, tokenizer, num_buckets, counts["bytes"])
        leak = self._leak(encodes, tokenizer)
        manifest, in_shards = self._write_shards(encodes, tokenizer)
        self._refuse_changes(sources, find_sources(self._order.inputs)[0])
        sides = _sides(encodes, in_shards)
        card = {
            "manifest_sha256": manifest_digest(manifest).hex(),
            "licence": self._order.licence,
            "tokenizer": asdict(tokenizer.entry),
            "settings": _settings(self._order),
            "counts": {**{key: counts[key] for key in ("empty", "bad")}, **sides},
            "bad_examples": counts["examples"],
            "leak": leak,
            "sources": [
                {"name": each.name, "kind": each.kind, "bytes": each.num_bytes, "sha256": digest}
                for each, digest in zip(sources, digests, strict=True)
            ],
        }
        out = self._order.out
        with disk_faults(out):
            (out / CARD_NAME).write_bytes(card_json(card))
            (out / TEXT_NAME).write_bytes(card_text(card))
        self._end()
        return Prepared(manifest=manifest, card=card)

    def _plan(self) -> list[Source]:
        """The sources. ConfigError if an unfinished preparation had others, or other settings."""
        sources, left_out = find_sources(self._order.inputs)
        if left_out:
            self._say(f"left out, for their names: {len(left_out)} files, {left_out[0]} the first")
        self._say(
            f"input: {len(sources):,} sources, {size(sum(each.num_bytes for each in sources))}"
        )
        path, bounds = self._work / "plan.json", self._order.bounds
        # The bounds decide no byte of the result, but which file holds what until then.
        settings = {
            **_settings(self._order),
            "tokenizer_sha256": self._chosen.entry.sha256,
            "memory": list(asdict(bounds).values()),
        }
        if not path.is_file():
            found = [asdict(source) for source in sources]
            write_json(path, {"settings": settings, "sources": found})
            return sources
        plan = read_json(path)
        for name, value in settings.items():
            if plan["settings"].get(name) != value:
                raise ConfigError(
                    f"--out {self._order.out}: holds an unfinished preparation with another "
                    f"{name}: {plan['settings'].get(name)!r}, not {value!r}; give the flags of "
                    f"before, or remove the folder {self._work} to begin anew"
                )
        self._refuse_changes([Source(**each) for each in plan["sources"]], sources)
        self._say("an unfinished preparation is here: going on with it")
        return sources

    def _refuse_changes(self, before: Sequence[Source], now: Sequence[Source]) -> None:
        if list(before) != list(now):
            changed = set(before) ^ set(now)
            name = min(source.path for source in changed) if changed else "the order of inputs"
            raise ConfigError(
                f"input {name}: changed since this preparation began; put the old one back, or "
                f"remove the folder {self._work} to begin anew"
            )

    def _hash(self, sources: Sequence[Source]) -> list[str]:
        jobs: list[HashJob] = []
        first = 0
        while first < len(sources):
            last, num_bytes = first, 0
            while last < len(sources) and num_bytes < self._order.bounds.part_bytes:
                num_bytes += sources[last].num_bytes + 1
                last += 1
            jobs.append(
                HashJob(done=self._path("hashes", len(jobs)), sources=tuple(sources[first:last]))
            )
            first = last
        self._run("hash the input", jobs)
        return [digest for job in jobs for digest in read_json(job.done)]

    def _read(self, sources: Sequence[Source]) -> list[ReadJob]:
        order = self._order
        total = sum(source.num_bytes for source in sources)
        part_bytes = max(order.bounds.part_bytes, min(MAX_PART_BYTES, total // MAX_PARTS))
        jobs = [
            ReadJob(
                stem=self._path("parts", number).with_suffix(""),
                part=part,
                sources=tuple(sources[part.first : part.last + 1]),
                choices=order.choices,
                bounds=order.bounds,
            )
            for number, part in enumerate(cut_sources(sources, part_bytes))
        ]
        self._run("read and shuffle", jobs)
        return jobs

    def _say_counts(self, counts: dict[str, Any]) -> None:
        self._say(
            f"documents: {counts['documents']:,} with {size(counts['bytes'])} of text; left out: "
            f"{counts['empty']:,} empty, {counts['bad']:,} that could not be read"
        )
        for example in counts["examples"]:
            self._say(f"left out: {example}")
        if not counts["documents"]:
            raise ConfigError("the inputs hold no document with a text; name others")

    def _tokenizer(self, files: tuple[RunFile, ...], num_buckets: int) -> Tokenizer:
        choice = self._order.tokenizer
        path = self._work / TOKENIZER_NAME
        if choice.train_vocab_size and not path.is_file():
            self._say(
                f"training a tokenizer of {choice.train_vocab_size:,} tokens on "
                f"{size(choice.train_bytes)} of text at most"
            )
            data = train_bpe(
                self._training_texts(files, num_buckets, choice.train_bytes),
                choice.train_vocab_size,
            )
            _write_whole(path, data)
        if choice.train_vocab_size:
            name = f"bpe-{choice.train_vocab_size}"
            return FastTokenizer(path.read_bytes(), name, END_OF_DOCUMENT)
        if self._chosen.file:
            _write_whole(path, self._chosen.file)
        return self._chosen

    def _training_texts(
        self, files: tuple[RunFile, ...], num_buckets: int, limit_bytes: int
    ) -> Iterator[bytes]:
        """Training documents in the order of the keys, which is a fair sample of them."""
        for number in range(num_buckets):
            low, high = bucket_bounds(number, num_buckets)
            bucket = read_bucket(files, low, high, dedup=self._order.choices.dedup)
            for text in bucket.texts:
                if limit_bytes <= 0:
                    return
                if not text.is_held_out:
                    limit_bytes -= len(text.text)
                    yield text.text

    def _encode(
        self, files: tuple[RunFile, ...], tokenizer: Tokenizer, num_buckets: int, num_bytes: int
    ) -> list[EncodeJob]:
        jobs = [
            EncodeJob(
                stem=self._path("buckets", number).with_suffix(""),
                number=number,
                num_buckets=num_buckets,
                num_bytes=num_bytes * (number + 1) // num_buckets
                - num_bytes * number // num_buckets,
                files=files,
                tokenizer=self._work / TOKENIZER_NAME if tokenizer.file else None,
                entry=tokenizer.entry,
                dedup=self._order.choices.dedup,
                token_bytes=token_bytes_of(tokenizer.entry.vocab_size),
            )
            for number in range(num_buckets)
        ]
        self._run("encode", jobs)
        return jobs

    def _leak(self, encodes: Sequence[EncodeJob], tokenizer: Tokenizer) -> dict[str, Any]:
        size_of_gram = gram_tokens(tokenizer.entry)
        sample = self._work / "sample"
        if not sample.is_file():
            sketch = GramSketch(size_of_gram)
            for encode in encodes:
                sketch.add_hashes(np.fromfile(encode.stem.with_suffix(".grams"), "<u8"))
            _write_whole(sample, sketch.hashes.tobytes())
        jobs = [
            LeakJob(
                stem=self._path("leaks", job.number).with_suffix(""),
                train=job.stem.with_suffix(".train"),
                sample=sample,
                num_tokens=read_json(job.done)["train"]["tokens"],
                size=size_of_gram,
                token_bytes=job.token_bytes,
            )
            for job in encodes
        ]
        self._run("look for leaks", jobs)
        num_grams = sample.stat().st_size // 8
        found = np.zeros(num_grams, bool)
        for job in jobs:
            bits = np.fromfile(job.stem.with_suffix(".found"), np.uint8)
            found |= np.unpackbits(bits, count=num_grams).astype(bool)
        num_found = int(found.sum())
        what = f"{size_of_gram}-grams of tokens"
        self._say(
            f"leak: {percent(num_found, num_grams)} of {num_grams:,} {what} of the held-out text "
            "are in the training text too"
        )
        return {"what": what, "num_grams": num_grams, "num_found": num_found}

    def _write_shards(
        self, encodes: Sequence[EncodeJob], tokenizer: Tokenizer
    ) -> tuple[Manifest, dict[str, int]]:
        layout = _layout(self._order, tokenizer.entry.vocab_size)
        results = [read_json(job.done) for job in encodes]
        jobs: dict[str, list[ShardJob]] = {}
        for side, suffix in (("train", ".train"), ("held_out", ".held")):
            files = tuple(
                (job.stem.with_suffix(suffix), int(result[side]["tokens"]))
                for job, result in zip(encodes, results, strict=True)
            )
            jobs[side] = self._shard_jobs(side, files, layout, tokenizer.entry.vocab_size)
        self._run("write shards", [*jobs["train"], *jobs["held_out"]])
        shards = {
            side: [Shard(**shard) for job in each for shard in read_json(job.done)["shards"]]
            for side, each in jobs.items()
        }
        manifest = write_manifest(
            self._order.out,
            layout,
            tokenizer.entry,
            shards["train"],
            shards["held_out"][0],
            tokenizer.file,
        )
        in_shards = {
            side: sum(shard.num_segments for shard in each) * layout.segment_tokens
            for side, each in shards.items()
        }
        return manifest, in_shards

    def _shard_jobs(
        self, side: str, files: tuple[tuple[Path, int], ...], layout: Layout, vocab_size: int
    ) -> list[ShardJob]:
        total = sum(num_tokens for _path, num_tokens in files)
        if total < layout.segment_tokens:
            remedy = (
                "raise --held-out, or cut long documents by --cut"
                if side == "held_out"
                else "name more text"
            )
            raise ConfigError(
                f"the {side.replace('_', '-')} text has {total:,} tokens, less than a segment "
                f"({layout.segment_pages} pages of {layout.page_tokens}): {remedy}, or take a "
                "smaller --segment-pages"
            )
        total -= total % layout.segment_tokens
        if side == "held_out":
            layout = _held_out_layout(layout)
            # The held-out text is one shard: what does not fit is neither trained on nor held out.
            total = min(total, layout.shard_segments * layout.segment_tokens)
        step = layout.shard_segments * layout.segment_tokens
        return [
            ShardJob(
                done=self._path(f"shards-{side}", number),
                folder=self._order.out,
                name=f"{side}-{number}",
                layout=layout,
                vocab_size=vocab_size,
                files=files,
                start=start,
                end=min(start + step, total),
            )
            for number, start in enumerate(range(0, total, step))
        ]

    def _run(self, name: str, jobs: Sequence[Job]) -> None:
        for folder in {job.done.parent for job in jobs}:
            with disk_faults(folder):
                folder.mkdir(parents=True, exist_ok=True)
        self._progress.begin(name, sum(job.num_bytes for job in jobs))
        self._workers.run(jobs, self._progress.show)
        self._progress.end()

    def _path(self, phase: str, number: int) -> Path:
        return self._work / phase / f"{number:06}.json"

    def _end(self) -> None:
        """Renamed first: a command killed while it removes files must not leave half a state."""
        ended = self._order.out / _ENDED
        with disk_faults(ended):
            self._work.rename(ended)
            shutil.rmtree(ended)


def _totals(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = ("documents", "bytes", "empty", "bad")
    examples = [example for result in results for example in result["examples"]]
    return {
        **{name: sum(each[name] for each in results) for name in names},
        "examples": examples[:10],
    }


def _sides(encodes: Sequence[EncodeJob], in_shards: dict[str, int]) -> dict[str, Any]:
    results = [read_json(job.done) for job in encodes]
    sides: dict[str, Any] = {
        side: {
            **{name: sum(each[side][name] for each in results) for name in results[0][side]},
            "tokens_in_shards": in_shards[side],
        }
        for side in ("train", "held_out")
    }
    return {**sides, "repeats": sum(each["repeats"] for each in results)}


def _settings(order: Order) -> dict[str, Any]:
    """Everything that decides the bytes, by the names of the flags."""
    choices, tokenizer = order.choices, order.tokenizer
    return {
        "field": choices.field,
        "seed": choices.seed,
        "held_out_ppm": choices.held_out_ppm,
        "dedup": choices.dedup,
        "cut_bytes": choices.cut_bytes,
        "skip_bad": choices.skip_bad,
        "tokenizer": tokenizer.shown,
        "train_tokenizer_bytes": tokenizer.train_bytes if tokenizer.train_vocab_size else 0,
        "page_tokens": order.page_tokens,
        "segment_pages": order.segment_pages,
        "shard_segments": order.shard_segments,
    }


def _layout(order: Order, vocab_size: int) -> Layout:
    token_bytes = token_bytes_of(vocab_size)
    segment_tokens = max(1, order.page_tokens * order.segment_pages)
    most = min(
        SHARD_TOKENS // segment_tokens,
        MAX_SHARD_SEGMENTS,
        MAX_SHARD_BYTES // (segment_tokens * token_bytes),
    )
    return Layout(
        page_tokens=order.page_tokens,
        segment_pages=order.segment_pages,
        shard_segments=order.shard_segments or max(1, most),
        token_bytes=token_bytes,
    )


def _held_out_layout(layout: Layout) -> Layout:
    return Layout(
        page_tokens=layout.page_tokens,
        segment_pages=layout.segment_pages,
        shard_segments=min(MAX_SHARD_SEGMENTS, MAX_SHARD_BYTES // layout.segment_bytes),
        token_bytes=layout.token_bytes,
    )


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    with disk_faults(path):
        part.write_bytes(data)
        part.replace(path)
