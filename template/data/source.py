"""The places that segments come from: the `Source` of a page reader, and sources in memory.

A source finds bytes; the reader says what is right and checks nothing twice.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from template.data.manifest import Manifest, Shard
from template.errors import ConfigError

IsRight = Callable[[bytes], bool]
"""Whether bytes are those asked for."""


class Source(Protocol):
    """Finds the bytes of a dataset. Every method may raise StoreError.

    `is_patient`: ask every holder, from the reader's own thread. Otherwise the call may come from
    any thread, and asks only what it can ask from there; a failure is then no verdict.
    """

    def digest_list(self, shard: Shard, *, is_patient: bool) -> bytes:
        """A shard's digest list."""

    def segments(
        self, shard: Shard, start: int, length: int, is_right: IsRight, *, is_patient: bool
    ) -> bytes:
        """Bytes [start, start + length) of a shard's file, for which `is_right` holds."""


class Files(Protocol):
    """The files of a dataset at hand, whole: `folder.DatasetFolder` or `shards.Dataset`."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def tokenizer_file(self) -> bytes: ...

    def digest_list(self, shard: Shard) -> bytes: ...

    def shard_data(self, shard: Shard) -> bytes: ...

    def shard_file(self, shard: Shard) -> Path | None:
        """The shard's file, every segment verified; None for a shard in memory."""

    def shard_range(self, shard: Shard, start: int, length: int) -> bytes: ...


class LocalSource:
    """A `Source` on files at hand. ConfigError for a damaged file: it is the owner's own."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def digest_list(self, shard: Shard, **_how: bool) -> bytes:
        return self._files.digest_list(shard)

    def segments(
        self, shard: Shard, start: int, length: int, is_right: IsRight, **_how: bool
    ) -> bytes:
        data = self._files.shard_range(shard, start, length)
        if not is_right(data):
            raise ConfigError(
                f"shard {shard.sha256} of the dataset holds other bytes than its digest list "
                "names: prepare the dataset again"
            )
        return data


def are_right(data: bytes, digests: npt.NDArray[np.uint8], segment_bytes: int) -> bool:
    """Whether `data` are the segments with these digests, uint8 [n, 32]."""
    if len(data) != len(digests) * segment_bytes:
        return False
    pieces = (data[i : i + segment_bytes] for i in range(0, len(data), segment_bytes))
    return all(
        hashlib.sha256(piece).digest() == digest.tobytes()
        for piece, digest in zip(pieces, digests, strict=True)
    )
