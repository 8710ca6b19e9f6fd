"""A mixture of prepared datasets: a dataset whose segments come from others, in given shares.

Pages are drawn from all training segments alike, so a share of the segments is a share of the
mixture. The segments and their order follow from the datasets, the shares and the seed alone.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from template.data.folder import (
    MANIFEST_NAME,
    DatasetFolder,
    Layout,
    ShardWriter,
    list_path,
    make_manifest,
    open_folder,
    shard_path,
)
from template.data.manifest import (
    DIGEST_BYTES,
    MAX_SHARD_BYTES,
    MAX_SHARD_SEGMENTS,
    MAX_SHARDS,
    Manifest,
    Shard,
    token_dtype,
)
from template.errors import ConfigError, StateError
from template.files import is_lasting, reason, remedy

_DRAW: Final = b"tessera mixture draw"
_ORDER: Final = b"tessera mixture order"
SHARD_TOKENS: Final = 2**28
MAX_MIXED_SEGMENTS: Final = 2**24
"""Their order is drawn in memory: 4 GB for so many, which hold 10^12 tokens at the usual size."""
LISTS_KEPT: Final = 64
"""Digest lists in memory, of 2 MiB at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingredient:
    """A dataset of a mixture. `segments`: how many the mixture takes, with repeats."""

    folder: DatasetFolder
    share: Fraction
    segments: int

    @property
    def repeats(self) -> float:
        """Segments taken for each segment of the dataset; above 1 some come twice or more."""
        return self.segments / self.folder.manifest.num_segments


def open_ingredients(shares: Mapping[Path, Fraction], segments: int) -> list[Ingredient]:
    """The datasets with their numbers of segments; `segments` 0: as many as need no repeat.

    ConfigError unless tokenizer, pages and segments of all are the same.
    """
    folders = {path: open_folder(path) for path in shares}
    first, *others = folders.values()
    for other in others:
        check_same(first, other)
    most = min(int(folders[path].manifest.num_segments / share) for path, share in shares.items())
    total = segments or most
    _check_total(total, first.manifest)
    counts = shared_out(list(shares.values()), total)
    return [
        Ingredient(folder=folders[path], share=share, segments=count)
        for (path, share), count in zip(shares.items(), counts, strict=True)
    ]


def _check_total(segments: int, manifest: Manifest) -> None:
    limit = min(MAX_MIXED_SEGMENTS, MAX_SHARDS * _layout(manifest).shard_segments)
    if segments > limit:
        raise ConfigError(
            f"--segments: {segments:,} are more than a mixture can have, {limit:,}: name fewer, or "
            "prepare the datasets with a larger --segment-pages"
        )


def check_same(first: DatasetFolder, other: DatasetFolder) -> None:
    """ConfigError, naming the field, for datasets that cannot be one."""
    one, two = first.manifest, other.manifest
    fields = {
        "tokenizer": (one.tokenizer.sha256 or "byte", two.tokenizer.sha256 or "byte"),
        "vocab_size": (one.tokenizer.vocab_size, two.tokenizer.vocab_size),
        "end_of_document": (one.tokenizer.end_of_document, two.tokenizer.end_of_document),
        "page_tokens": (one.page_tokens, two.page_tokens),
        "segment_pages": (one.segment_pages, two.segment_pages),
    }
    for field, (ours, theirs) in fields.items():
        if ours != theirs:
            raise ConfigError(
                f"{other.folder}: {field} is {theirs}, and {ours} in {first.folder}: prepare both "
                "with the same tokenizer (--tokenizer), --page-tokens and --segment-pages"
            )


def shared_out(shares: Sequence[Fraction], total: int) -> list[int]:
    """Whole numbers in these shares that make `total`: the largest remainders are rounded up.

    ConfigError where a share has no segment.
    """
    exact = [share * total for share in shares]
    counts = [int(part) for part in exact]
    by_rest = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for number in by_rest[: total - sum(counts)]:
        counts[number] += 1
    if min(counts, default=0) < 1:
        raise ConfigError(
            f"--segments {total}: the smallest share has no segment: take more segments, or "
            "prepare the datasets with a smaller --segment-pages"
        )
    return counts


def drawn(ingredients: Sequence[Ingredient], seed: int) -> list[tuple[int, int]]:
    """Number of the dataset and of its segment, for every segment of the mixture in order.

    Each segment comes as often as every other of its dataset, or once more.
    """
    places = []
    for number, each in enumerate(ingredients):
        whole, rest = divmod(each.segments, each.folder.manifest.num_segments)
        segments = range(each.folder.manifest.num_segments)
        by_draw = sorted((_key(_DRAW, seed, number, segment), segment) for segment in segments)
        more = {segment for _, segment in by_draw[:rest]}
        for segment in segments:
            copies = whole + (segment in more)
            places += [
                (_key(_ORDER, seed, number, segment, copy), number, segment)
                for copy in range(copies)
            ]
    return [(number, segment) for _, number, segment in sorted(places)]


def _key(label: bytes, *values: int) -> bytes:
    return hashlib.sha256(label + b"".join(v.to_bytes(8, "little") for v in values)).digest()


def mix(
    ingredients: Sequence[Ingredient], held_out: DatasetFolder, out: Path, seed: int
) -> Manifest:
    """Write the mixture's shards into a folder; the manifest, which `write_manifest` writes last.

    The same bytes after an interruption, from the beginning. The tokenizer has the name that it has
    in the first dataset. ConfigError for damaged segments and a folder that holds a dataset,
    StateError if the disk refuses.
    """
    first = ingredients[0].folder
    check_same(first, held_out)
    if (out / MANIFEST_NAME).exists():
        raise ConfigError(f"--out {out}: holds a prepared dataset already; name another folder")
    layout = _layout(first.manifest)
    entry = first.manifest.tokenizer
    writer = ShardWriter(out, layout, entry.vocab_size)
    readers = [_SegmentReader(each.folder) for each in ingredients]
    shards: list[Shard] = []
    try:
        for number, segment in drawn(ingredients, seed):
            shards += writer.add(readers[number].read(segment))
        shards += writer.close()
    finally:
        writer.give_up()
    _copy_shard(held_out, out)
    kept = held_out.manifest.held_out
    return make_manifest(out, layout, entry, shards, kept)


def _layout(manifest: Manifest) -> Layout:
    layout = Layout(
        page_tokens=manifest.page_tokens,
        segment_pages=manifest.segment_pages,
        shard_segments=1,
        token_bytes=manifest.token_bytes,
    )
    most = min(
        SHARD_TOKENS // layout.segment_tokens,
        MAX_SHARD_SEGMENTS,
        MAX_SHARD_BYTES // layout.segment_bytes,
    )
    return replace(layout, shard_segments=max(1, most))


class _SegmentReader:
    """Reads segments of a folder by their number in the dataset, each verified."""

    def __init__(self, folder: DatasetFolder) -> None:
        self._folder = folder
        self._shards = folder.manifest.shards
        self._ends = np.cumsum([shard.num_segments for shard in self._shards])
        self._digests = lru_cache(maxsize=LISTS_KEPT)(folder.digest_list)

    def read(self, segment: int) -> np.ndarray:
        """The pages of a segment, [segment_pages, page_tokens]."""
        manifest = self._folder.manifest
        number = int(np.searchsorted(self._ends, segment, side="right"))
        shard = self._shards[number]
        place = segment - int(self._ends[number]) + shard.num_segments
        size = manifest.segment_bytes
        data = self._folder.shard_range(shard, place * size, size)
        digests = self._digests(shard)
        if hashlib.sha256(data).digest() != digests[DIGEST_BYTES * place :][:DIGEST_BYTES]:
            raise ConfigError(
                f"{shard_path(self._folder.folder, shard)}: segment {place} has another digest "
                "than its list says: the file is damaged; prepare the dataset again"
            )
        tokens = np.frombuffer(data, token_dtype(manifest.token_bytes))
        return tokens.reshape(manifest.segment_pages, manifest.page_tokens)


def _copy_shard(source: DatasetFolder, out: Path) -> None:
    """Copy the held-out shard, verified, with its digest list."""
    shard = source.manifest.held_out
    target = shard_path(out, shard)
    part = target.with_name(f".{target.name}.part")
    try:
        list_path(out, shard).parent.mkdir(parents=True, exist_ok=True)
        list_path(out, shard).write_bytes(source.digest_list(shard))
        shutil.copyfile(source.shard_file(shard), part)
        part.replace(target)
    except OSError as error:
        raise StateError(
            f"--out: {target} cannot be written ({reason(error)}); {remedy(target, error)}",
            is_lasting=is_lasting(error),
        ) from error
