"""Reads pages: shards fetched by digest, checked, cached on disk and in memory.

Owns the cache and the check of every byte cached; the caller's `fetch` finds the shards. A page
is `page_tokens` consecutive tokens of a shard and makes a training sequence: the model predicts
tokens 1 .. n-1 of the page.
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from template.data.kept import KeptFiles
from template.data.manifest import Manifest, Shard
from template.data.shards import TOKEN_DTYPE
from template.errors import ConfigError, NodeTrouble, StoreError, Unavailable

log = logging.getLogger(__name__)

Fetch = Callable[[str, int], bytes]
"""(hex SHA-256, length in bytes) -> the shard's bytes; may raise StoreError."""

OnRead = Callable[[str, bytes], None]
"""Called for each verified shard that enters memory: (hex SHA-256, bytes)."""

SHARD_SUFFIX = ".tokens"


class PageReader:
    """Pages of a manifest by id. Not thread safe; processes may share a cache.

    `cache_dir`: folder of verified shards kept between runs, or None. At most
    `max_resident_shards` (>= 1) shards stay in memory, least recently used out first. `on_read` is
    called for each shard entering memory, from the network or from disk. Every method may raise
    Unavailable (naming a shard without a good copy; a later call may succeed), ConfigError (the
    cache cannot be read, or the run spec's dataset itself is wrong: a shard of the right digest
    holds tokens outside the vocabulary), StateError (the cache cannot be written), and any error
    of `fetch`.
    """

    def __init__(
        self,
        manifest: Manifest,
        fetch: Fetch,
        cache_dir: Path | None,
        max_resident_shards: int,
        on_read: OnRead = lambda _sha256, _data: None,
    ) -> None:
        if max_resident_shards < 1:
            raise ValueError(f"max_resident_shards is {max_resident_shards}, must be at least 1")
        self._manifest = manifest
        self._fetch = fetch
        self._kept = None if cache_dir is None else KeptFiles(cache_dir, SHARD_SUFFIX)
        self._on_read = on_read
        self._max_resident_shards = max_resident_shards
        self._resident: OrderedDict[str, npt.NDArray[np.uint16]] = OrderedDict()
        pages_per_shard = [s.num_tokens // manifest.page_tokens for s in manifest.shards]
        self._first_page = np.concatenate([[0], np.cumsum(pages_per_shard)])

    @property
    def num_pages(self) -> int:
        return int(self._first_page[-1])

    @property
    def digests(self) -> frozenset[bytes]:
        """SHA-256 of every shard, the held-out shard included."""
        shards = (*self._manifest.shards, self._manifest.held_out)
        return frozenset(bytes.fromhex(shard.sha256) for shard in shards)

    def page(self, page_id: int) -> npt.NDArray[np.int64]:
        """A page, int64 [page_tokens]. ValueError if the id is not in [0, num_pages)."""
        return self.pages([page_id])[0]

    def pages(self, page_ids: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Pages in the order asked for, repeats allowed, int64 [len(page_ids), page_tokens].

        Each shard needed is loaded once per call. ValueError if an id is out of range.
        """
        ids = np.asarray(page_ids, dtype=np.int64)
        if ids.size and not (ids.min() >= 0 and ids.max() < self.num_pages):
            raise ValueError(f"a page id is outside [0, {self.num_pages})")
        out = np.empty((ids.size, self._manifest.page_tokens), dtype=np.int64)
        shard_of = self.shards_of(ids)
        for index in np.unique(shard_of):
            rows = shard_of == index
            shard_pages = self._shard_pages(self._manifest.shards[index])
            out[rows] = shard_pages[ids[rows] - self._first_page[index]]
        return out

    def shards_of(self, page_ids: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The number of each page's shard, int64 [len(page_ids)]."""
        ids = np.asarray(page_ids, dtype=np.int64)
        return np.searchsorted(self._first_page, ids, side="right") - 1

    def find_missing_shards(self, page_ids: npt.NDArray[np.int64]) -> frozenset[int]:
        """Shards of these pages that no bucket has now; each is asked for once.

        ConfigError and StateError as in `pages`: faults of the dataset and of this node's disk.
        """
        missing = set()
        for index in np.unique(self.shards_of(page_ids)).tolist():
            try:
                self._shard_pages(self._manifest.shards[index])
            except NodeTrouble:
                raise
            except StoreError as error:
                log.warning("shard %d of the dataset is left out: %s", index, error)
                missing.add(index)
        return frozenset(missing)

    def held_out(self) -> npt.NDArray[np.int64]:
        """Every page of the held-out shard in order, int64 [N, page_tokens], for the loss curve."""
        return self._shard_pages(self._manifest.held_out).astype(np.int64)

    def _shard_pages(self, shard: Shard) -> npt.NDArray[np.uint16]:
        """A shard's pages, uint16 [N, page_tokens], through the memory cache."""
        pages = self._resident.pop(shard.sha256, None)
        if pages is None:
            tokens = np.frombuffer(self._load_shard(shard), dtype=TOKEN_DTYPE)
            if int(tokens.max()) >= self._manifest.vocab_size:
                raise ConfigError(
                    f"shard {shard.sha256} holds tokens outside the vocabulary of "
                    f"{self._manifest.vocab_size}; the dataset is wrong, use another manifest"
                )
            pages = tokens.reshape(-1, self._manifest.page_tokens)
        self._resident[shard.sha256] = pages
        while len(self._resident) > self._max_resident_shards:
            self._resident.popitem(last=False)
        return pages

    def _load_shard(self, shard: Shard) -> bytes:
        """A shard's verified bytes: from disk if the copy on disk is good, else fetched once."""
        digest = bytes.fromhex(shard.sha256)
        cached = None if self._kept is None else self._kept.get(digest, shard.num_bytes)
        data = self._fetch_verified(shard) if cached is None else cached
        if cached is None and self._kept is not None:
            self._kept.put(digest, data)
        self._on_read(shard.sha256, data)
        return data

    def _fetch_verified(self, shard: Shard) -> bytes:
        data = self._fetch(shard.sha256, shard.num_bytes)
        if len(data) != shard.num_bytes or hashlib.sha256(data).hexdigest() != shard.sha256:
            raise Unavailable(
                f"shard {shard.sha256} came with {len(data)} bytes of another content "
                f"({shard.num_bytes} expected); fetch it from another mirror"
            )
        return data
