"""A validator's copies of the dataset's shards: the run outlives its first mirrors.

Owns which shards a validator copies and when. The copies are bounded: of a dataset that fits every
validator has all, and of a larger one each has a share of its own. A shard lies in the bucket under
the key that it has at a mirror, so readers ask a validator as they ask a mirror.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from template.bucket.background import as_it_is
from template.context import NodeContext
from template.data.manifest import Manifest
from template.errors import NotFound, StoreError
from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.keys import blob_key, shard_key
from template.store.multipart import BytesSource
from template.store.types import Source

log = logging.getLogger(__name__)

MIRROR_BYTES = 4 * 2**30
"""Bound on the copies in one bucket."""
MAX_COPIED_BYTES = 64 * 2**20
"""The longest shard that is copied. A copy is made beside the loop, in memory; the owner of longer
shards names several mirrors."""


class ShardReader(Protocol):
    """The part of a `PageReader` that copies are made from."""

    def shard_data(self, index: int) -> bytes:
        """All bytes of a shard, verified; the held-out shard is the last."""

    def digest_list(self, index: int) -> bytes:
        """A shard's verified digest list."""


def copied_shards(manifest: Manifest, hotkey: str, max_bytes: int = MIRROR_BYTES) -> list[int]:
    """Numbers of the shards that a validator copies, in its order; the held-out shard first.

    Every newcomer needs the held-out shard. The order of the others follows from the hotkey, so
    validators with too little room copy different shards.
    """
    held_out = len(manifest.shards)

    def place(index: int) -> bytes:
        return labelled_hash("mirror", hotkey.encode("ascii"), uint_bytes(index))

    chosen, total_bytes = [], 0
    for index in (held_out, *sorted(range(held_out), key=place)):
        shard = manifest.held_out if index == held_out else manifest.shards[index]
        num_bytes = manifest.shard_bytes(shard)
        if num_bytes <= MAX_COPIED_BYTES and total_bytes + num_bytes <= max_bytes:
            chosen.append(index)
            total_bytes += num_bytes
    return chosen


class ShardMirror:
    """Copies shards into the validator's own bucket, a shard at a time; `push` goes on.

    `paced`: as of a `Publisher`.
    """

    def __init__(
        self,
        context: NodeContext,
        manifest: Manifest,
        pages: ShardReader,
        *,
        paced: Callable[[Source], Source] = as_it_is,
    ) -> None:
        self._context, self._manifest, self._pages = context, manifest, pages
        self._paced = paced
        self._waiting = deque(copied_shards(manifest, context.hotkey))
        self._has_warned = False

    def push(self, stop: Callable[[], bool]) -> bool:
        """Copy shards, at least one, until `stop()`; returns whether all are copied.

        A failure is warned about once; the shard waits behind the others for a later call.
        """
        while self._waiting:
            index = self._waiting[0]
            try:
                self._copy(index)
            except StoreError as error:
                self._waiting.rotate(-1)
                log.log(
                    logging.DEBUG if self._has_warned else logging.WARNING,
                    "shard %d of the dataset is not copied; retrying after the next window: %s",
                    index,
                    error,
                )
                self._has_warned = True
                return False
            self._waiting.popleft()
            if stop():
                break
        return not self._waiting

    def _copy(self, index: int) -> None:
        shard = (*self._manifest.shards, self._manifest.held_out)[index]
        digest, num_bytes = bytes.fromhex(shard.sha256), self._manifest.shard_bytes(shard)
        if not self._has(shard_key(digest), num_bytes):
            self._put(shard_key(digest), self._pages.shard_data(index))
        if not self._has(blob_key(digest), shard.list_bytes):
            self._put(blob_key(digest), self._pages.digest_list(index))

    def _put(self, key: str, data: bytes) -> None:
        self._context.bucket.put_source(key, self._paced(BytesSource(data)))

    def _has(self, key: str, num_bytes: int) -> bool:
        try:
            return self._context.bucket.size(key) == num_bytes
        except NotFound:
            return False
