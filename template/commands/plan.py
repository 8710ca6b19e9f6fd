"""The subnet owner's part before a run starts: dataset, theta_0, and the run spec.

A *plan* is a run spec without the derived values: the owner's mirror, the digests of the dataset
and of theta_0, and the start block. Once the blobs lie in the owner's bucket under their digests,
every remaining role of the owner can pass to another hotkey.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from template.commands.warm_start import warm_started
from template.data.assignment import max_barred_segments
from template.data.corpus import Corpus
from template.data.fit import check_dataset, paging_of
from template.data.folder import DatasetFolder
from template.data.manifest import (
    DIGEST_BYTES,
    Manifest,
    Shard,
    manifest_bytes,
    manifest_digest,
)
from template.data.shards import build_dataset
from template.data.source import Files
from template.data.tokenizer import load_tokenizer
from template.errors import NotFound, TooLarge
from template.protocol.keys import blob_key, run_spec_key, shard_key
from template.protocol.spec import RunSpec, spec_to_toml
from template.protocol.spec.plan import RunChoices, check_plan, draft_spec, load_plan
from template.store import Store
from template.sync.dataset import check_manifest
from template.training.model import initial_params
from template.training.theta0 import build_theta0

__all__ = [
    "PreparedRun",
    "RunChoices",
    "check_dataset",
    "check_plan",
    "load_plan",
    "prepare_run",
    "upload",
    "upload_missing",
    "upload_spec",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRun:
    """A spec, its dataset, and the blobs by SHA-256: manifest, tokenizer and theta_0."""

    spec: RunSpec
    blobs: Mapping[bytes, bytes]
    dataset: Files

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Every shard, the held-out shard last."""
        return _shards(self.dataset)

    @property
    def num_objects(self) -> int:
        """Number of all objects."""
        return len(self.blobs) + 2 * len(self.shards)

    @property
    def num_bytes(self) -> int:
        """Bytes of all objects."""
        manifest = self.dataset.manifest
        shards = sum(manifest.shard_bytes(s) + s.list_bytes for s in self.shards)
        return shards + sum(map(len, self.blobs.values()))

    def objects(self) -> Iterator[tuple[str, bytes | Path]]:
        """Key and bytes, or file, of each object, one at a time: a shard before its digest list."""
        for digest, data in self.blobs.items():
            yield blob_key(digest), data
        yield from _shard_objects(self.dataset)


class Dataset:
    """A prepared dataset for a bucket, without a run: manifest, tokenizer and shards."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.manifest = files.manifest
        self._blobs = [data for data in (manifest_bytes(files.manifest), files.tokenizer_file)
                       if data]  # fmt: skip

    @property
    def num_objects(self) -> int:
        """Number of all objects."""
        return len(self._blobs) + 2 * len(_shards(self._files))

    def objects(self) -> Iterator[tuple[str, bytes | Path]]:
        """As of `PreparedRun`, the manifest last: whoever finds it finds all that it names."""
        yield from _shard_objects(self._files)
        for data in reversed(self._blobs):
            yield blob_key(hashlib.sha256(data).digest()), data


class Uploaded(Protocol):
    """What `upload_missing` puts into a bucket: a `PreparedRun` or a `Dataset`."""

    @property
    def num_objects(self) -> int:
        """Number of all objects."""

    def objects(self) -> Iterator[tuple[str, bytes | Path]]:
        """Key and bytes, or file, of each object, one at a time."""


def _shards(dataset: Files) -> tuple[Shard, ...]:
    return (*dataset.manifest.shards, dataset.manifest.held_out)


def _shard_objects(dataset: Files) -> Iterator[tuple[str, bytes | Path]]:
    for shard in _shards(dataset):
        digest, path = bytes.fromhex(shard.sha256), dataset.shard_file(shard)
        yield shard_key(digest), path or dataset.shard_data(shard)
        yield blob_key(digest), dataset.digest_list(shard)


def prepare_run(
    plan: Mapping[str, Any],
    text: Corpus | DatasetFolder,
    choices: RunChoices,
    say: Callable[[str], None] = lambda _: None,
) -> PreparedRun:
    """Take or build the dataset, make theta_0 and fill in the plan. ConfigError names a wrong key.

    `text`: documents, cut here by the plan, or a prepared dataset. `say` gets a line from time to
    time during a warm start of theta_0.
    """
    draft = draft_spec(plan, choices)
    dataset = _build(text, draft) if isinstance(text, Corpus) else text
    check_dataset(dataset.manifest, draft, choices.max_hotkeys)
    manifest = manifest_bytes(dataset.manifest)
    params = initial_params(draft, choices.seed)
    theta0 = warm_started(params, draft, dataset, choices.seed, say)
    theta0_digest, parts = build_theta0(theta0, draft.checkpoint.part_bytes)
    named = (manifest, dataset.tokenizer_file)
    blobs = parts.with_data({hashlib.sha256(data).digest(): data for data in named if data})
    spec = replace(
        draft,
        data=replace(draft.data, manifest_digest=hashlib.sha256(manifest).hexdigest()),
        checkpoint=replace(draft.checkpoint, theta0_digest=theta0_digest.hex()),
    )
    check_manifest(dataset.manifest, spec, manifest_digest(dataset.manifest))
    return PreparedRun(spec=spec, blobs=blobs, dataset=dataset)


def _build(corpus: Corpus, spec: RunSpec) -> Files:
    return build_dataset(
        corpus,
        load_tokenizer(spec.data.tokenizer),
        page_tokens=spec.data.page_tokens,
        segment_pages=spec.data.segment_pages,
    )


def wide_hotkeys(spec: RunSpec, manifest: Manifest) -> int:
    """Hotkeys whose widest lists of a window are all kept out of the draw of held-out pages."""
    paging = paging_of(manifest)
    most = max_barred_segments(spec.evaluation.held_out_pages, paging)
    return most // paging.segments_for(spec.training.most_pages)


def wasted_share(spec: RunSpec, manifest: Manifest) -> float:
    """Bytes that a miner fetches in a window beyond the pages that it trains on, as a share.

    The rest of the last segment, and digest lists, if each segment is of another shard.
    """
    segments = -(-spec.training.pages_per_window // manifest.segment_pages)
    lists = segments * DIGEST_BYTES * manifest.num_segments / len(manifest.shards)
    if manifest.num_segments * DIGEST_BYTES <= segments * manifest.segment_bytes:
        lists = 0.0  # all lists are soon in the cache
    pages_bytes = spec.training.pages_per_window * manifest.page_tokens * manifest.token_bytes
    return (segments * manifest.segment_bytes + lists) / pages_bytes - 1


def upload(run: Uploaded, bucket: Store) -> None:
    """Put every object of the run into the owner's bucket."""
    for key, data in run.objects():
        _put(bucket, key, data)


def _put(bucket: Store, key: str, data: bytes | Path) -> None:
    if isinstance(data, Path):
        bucket.put_file(key, data)
    else:
        bucket.put(key, data)


def upload_spec(spec: RunSpec, bucket: Store) -> str:
    """Put the run spec where a newcomer looks for an offered run; returns the text."""
    text = spec_to_toml(spec)
    bucket.put(run_spec_key(spec.run_id), text.encode())
    return text


def upload_missing(
    run: Uploaded, writer: Store, reader: Store, say: Callable[[str], object]
) -> int:
    """Put the missing objects into the bucket; returns the number of bytes sent.

    Present objects are read back with the published read key and compared.
    """
    sent_bytes, num_objects = 0, run.num_objects
    for number, (key, data) in enumerate(run.objects(), start=1):
        num_bytes = data.stat().st_size if isinstance(data, Path) else len(data)
        there = _holds(reader, key, data, num_bytes)
        if not there:
            _put(writer, key, data)
            sent_bytes += num_bytes
        done = "there already" if there else "sent"
        say(f"object {number} of {num_objects}: {num_bytes:,} bytes, {done}")
    return sent_bytes


class _OtherBytesError(Exception):
    """The bucket has another object."""


def _holds(reader: Store, key: str, data: bytes | Path, num_bytes: int) -> bool:
    """Whether the bucket's object is the same, compared as it comes."""
    with data.open("rb") if isinstance(data, Path) else BytesIO(data) as file:

        def compare(piece: bytes) -> None:
            if file.read(len(piece)) != piece:
                raise _OtherBytesError

        try:
            if reader.size(key) != num_bytes:
                return False
            reader.stream(key, compare, max_bytes=num_bytes)
        except (NotFound, TooLarge, _OtherBytesError):
            return False
        return not file.read(1)
