"""The manifest of a dataset: the tokenizer, the layout, and the ordered list of shards.

Owns the format, the strict parser and the digest named by a run spec. The format has two levels: a
manifest lists shards, and the digest list of a shard names the shard's segments. A *segment* is
`segment_pages` consecutive pages of a shard, the unit of reading and of verification; every segment
is whole. Page ids follow from the manifest alone: shard by shard in order.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from template.errors import ObjectError
from template.protocol.spec.constraints import MAX_NAME_CHARS
from template.protocol.spec.training import MAX_PAGE_TOKENS, MAX_SEGMENT_PAGES
from template.protocol.strangers import parse_json, shown

VERSION = 2
DIGEST_BYTES = 32

BYTE_TOKENIZER = "byte"
"""The one tokenizer without a file."""

SHORT_VOCAB_SIZE = 2**16
"""Up to here a token takes two bytes."""
MAX_VOCAB_SIZE = 2**32
MAX_TOKENIZER_BYTES = 64 * 2**20
"""The longest `tokenizer.json` known, with 262,144 words, has 33 MB."""

MAX_SEGMENT_BYTES = 64 * 2**20
"""The most memory that one fetched segment may need."""
MAX_SHARD_SEGMENTS = 2**16
MAX_SHARD_BYTES = 2**32
"""Under the 4.995 GiB of a single put on R2."""
MAX_SEGMENTS = 2**32
"""The bias of `word mod num_segments` stays below 2**-32 up to here."""

MAX_MANIFEST_BYTES = 16 * 2**20
"""10 T tokens in shards of 2**28 tokens take 4 MB."""
MAX_SHARDS = MAX_MANIFEST_BYTES // 100
"""A shard takes about 100 bytes of a manifest."""

_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerEntry:
    """The tokenizer of a dataset. `sha256` and `num_bytes`: of its `tokenizer.json`; "" and 0
    for `byte`. `vocab_size`: the highest token id plus one. `end_of_document`: the id of the
    token after each document.
    """

    name: str
    sha256: str
    num_bytes: int
    vocab_size: int
    end_of_document: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A file of `num_segments` segments; `sha256` (64 lower-case hex digits) is of its digest list.

    The digest list: the SHA-256s of the segments, 32 bytes each, in order.
    """

    sha256: str
    num_segments: int

    @property
    def list_bytes(self) -> int:
        """Length of the digest list."""
        return self.num_segments * DIGEST_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A dataset: `shards` to train on, and `held_out`, whose pages are never assigned."""

    version: int = VERSION
    tokenizer: TokenizerEntry
    token_bytes: int
    page_tokens: int
    segment_pages: int
    shards: tuple[Shard, ...]
    held_out: Shard

    @property
    def num_segments(self) -> int:
        """Number of segments for training; segment ids are 0 .. num_segments - 1."""
        return sum(shard.num_segments for shard in self.shards)

    @property
    def num_pages(self) -> int:
        """Number of pages for training; page `p` is in segment `p // segment_pages`."""
        return self.num_segments * self.segment_pages

    @property
    def segment_bytes(self) -> int:
        return self.segment_pages * self.page_tokens * self.token_bytes

    @property
    def num_held_out_pages(self) -> int:
        return self.held_out.num_segments * self.segment_pages

    def shard_bytes(self, shard: Shard) -> int:
        """Length of a shard's file."""
        return shard.num_segments * self.segment_bytes


def token_bytes_of(vocab_size: int) -> int:
    """Bytes of a stored token: 2 for vocabularies up to 65,536, else 4."""
    return 2 if vocab_size <= SHORT_VOCAB_SIZE else 4


def token_dtype(token_bytes: int) -> np.dtype[np.unsignedinteger]:
    """The type of stored tokens, little-endian."""
    return np.dtype(f"<u{token_bytes}")


def digest_list(digests: list[bytes]) -> bytes:
    """The digest list of a shard with these segments."""
    return b"".join(digests)


def parse_digest_list(data: bytes, shard: Shard) -> npt.NDArray[np.uint8]:
    """A shard's segment digests, uint8 [num_segments, 32]. ObjectError for any other bytes."""
    if len(data) != shard.list_bytes or hashlib.sha256(data).hexdigest() != shard.sha256:
        raise ObjectError(
            f"digest list {shard.sha256}: refused: {len(data)} bytes of another content "
            f"({shard.list_bytes} expected)"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shard.num_segments, DIGEST_BYTES)


def manifest_bytes(manifest: Manifest) -> bytes:
    """The canonical form: JSON, ASCII, sorted keys, no spaces."""
    return json.dumps(asdict(manifest), sort_keys=True, separators=(",", ":")).encode("ascii")


def manifest_digest(manifest: Manifest) -> bytes:
    """SHA-256 of the canonical form, 32 bytes: equal to SHA-256 of the published file."""
    return hashlib.sha256(manifest_bytes(manifest)).digest()


def parse_manifest(data: bytes) -> Manifest:
    """Read a stranger's manifest. Raises ObjectError, naming the field, for any other bytes.

    Only the canonical form is accepted, so manifests of equal meaning have equal digests.
    """
    document = parse_json(data, "manifest is not JSON", max_bytes=MAX_MANIFEST_BYTES)
    fields = _fields(document, "manifest", Manifest.__slots__)
    shards = fields["shards"]
    if not isinstance(shards, list) or not shards:
        raise ObjectError("manifest.shards must be a list of at least one shard")
    manifest = Manifest(
        version=_integer(fields["version"], "manifest.version", VERSION, VERSION),
        tokenizer=_tokenizer(fields["tokenizer"], "manifest.tokenizer"),
        token_bytes=_integer(fields["token_bytes"], "manifest.token_bytes", 2, 4),
        page_tokens=_integer(fields["page_tokens"], "manifest.page_tokens", 2, MAX_PAGE_TOKENS),
        segment_pages=_integer(
            fields["segment_pages"], "manifest.segment_pages", 1, MAX_SEGMENT_PAGES
        ),
        shards=tuple(
            _shard(shard, f"manifest.shards[{index}]") for index, shard in enumerate(shards)
        ),
        held_out=_shard(fields["held_out"], "manifest.held_out"),
    )
    _check_sizes(manifest)
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


def _digest(value: object, where: str) -> str:
    sha256 = _text(value, where)
    if not _HEX_DIGEST.fullmatch(sha256):
        raise ObjectError(f"{where} must be 64 lower-case hex digits")
    return sha256


def _tokenizer(value: object, where: str) -> TokenizerEntry:
    fields = _fields(value, where, TokenizerEntry.__slots__)
    name = _text(fields["name"], f"{where}.name")
    vocab_size = _integer(fields["vocab_size"], f"{where}.vocab_size", 2, MAX_VOCAB_SIZE)
    end = _integer(fields["end_of_document"], f"{where}.end_of_document", 0, vocab_size - 1)
    if name == BYTE_TOKENIZER:
        if fields["sha256"] != "" or vocab_size != 256:
            raise ObjectError(f"{where}: 'byte' has 256 tokens and no file")
        sha256, num_bytes = "", _integer(fields["num_bytes"], f"{where}.num_bytes", 0, 0)
    else:
        sha256 = _digest(fields["sha256"], f"{where}.sha256")
        num_bytes = _integer(fields["num_bytes"], f"{where}.num_bytes", 1, MAX_TOKENIZER_BYTES)
    return TokenizerEntry(
        name=name, sha256=sha256, num_bytes=num_bytes, vocab_size=vocab_size, end_of_document=end
    )


def _shard(value: object, where: str) -> Shard:
    fields = _fields(value, where, Shard.__slots__)
    return Shard(
        sha256=_digest(fields["sha256"], f"{where}.sha256"),
        num_segments=_integer(
            fields["num_segments"], f"{where}.num_segments", 1, MAX_SHARD_SEGMENTS
        ),
    )


def _check_sizes(manifest: Manifest) -> None:
    """ObjectError for sizes that are each allowed, but not together."""
    needed = token_bytes_of(manifest.tokenizer.vocab_size)
    if manifest.token_bytes != needed:
        raise ObjectError(f"manifest.token_bytes must be {needed} for this vocabulary")
    if manifest.segment_bytes > MAX_SEGMENT_BYTES:
        raise ObjectError(
            f"manifest.segment_pages: a segment has {manifest.segment_bytes} bytes, more than "
            f"{MAX_SEGMENT_BYTES}"
        )
    longest = max(manifest.held_out.num_segments, *(s.num_segments for s in manifest.shards))
    if longest * manifest.segment_bytes > MAX_SHARD_BYTES:
        raise ObjectError(
            f"manifest.shards: a shard has {longest * manifest.segment_bytes} bytes, more than "
            f"{MAX_SHARD_BYTES}"
        )
    if manifest.num_segments > MAX_SEGMENTS:
        raise ObjectError(
            f"manifest.shards: {manifest.num_segments} segments, more than {MAX_SEGMENTS}"
        )


def _refuse_repeats(manifest: Manifest) -> None:
    """Raises ObjectError for a shard listed twice: two page ids would be the same page."""
    seen = {manifest.held_out.sha256}
    for index, shard in enumerate(manifest.shards):
        if shard.sha256 in seen:
            raise ObjectError(f"manifest.shards[{index}].sha256 repeats another shard's")
        seen.add(shard.sha256)
