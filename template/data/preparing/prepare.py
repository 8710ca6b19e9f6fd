"""The order of the phases, and the folder in which an interrupted preparation continues.

Everything unfinished lies in `.unfinished` of the output folder: `plan.json` with the settings and
the sources, and for every job its files. The manifest is written last.
"""

import fcntl
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from template.data.chat import MARKERS, plain_texts
from template.data.folder import (
    MANIFEST_NAME,
    TOKENIZER_NAME,
    Layout,
    make_manifest,
    write_manifest,
)
from template.data.manifest import (
    Manifest,
    Shard,
    manifest_digest,
    token_bytes_of,
)
from template.data.preparing.bpe import END_OF_DOCUMENT, train_bpe
from template.data.preparing.card import CARD_NAME, TEXT_NAME, card_json, card_text, leak_words
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
from template.data.preparing.order import (
    Order,
    Prepared,
    held_out_layout,
    layout_of,
    settings_of,
)
from template.data.preparing.pool import Workers
from template.data.preparing.progress import Progress, size
from template.data.preparing.runs import RunFile, bucket_bounds, read_bucket
from template.data.preparing.settings import Choices
from template.data.preparing.sources import TEXT, WORKS, Source, cut_sources, find_sources
from template.data.preparing.vocabulary import chat_form, chat_of, choose_tokenizer
from template.data.tokenizer import FastTokenizer, Tokenizer
from template.errors import ConfigError

WORK: Final = ".unfinished"
_ENDED: Final = ".ended"
MAX_PARTS: Final = 1_024
MAX_PART_BYTES: Final = 2**30

Say = Callable[[str], object]


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
        self._order = order = with_chat_form(order, self._chosen)
        layout_of(order, order.tokenizer.train_vocab_size or self._chosen.entry.vocab_size)
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
        manifest, in_shards = self._make_shards(encodes, tokenizer)
        self._refuse_changes(sources, find_sources(self._order.inputs)[0])
        sides = _sides(encodes, in_shards)
        chat = {"chat": asdict(chat_of(tokenizer))} if self._order.choices.chat else {}
        card = {
            **chat,
            "manifest_sha256": manifest_digest(manifest).hex(),
            "licence": self._order.licence,
            "tokenizer": asdict(tokenizer.entry),
            "settings": settings_of(self._order),
            "counts": {**{key: counts[key] for key in ("empty", "bad")}, **sides},
            "bad_examples": counts["examples"],
            "leak": leak,
            "sources": [
                {"name": each.name, "kind": each.kind, "bytes": each.num_bytes, "sha256": digest}
                for each, digest in zip(sources, digests, strict=True)
            ],
        }
        out = self._order.out
        beside = {CARD_NAME: card_json(card), TEXT_NAME: card_text(card)}
        write_manifest(out, manifest, tokenizer.file, beside)
        self._end()
        return Prepared(manifest=manifest, card=card)

    def _plan(self) -> list[Source]:
        """The sources. ConfigError if an unfinished preparation had others, or other settings."""
        sources, left_out = find_sources(self._order.inputs)
        if self._order.choices.chat:
            refuse_texts(sources)
        if left_out:
            self._say(f"left out, for their names: {len(left_out)} files, {left_out[0]} the first")
        self._say(
            f"input: {len(sources):,} sources, {size(sum(each.num_bytes for each in sources))}"
        )
        path, bounds = self._work / "plan.json", self._order.bounds
        # The bounds decide no byte of the result, but which file holds what until then.
        settings = {
            **settings_of(self._order),
            "tokenizer_sha256": self._chosen.entry.sha256,
            "memory": list(asdict(bounds).values()),
        }
        if not path.is_file():
            found = [asdict(source) for source in sources]
            write_json(path, {"settings": settings, "sources": found})
            return sources
        plan = read_json(path)
        before = plan["settings"]
        for name in (*settings, *before):
            if before.get(name) != settings.get(name):
                raise ConfigError(
                    f"--out {self._order.out}: holds an unfinished preparation with another "
                    f"{name}: {before.get(name)!r}, not {settings.get(name)!r}; give the flags of "
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
            texts = training_texts(files, num_buckets, self._order.choices, choice.train_bytes)
            reserved = tuple(MARKERS.values()) if choice.reserves_chat else ()
            _write_whole(path, train_bpe(texts, choice.train_vocab_size, reserved))
        if choice.train_vocab_size:
            name = f"bpe-{choice.train_vocab_size}"
            return FastTokenizer(path.read_bytes(), name, END_OF_DOCUMENT)
        if self._chosen.file:
            _write_whole(path, self._chosen.file)
        return self._chosen

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
                chat_page_tokens=self._order.page_tokens if self._order.choices.chat else 0,
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
        leak = {"what": what, "num_grams": num_grams, "num_found": num_found}
        self._say(f"leak: {leak_words(leak)}")
        return leak

    def _make_shards(
        self, encodes: Sequence[EncodeJob], tokenizer: Tokenizer
    ) -> tuple[Manifest, dict[str, int]]:
        layout = layout_of(self._order, tokenizer.entry.vocab_size)
        results = [read_json(job.done) for job in encodes]
        jobs: dict[str, list[ShardJob]] = {}
        for side, suffix in (("train", ".train"), ("held_out", ".held")):
            files = tuple(
                (job.stem.with_suffix(suffix), int(result[side]["tokens"]))
                for job, result in zip(encodes, results, strict=True)
            )
            self._refuse_few(side, sum(tokens for _, tokens in files), layout, results)
            jobs[side] = self._shard_jobs(side, files, layout, tokenizer.entry.vocab_size)
        self._run("write shards", [*jobs["train"], *jobs["held_out"]])
        shards = {
            side: [Shard(**shard) for job in each for shard in read_json(job.done)["shards"]]
            for side, each in jobs.items()
        }
        manifest = make_manifest(
            self._order.out, layout, tokenizer.entry, shards["train"], shards["held_out"][0]
        )
        in_shards = {
            side: sum(shard.num_segments for shard in each) * layout.segment_tokens
            for side, each in shards.items()
        }
        return manifest, in_shards

    def _refuse_few(
        self, side: str, total: int, layout: Layout, results: Sequence[dict[str, Any]]
    ) -> None:
        """ConfigError for a side with less than a segment. `results`: of the buckets."""
        if total >= layout.segment_tokens:
            return
        remedies = ["raise --held-out" if side == "held_out" else "name more text"]
        told = ""
        if self._order.choices.chat is None:
            remedies += ["cut long documents by --cut"] if side == "held_out" else []
        elif too_long := sum(result[side]["too_long"] for result in results):
            told = f"; left out: {too_long:,} conversations longer than a page"
            remedies.insert(0, "take a larger --page-tokens")
        remedies.append("take a smaller --segment-pages")
        segment = f"({layout.segment_pages} pages of {layout.page_tokens})"
        raise ConfigError(
            f"the {side.replace('_', '-')} text has {total:,} tokens, less than a segment "
            f"{segment}{told}: {', or '.join(remedies)}"
        )

    def _shard_jobs(
        self, side: str, files: tuple[tuple[Path, int], ...], layout: Layout, vocab_size: int
    ) -> list[ShardJob]:
        total = sum(num_tokens for _path, num_tokens in files)
        total -= total % layout.segment_tokens
        if side == "held_out":
            layout = held_out_layout(layout)
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


def with_chat_form(order: Order, chosen: Tokenizer) -> Order:
    """The order with the markers of the tokenizer, if documents are conversations."""
    if not order.is_chat:
        return order
    form = chat_form(order.tokenizer, chosen)
    return replace(order, choices=replace(order.choices, chat=form))


def refuse_texts(sources: Sequence[Source]) -> None:
    """ConfigError for a source that has no conversations."""
    for source in sources:
        if source.kind in (TEXT, WORKS):
            raise ConfigError(
                f"input {source.path}: is a text; --chat takes JSON lines, Parquet or `datasets` "
                'with conversations: {"messages": [{"role": "user", "content": "..."}, ...]}'
            )


def training_texts(
    files: tuple[RunFile, ...], num_buckets: int, choices: Choices, limit_bytes: int
) -> Iterator[bytes]:
    """Training documents in the order of the keys, which is a fair sample of them; of conversations
    the contents.
    """
    for number in range(num_buckets):
        low, high = bucket_bounds(number, num_buckets)
        bucket = read_bucket(files, low, high, dedup=choices.dedup)
        for text in bucket.texts:
            if limit_bytes <= 0:
                return
            if text.is_held_out:
                continue
            limit_bytes -= len(text.text)
            if choices.chat is None:
                yield text.text
                continue
            for content in plain_texts(text.text.decode("utf-8"), choices.chat.markers):
                yield content.encode("utf-8")


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


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    with disk_faults(path):
        part.write_bytes(data)
        part.replace(path)
