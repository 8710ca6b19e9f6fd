"""Reads pages: segments fetched by range, checked, cached on disk and in memory.

Owns the caches, the check of every byte and the fetching ahead; the caller's `Source` finds the
bytes. A page is `page_tokens` consecutive tokens of a segment and makes a training sequence: the
model predicts tokens 1 .. n-1 of the page. What is held, in memory and on disk, is bounded in
bytes, whatever the size of the dataset.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from template.data.assignment import Paging
from template.data.kept import KeptFiles
from template.data.manifest import Manifest, Shard, parse_digest_list, token_dtype
from template.data.source import Source, are_right
from template.errors import ConfigError, NodeTrouble, ObjectError, StoreError, Unavailable

log = logging.getLogger(__name__)

OnRead = Callable[[str, bytes], None]
"""Called for an object that others may need: (hex SHA-256, bytes)."""

T = TypeVar("T")
Ids = Sequence[int] | npt.NDArray[np.int64]

SEGMENT_SUFFIX, LIST_SUFFIX = ".segment", ".digests"
MAX_RUN_BYTES = 8 * 2**20
"""Neighbouring segments fetched by one request, at most, unless one segment is longer."""
AHEAD_BYTES = 2**20
"""Of a small dataset, what one request brings to a reader that reads ahead."""
THREADS = 8
"""Requests at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheLimits:
    """Bytes of segments kept in memory and on disk; digest lists have an eighth of each besides."""

    memory_bytes: int = 256 * 2**20
    disk_bytes: int = 8 * 2**30


class PageReader:
    """Pages of a manifest by id. For one thread, and `shard_data` and `digest_list` for another;
    processes may share a cache.

    `cache_dir`: folder of verified segments kept between runs, or None. Every method may raise
    Unavailable (naming a shard without a good copy; a later call may succeed), ConfigError (the
    run spec's dataset itself is wrong: a segment of the right digest holds tokens outside the
    vocabulary), StateError (the cache cannot be read or written), and any error of `source`.

    `reads_ahead`: for a validator, whose pages lie anywhere. A dataset of less than half of the
    memory is then read in pieces of `AHEAD_BYTES` and held in memory alone: hundreds of short
    segments a window would cost more time than their bytes.
    """

    def __init__(
        self,
        manifest: Manifest,
        source: Source,
        cache_dir: Path | None = None,
        limits: CacheLimits | None = None,
        reads_ahead: bool = False,
    ) -> None:
        limits = limits or CacheLimits()
        num_bytes = sum(manifest.shard_bytes(s) for s in (*manifest.shards, manifest.held_out))
        is_small = reads_ahead and num_bytes <= limits.memory_bytes // 2
        self._ahead = max(1, AHEAD_BYTES // manifest.segment_bytes) if is_small else 1
        self._manifest = manifest
        self._source = source
        self._shards = (*manifest.shards, manifest.held_out)
        sizes = [shard.num_segments for shard in self._shards]
        self._first_segment = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._lists = _Lists(source, cache_dir, limits)
        self._resident: _Resident[npt.NDArray[np.unsignedinteger]] = _Resident(limits.memory_bytes)
        self._kept = None if is_small else _kept(cache_dir, SEGMENT_SUFFIX, limits.disk_bytes)
        self._batch = max(1, limits.memory_bytes // 2 // manifest.segment_bytes)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="segments")
        self._under_way: dict[int, Future[None]] = {}
        """Segment -> the request for it."""

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def paging(self) -> Paging:
        """The pages for training."""
        return Paging(
            num_segments=self._manifest.num_segments, segment_pages=self._manifest.segment_pages
        )

    @property
    def num_pages(self) -> int:
        return self._manifest.num_pages

    @property
    def num_held_out_pages(self) -> int:
        return self._manifest.num_held_out_pages

    @property
    def digests(self) -> frozenset[bytes]:
        """SHA-256 of every digest list, the held-out shard's included, and of the tokenizer."""
        named = [shard.sha256 for shard in self._shards] + [self._manifest.tokenizer.sha256]
        return frozenset(bytes.fromhex(sha256) for sha256 in named if sha256)

    def page(self, page_id: int) -> npt.NDArray[np.int64]:
        """A page, int64 [page_tokens]. ValueError if the id is not in [0, num_pages)."""
        return self.pages([page_id])[0]

    def pages(self, page_ids: Ids) -> npt.NDArray[np.int64]:
        """Pages in the order asked for, repeats allowed, int64 [len(page_ids), page_tokens].

        ValueError if an id is out of range.
        """
        return self._read(_checked(page_ids, self.num_pages))

    def held_out_pages(self, page_ids: Ids) -> npt.NDArray[np.int64]:
        """Pages of the held-out shard, numbered from 0, int64 [len(page_ids), page_tokens]."""
        return self._read(_checked(page_ids, self.num_held_out_pages) + self.num_pages)

    def shards_of(self, page_ids: Ids) -> npt.NDArray[np.int64]:
        """The number of each page's shard, int64 [len(page_ids)]."""
        return self._shards_with(self._segments_of(np.asarray(page_ids, dtype=np.int64)))

    def find_missing_shards(self, page_ids: npt.NDArray[np.int64]) -> frozenset[int]:
        """Shards of which no bucket has a segment of these pages now; each is asked for once.

        ConfigError and StateError as in `pages`: faults of the dataset and of this node's disk.
        """
        missing: set[int] = set()
        segments = np.unique(self._segments_of(page_ids))
        for batch in self._batches(segments):
            self._start(batch)
            for segment in batch:
                index = int(self._shards_with(np.array([segment]))[0])
                if index in missing:
                    continue
                try:
                    self._segment(segment)
                except NodeTrouble:
                    raise
                except StoreError as error:
                    log.warning("shard %d of the dataset is left out: %s", index, error)
                    missing.add(index)
        return frozenset(missing)

    def prefetch(self, page_ids: Ids) -> None:
        """Begin to fetch pages for a later call, as many as the caches keep, without waiting.

        A failure says nothing: the later call asks again.
        """
        ids = _checked(page_ids, self.num_pages)
        segments = np.array(list(dict.fromkeys(self._segments_of(ids).tolist())), dtype=np.int64)
        whole = segments.tolist()
        self._start(whole[: self._batch] if self._kept is None else whole)

    def is_at_hand(self, page_ids: Ids) -> bool:
        """Whether memory or disk has every page, so that `pages` waits for no bucket."""
        segments = np.unique(self._segments_of(_checked(page_ids, self.num_pages)))
        return all(self._is_segment_at_hand(segment) for segment in segments.tolist())

    def _is_segment_at_hand(self, segment: int) -> bool:
        if segment in self._resident:
            return True
        shard = int(self._shards_with(np.array([segment]))[0])
        listed = self._lists.at_hand(self._shards[shard])
        if self._kept is None or listed is None:
            return False
        digest = listed[segment - int(self._first_segment[shard])].tobytes()
        return self._kept.has(digest, self._manifest.segment_bytes)

    def wait_for_prefetch(self) -> None:
        """Wait until what was begun has come or failed."""
        for future in list(self._under_way.values()):
            future.exception()

    def shard_data(self, index: int) -> bytes:
        """All bytes of a shard, verified and past the caches; the held-out shard is the last."""
        shard = self._shards[index]
        first = int(self._first_segment[index])
        runs = self._runs(list(range(first, first + shard.num_segments)))
        return b"".join(self._fetch_run(run, is_patient=True) for run in runs)

    def digest_list(self, index: int) -> bytes:
        """A shard's verified digest list."""
        return self._lists.get(self._shards[index], is_patient=True).tobytes()

    def close(self) -> None:
        """Cancel what was begun, without waiting for requests under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _segments_of(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return ids // self._manifest.segment_pages

    def _shards_with(self, segments: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.searchsorted(self._first_segment, segments, side="right") - 1

    def _batches(self, segments: npt.NDArray[np.int64]) -> Iterator[list[int]]:
        """The segments in parts that memory keeps."""
        for start in range(0, segments.size, self._batch):
            yield segments[start : start + self._batch].tolist()

    def _read(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        out = np.empty((ids.size, self._manifest.page_tokens), dtype=np.int64)
        segment_of = self._segments_of(ids)
        for batch in self._batches(np.unique(segment_of)):
            self._start(batch)
            for segment in batch:
                rows = segment_of == segment
                out[rows] = self._segment(segment)[ids[rows] % self._manifest.segment_pages]
        return out

    def _segment(self, segment: int) -> npt.NDArray[np.unsignedinteger]:
        """A segment's pages [segment_pages, page_tokens]: from memory, from disk, else fetched."""
        if (future := self._under_way.pop(segment, None)) is not None:
            _ = future.exception()
        pages = self._resident.get(segment)
        if pages is None and self._kept is not None:
            digest = self._digests([segment], is_patient=True)[0].tobytes()
            data = self._kept.get(digest, self._manifest.segment_bytes)
            pages = None if data is None else self._keep_in_memory(segment, data)
        if pages is None:
            data = self._fetch_run([segment], is_patient=True)
            self._keep_on_disk(self._digests([segment], is_patient=True), data)
            pages = self._keep_in_memory(segment, data)
        return pages

    def _start(self, segments: Iterable[int]) -> None:
        """Begin to fetch what is in no cache and not under way."""
        self._under_way = {s: f for s, f in self._under_way.items() if not f.done()}
        unknown = [s for s in segments if s not in self._under_way and s not in self._resident]
        for run in self._runs(self._with_neighbours(unknown)):
            future = self._pool.submit(self._fetch_ahead, run)
            self._under_way |= dict.fromkeys(run, future)

    def _with_neighbours(self, segments: Sequence[int]) -> list[int]:
        """Ascending, and beside each its neighbours of one piece, if in no cache."""
        if self._ahead == 1:
            return sorted(segments)
        wanted = set(segments)
        shards = self._shards_with(np.array(segments, dtype=np.int64)).tolist()
        for segment, shard in zip(segments, shards, strict=True):
            first, end = self._first_segment[shard : shard + 2].tolist()
            start = first + (segment - first) // self._ahead * self._ahead
            wanted.update(range(start, min(start + self._ahead, end)))
        return sorted(s for s in wanted if s not in self._under_way and s not in self._resident)

    def _fetch_ahead(self, run: list[int]) -> None:
        """Bring a run into the caches, from any thread. StoreError says nothing yet."""
        digests = self._digests(run, is_patient=False)
        kept, size = self._kept, self._manifest.segment_bytes
        if kept is not None:
            missing = [
                segment
                for segment, digest in zip(run, digests, strict=True)
                if not kept.has(digest.tobytes(), size)
            ]
            if missing != run:
                for part in self._runs(missing):
                    self._fetch_ahead(part)
                return
        data = self._fetch_run(run, is_patient=False)
        self._keep_on_disk(digests, data)
        for place, segment in enumerate(run):
            self._keep_in_memory(segment, data[place * size : (place + 1) * size])

    def _runs(self, segments: Sequence[int]) -> list[list[int]]:
        """Ascending segments as runs of neighbours in one shard, each for one request."""
        most = max(1, MAX_RUN_BYTES // self._manifest.segment_bytes)
        shards = self._shards_with(np.array(segments, dtype=np.int64)).tolist()
        runs: list[list[int]] = []
        last: tuple[int, int] | None = None
        for segment, shard in zip(segments, shards, strict=True):
            if last != (segment - 1, shard) or len(runs[-1]) == most:
                runs.append([])
            runs[-1].append(segment)
            last = (segment, shard)
        return runs

    def _fetch_run(self, run: Sequence[int], *, is_patient: bool) -> bytes:
        index = int(self._shards_with(np.array(run[:1]))[0])
        shard, size = self._shards[index], self._manifest.segment_bytes
        digests = self._digests(run, is_patient=is_patient)
        start = (run[0] - int(self._first_segment[index])) * size
        return self._source.segments(
            shard,
            start,
            len(run) * size,
            partial(are_right, digests=digests, segment_bytes=size),
            is_patient=is_patient,
        )

    def _digests(self, run: Sequence[int], *, is_patient: bool) -> npt.NDArray[np.uint8]:
        """The digests of a run of segments of one shard, uint8 [len(run), 32]."""
        index = int(self._shards_with(np.array(run[:1]))[0])
        first = run[0] - int(self._first_segment[index])
        listed = self._lists.get(self._shards[index], is_patient=is_patient)
        return listed[first : first + len(run)]

    def _keep_on_disk(self, digests: npt.NDArray[np.uint8], data: bytes) -> None:
        if self._kept is None:
            return
        size = self._manifest.segment_bytes
        for place, digest in enumerate(digests):
            self._kept.put(digest.tobytes(), data[place * size : (place + 1) * size])

    def _keep_in_memory(self, segment: int, data: bytes) -> npt.NDArray[np.unsignedinteger]:
        manifest = self._manifest
        tokens = np.frombuffer(data, dtype=token_dtype(manifest.token_bytes))
        if int(tokens.max()) >= manifest.tokenizer.vocab_size:
            index = int(self._shards_with(np.array([segment]))[0])
            raise ConfigError(
                f"shard {self._shards[index].sha256} holds tokens outside the vocabulary of "
                f"{manifest.tokenizer.vocab_size}; the dataset is wrong, use another manifest"
            )
        pages = tokens.reshape(manifest.segment_pages, manifest.page_tokens)
        self._resident.put(segment, pages, len(data))
        return pages


class _Resident(Generic[T]):
    """Values in memory by key, bounded in bytes: the least recently used go first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._values: OrderedDict[object, tuple[T, int]] = OrderedDict()
        self._lock = Lock()

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._values

    def get(self, key: object) -> T | None:
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: object, value: T, num_bytes: int) -> None:
        with self._lock:
            self._num_bytes += num_bytes - self._values.pop(key, (None, 0))[1]
            self._values[key] = value, num_bytes
            while self._num_bytes > self._max_bytes and len(self._values) > 1:
                self._num_bytes -= self._values.popitem(last=False)[1][1]


class _Lists:
    """The digest lists of shards, through caches of memory and disk. Safe from any thread."""

    def __init__(self, source: Source, cache_dir: Path | None, limits: CacheLimits) -> None:
        self._source = source
        self._resident: _Resident[npt.NDArray[np.uint8]] = _Resident(limits.memory_bytes // 8)
        self._kept = _kept(cache_dir, LIST_SUFFIX, limits.disk_bytes // 8)
        self._locks = [Lock() for _ in range(THREADS)]

    def at_hand(self, shard: Shard) -> npt.NDArray[np.uint8] | None:
        """The list if memory or disk has it."""
        listed = self._resident.get(shard.sha256)
        if listed is None and (data := self._read_kept(shard)) is not None:
            listed = parse_digest_list(data, shard)
            self._resident.put(shard.sha256, listed, shard.list_bytes)
        return listed

    def get(self, shard: Shard, *, is_patient: bool) -> npt.NDArray[np.uint8]:
        """A shard's segment digests, uint8 [num_segments, 32]. Unavailable for a false list."""
        # A lock for some shards each, so that a list is not fetched twice at the same time.
        with self._locks[int(shard.sha256[:8], 16) % THREADS]:
            listed = self._resident.get(shard.sha256)
            if listed is None:
                listed = self._load(shard, is_patient=is_patient)
                self._resident.put(shard.sha256, listed, shard.list_bytes)
            return listed

    def _load(self, shard: Shard, *, is_patient: bool) -> npt.NDArray[np.uint8]:
        data = self._read_kept(shard)
        if data is not None:
            return parse_digest_list(data, shard)
        data = self._source.digest_list(shard, is_patient=is_patient)
        try:
            listed = parse_digest_list(data, shard)
        except ObjectError as error:
            raise Unavailable(f"{error}; fetch it from another mirror") from error
        if self._kept is not None:
            self._kept.put(bytes.fromhex(shard.sha256), data)
        return listed

    def _read_kept(self, shard: Shard) -> bytes | None:
        if self._kept is None:
            return None
        return self._kept.get(bytes.fromhex(shard.sha256), shard.list_bytes)


def _kept(folder: Path | None, suffix: str, max_bytes: int) -> KeptFiles | None:
    return None if folder is None else KeptFiles(folder, suffix, max_bytes=max_bytes)


def _checked(page_ids: Ids, num_pages: int) -> npt.NDArray[np.int64]:
    ids = np.asarray(page_ids, dtype=np.int64)
    if ids.size and not (ids.min() >= 0 and ids.max() < num_pages):
        raise ValueError(f"a page id is outside [0, {num_pages})")
    return ids
