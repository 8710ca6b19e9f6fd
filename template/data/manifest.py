"""The manifest of a dataset: the ordered list of shards with their digests.

Owns the format, the strict parser and the digest named by a run spec. Page ids follow from the
manifest alone: shard by shard in order, `num_tokens / page_tokens` pages each.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from template.errors import ObjectError
from template.protocol.record import MAX_UIDS
from template.protocol.spec import RunSpec
from template.protocol.spec.constraints import MAX_NAME_CHARS
from template.protocol.spec.training import MAX_PAGE_TOKENS
from template.protocol.strangers import parse_json, shown

TOKEN_BYTES = 2
"""Tokens are stored as little-endian uint16; a larger vocabulary needs a new format."""

MAX_VOCAB_SIZE = 2 ** (8 * TOKEN_BYTES)
MAX_SHARD_TOKENS = 2**30
"""2 GiB: the most memory that a fetch may need."""

SHARD_TOKENS = 2**20
"""Tokens of a shard, less a part of a page: a shard has more than half as many."""

MAX_MANIFEST_BYTES = 64 * 2**20
"""Limit on the manifest of any run."""
MIN_SHARDS = 1024
"""Every run may have so many shards, a billion tokens, whether it can assign all or not."""
SHARD_CHARS = 112
"""Maximum length of a shard's entry in a manifest."""
ROOM_CHARS = 1024
"""Allowance for the rest of a manifest."""

_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A file of `num_tokens` tokens; `sha256` (64 lower-case hex digits) is of its bytes."""

    sha256: str
    num_tokens: int

    @property
    def num_bytes(self) -> int:
        return self.num_tokens * TOKEN_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A dataset: `shards` to train on, and `held_out`, whose pages are never assigned."""

    tokenizer: str
    vocab_size: int
    page_tokens: int
    shards: tuple[Shard, ...]
    held_out: Shard

    @property
    def num_pages(self) -> int:
        """Number of pages for training; page ids are 0 .. num_pages - 1."""
        return sum(shard.num_tokens for shard in self.shards) // self.page_tokens


def manifest_bytes(manifest: Manifest) -> bytes:
    """The canonical form: JSON, ASCII, sorted keys, no spaces."""
    return json.dumps(asdict(manifest), sort_keys=True, separators=(",", ":")).encode("ascii")


def manifest_digest(manifest: Manifest) -> bytes:
    """SHA-256 of the canonical form, 32 bytes: equal to SHA-256 of the published file."""
    return hashlib.sha256(manifest_bytes(manifest)).digest()


def manifest_limit_bytes(spec: RunSpec) -> int:
    """Maximum bytes of the manifest of a run's dataset.

    A run needs no more pages than the run can assign: every window, to every uid.
    """
    pages = spec.schedule.num_windows * MAX_UIDS * spec.training.pages_per_window
    pages_per_shard = max(1, SHARD_TOKENS // spec.data.page_tokens)
    num_shards = max(MIN_SHARDS, math.ceil(pages / pages_per_shard))
    return min(MAX_MANIFEST_BYTES, num_shards * SHARD_CHARS + ROOM_CHARS)


def parse_manifest(data: bytes) -> Manifest:
    """Read a stranger's manifest. Raises ObjectError, naming the field, for any other bytes.

    Only the canonical form is accepted, so manifests of equal meaning have equal digests.
    """
    document = parse_json(data, "manifest is not JSON", max_bytes=MAX_MANIFEST_BYTES)
    fields = _fields(document, "manifest", Manifest.__slots__)
    page_tokens = _integer(fields["page_tokens"], "manifest.page_tokens", 2, MAX_PAGE_TOKENS)
    shards = fields["shards"]
    if not isinstance(shards, list) or not shards:
        raise ObjectError("manifest.shards must be a list of at least one shard")
    manifest = Manifest(
        tokenizer=_text(fields["tokenizer"], "manifest.tokenizer"),
        vocab_size=_integer(fields["vocab_size"], "manifest.vocab_size", 2, MAX_VOCAB_SIZE),
        page_tokens=page_tokens,
        shards=tuple(
            _shard(shard, f"manifest.shards[{index}]", page_tokens)
            for index, shard in enumerate(shards)
        ),
        held_out=_shard(fields["held_out"], "manifest.held_out", page_tokens),
    )
    _refuse_repeats(manifest)
    if manifest_bytes(manifest) != data:
        raise ObjectError("manifest is not in canonical form; write it with manifest_bytes")
    return manifest


def _fields(value: object, where: str, names: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ObjectError(f"{where} must be an object")
    for key in value:
        if key not in names:
            raise ObjectError(f"{where} has the unknown key '{shown(key)}'")
    for name in names:
        if name not in value:
            raise ObjectError(f"{where}.{name} is missing")
    return value


def _integer(value: object, where: str, low: int, high: int) -> int:
    # bool is an int to Python, not to a reader of the file.
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ObjectError(f"{where} must be an integer in [{low}, {high}]")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARS:
        raise ObjectError(f"{where} must be a text of 1 to {MAX_NAME_CHARS} characters")
    return value


def _shard(value: object, where: str, page_tokens: int) -> Shard:
    fields = _fields(value, where, Shard.__slots__)
    sha256 = _text(fields["sha256"], f"{where}.sha256")
    if not _HEX_DIGEST.fullmatch(sha256):
        raise ObjectError(f"{where}.sha256 must be 64 lower-case hex digits")
    num_tokens = _integer(fields["num_tokens"], f"{where}.num_tokens", 1, MAX_SHARD_TOKENS)
    if num_tokens % page_tokens:
        raise ObjectError(f"{where}.num_tokens must be a multiple of page_tokens ({page_tokens})")
    return Shard(sha256=sha256, num_tokens=num_tokens)


def _refuse_repeats(manifest: Manifest) -> None:
    """Raises ObjectError for a shard listed twice: two page ids would be the same page."""
    seen = {manifest.held_out.sha256}
    for index, shard in enumerate(manifest.shards):
        if shard.sha256 in seen:
            raise ObjectError(f"manifest.shards[{index}].sha256 repeats another shard's")
        seen.add(shard.sha256)
