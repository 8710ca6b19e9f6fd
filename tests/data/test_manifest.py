"""The manifest's format: strict, canonical, and ObjectError on any bad bytes."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from template.data.manifest import (
    MAX_MANIFEST_BYTES,
    MAX_SHARD_SEGMENTS,
    MAX_TOKENIZER_BYTES,
    MAX_VOCAB_SIZE,
    Manifest,
    Shard,
    TokenizerEntry,
    manifest_bytes,
    manifest_digest,
    parse_digest_list,
    parse_manifest,
    token_bytes_of,
)
from template.errors import ObjectError

BYTE = TokenizerEntry(name="byte", sha256="", num_bytes=0, vocab_size=256, end_of_document=10)
BPE = TokenizerEntry(
    name="bpe-100k", sha256="d4" * 32, num_bytes=7, vocab_size=100_000, end_of_document=99_999
)
MANIFEST = Manifest(
    tokenizer=BYTE,
    token_bytes=2,
    page_tokens=64,
    segment_pages=8,
    shards=(Shard(sha256="a1" * 32, num_segments=16), Shard(sha256="b2" * 32, num_segments=1)),
    held_out=Shard(sha256="c3" * 32, num_segments=2),
)
WIDE = replace(MANIFEST, tokenizer=BPE, token_bytes=4)


def _with(path: str, value: object, manifest: Manifest = MANIFEST) -> bytes:
    """The manifest with one field, addressed by dots, replaced."""
    document = json.loads(manifest_bytes(manifest))
    target = document
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        target = target[part]
    target[last] = value
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def test_golden_bytes() -> None:
    assert manifest_bytes(replace(MANIFEST, shards=MANIFEST.shards[1:])) == (
        b'{"held_out":{"num_segments":2,"sha256":"' + b"c3" * 32 + b'"},"page_tokens":64,'
        b'"segment_pages":8,"shards":[{"num_segments":1,"sha256":"' + b"b2" * 32 + b'"}],'
        b'"token_bytes":2,"tokenizer":{"end_of_document":10,"name":"byte","num_bytes":0,'
        b'"sha256":"","vocab_size":256},"version":2}'
    )


@pytest.mark.parametrize("manifest", [MANIFEST, WIDE])
def test_round_trip_and_digest(manifest: Manifest) -> None:
    data = manifest_bytes(manifest)
    assert parse_manifest(data) == manifest
    assert manifest_digest(manifest) == hashlib.sha256(data).digest()
    other = replace(manifest, shards=manifest.shards[::-1])
    assert manifest_digest(other) != manifest_digest(manifest)


def test_sizes_follow() -> None:
    assert (MANIFEST.num_segments, MANIFEST.num_pages) == (17, 136)
    assert MANIFEST.num_held_out_pages == 16
    assert MANIFEST.segment_bytes == 8 * 64 * 2
    assert WIDE.segment_bytes == 8 * 64 * 4
    assert MANIFEST.shard_bytes(MANIFEST.shards[0]) == 16 * 1024
    assert MANIFEST.shards[0].list_bytes == 512
    assert [token_bytes_of(size) for size in (2, 65_536, 65_537, MAX_VOCAB_SIZE)] == [2, 2, 4, 4]


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("version", 1, r"manifest\.version"),
        ("version", 3, r"manifest\.version"),
        ("tokenizer", "byte", r"manifest\.tokenizer"),
        ("tokenizer.name", "", r"manifest\.tokenizer\.name"),
        ("tokenizer.name", 5, r"manifest\.tokenizer\.name"),
        ("tokenizer.name", "other", r"manifest\.tokenizer\.sha256"),
        ("tokenizer.sha256", "d4" * 32, r"manifest\.tokenizer: 'byte'"),
        ("tokenizer.num_bytes", 1, r"manifest\.tokenizer\.num_bytes"),
        ("tokenizer.vocab_size", 257, r"manifest\.tokenizer: 'byte'"),
        ("tokenizer.vocab_size", 1, r"manifest\.tokenizer\.vocab_size"),
        ("tokenizer.vocab_size", "256", r"manifest\.tokenizer\.vocab_size"),
        ("tokenizer.vocab_size", 256.0, r"manifest\.tokenizer\.vocab_size"),
        ("tokenizer.vocab_size", MAX_VOCAB_SIZE + 1, r"manifest\.tokenizer\.vocab_size"),
        ("tokenizer.end_of_document", 256, r"manifest\.tokenizer\.end_of_document"),
        ("tokenizer.end_of_document", -1, r"manifest\.tokenizer\.end_of_document"),
        ("token_bytes", 4, r"manifest\.token_bytes must be 2"),
        ("token_bytes", 3, r"manifest\.token_bytes must be 2"),
        ("token_bytes", 8, r"manifest\.token_bytes"),
        ("page_tokens", 1, r"manifest\.page_tokens"),
        ("page_tokens", True, r"manifest\.page_tokens"),
        ("segment_pages", 0, r"manifest\.segment_pages"),
        ("segment_pages", 2**16 + 1, r"manifest\.segment_pages"),
        ("page_tokens", 2**20, None),
        ("shards", [], r"manifest\.shards"),
        ("shards", {}, r"manifest\.shards"),
        ("shards.1", [], r"manifest\.shards\[1\]"),
        ("shards.1.num_segments", 0, r"manifest\.shards\[1\]\.num_segments"),
        ("shards.1.num_segments", -64, r"manifest\.shards\[1\]\.num_segments"),
        (
            "shards.1.num_segments",
            MAX_SHARD_SEGMENTS + 1,
            r"manifest\.shards\[1\]\.num_segments",
        ),
        ("shards.1.sha256", "B2" * 32, r"manifest\.shards\[1\]\.sha256"),
        ("shards.1.sha256", "b2" * 31, r"manifest\.shards\[1\]\.sha256"),
        ("shards.1.sha256", "b2" * 32 + "\n", r"manifest\.shards\[1\]\.sha256"),
        ("shards.1.sha256", "../" + "b" * 61, r"manifest\.shards\[1\]\.sha256"),
        ("shards.1.sha256", None, r"manifest\.shards\[1\]\.sha256"),
        ("shards.1.sha256", "a1" * 32, r"manifest\.shards\[1\]\.sha256 repeats"),
        ("shards.1.sha256", "c3" * 32, r"manifest\.shards\[1\]\.sha256 repeats"),
        ("shards.1.size", 3, r"manifest\.shards\[1\].*unknown key 'size'"),
        ("held_out", None, r"manifest\.held_out"),
        ("held_out.num_segments", 0, r"manifest\.held_out\.num_segments"),
        ("extra", 1, r"unknown key 'extra'"),
    ],
)
def test_a_bad_field_is_named(path: str, value: object, field: str | None) -> None:
    data = _with(path, value)
    if field is None:
        assert parse_manifest(data)
        return
    with pytest.raises(ObjectError, match=field):
        parse_manifest(data)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("tokenizer.sha256", "", r"manifest\.tokenizer\.sha256"),
        ("tokenizer.num_bytes", 0, r"manifest\.tokenizer\.num_bytes"),
        ("tokenizer.num_bytes", MAX_TOKENIZER_BYTES + 1, r"manifest\.tokenizer\.num_bytes"),
        ("token_bytes", 2, r"manifest\.token_bytes must be 4"),
    ],
)
def test_a_bad_field_of_a_tokenizer_with_a_file(path: str, value: object, field: str) -> None:
    with pytest.raises(ObjectError, match=field):
        parse_manifest(_with(path, value, WIDE))


def test_sizes_that_are_too_large_together() -> None:
    with pytest.raises(ObjectError, match="a segment has 1073741824 bytes"):
        parse_manifest(manifest_bytes(replace(MANIFEST, page_tokens=2**20, segment_pages=512)))
    long = Shard(sha256="a1" * 32, num_segments=MAX_SHARD_SEGMENTS)
    with pytest.raises(ObjectError, match="a shard has"):
        parse_manifest(manifest_bytes(replace(MANIFEST, page_tokens=2**13, shards=(long,))))
    many = tuple(Shard(sha256=f"{n:064x}", num_segments=2**16) for n in range(2**16 + 1))
    with pytest.raises(ObjectError, match="segments, more than"):
        parse_manifest(manifest_bytes(replace(MANIFEST, shards=many)))


@pytest.mark.parametrize("name", Manifest.__slots__)
def test_a_missing_field_is_named(name: str) -> None:
    document = json.loads(manifest_bytes(MANIFEST))
    del document[name]
    with pytest.raises(ObjectError, match=rf"manifest\.{name} is missing"):
        parse_manifest(json.dumps(document).encode())


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(json.loads(manifest_bytes(MANIFEST))).encode(),
        manifest_bytes(MANIFEST) + b"\n",
        manifest_bytes(MANIFEST).replace(b'"page_tokens":64', b'"page_tokens":64,"page_tokens":64'),
        manifest_bytes(MANIFEST).decode().encode("utf-16"),
    ],
)
def test_only_the_canonical_form_is_accepted(data: bytes) -> None:
    with pytest.raises(ObjectError, match="canonical|not JSON"):
        parse_manifest(data)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"9" * 10_000, b"null", b"[]", b"NaN"]
)
def test_hostile_bytes(data: bytes) -> None:
    with pytest.raises(ObjectError, match="manifest"):
        parse_manifest(data)


@given(st.binary(max_size=4), st.integers(0, len(manifest_bytes(MANIFEST))), st.integers(0, 8))
def test_mutated_bytes_are_refused_or_parse_to_themselves(
    insert: bytes, position: int, num_cut: int
) -> None:
    data = manifest_bytes(MANIFEST)
    mutated = data[:position] + insert + data[position + num_cut :]
    try:
        manifest = parse_manifest(mutated)
    except ObjectError:
        return
    assert manifest_bytes(manifest) == mutated


@pytest.mark.parametrize(("page_tokens", "segment_pages"), [(2048, 128), (4096, 64)])
def test_ten_trillion_tokens_stay_under_the_limit(page_tokens: int, segment_pages: int) -> None:
    """Shards of 2**28 tokens; their digest lists are objects of their own."""
    segments = 2**28 // (page_tokens * segment_pages)
    count = -(-(10**13) // 2**28)
    shards = tuple(Shard(sha256=f"{n:064x}", num_segments=segments) for n in range(count))
    held_out = Shard(sha256="f" * 64, num_segments=segments)
    manifest = replace(
        WIDE, page_tokens=page_tokens, segment_pages=segment_pages, shards=shards, held_out=held_out
    )
    data = manifest_bytes(manifest)
    assert manifest.num_pages * page_tokens >= 10**13
    assert len(data) < MAX_MANIFEST_BYTES / 3
    assert parse_manifest(data) == manifest
    assert manifest.shards[0].list_bytes <= manifest.segment_bytes / 16


def test_a_longer_manifest_is_refused_unread() -> None:
    with pytest.raises(ObjectError, match="at most"):
        parse_manifest(bytes(MAX_MANIFEST_BYTES + 1))


def test_a_digest_list_is_its_digests_or_refused() -> None:
    data = bytes(range(96))
    shard = Shard(sha256=hashlib.sha256(data).hexdigest(), num_segments=3)
    assert parse_digest_list(data, shard).tobytes() == data
    for bad in (data[:-1], data + b"\0", data[32:], bytes(96), b""):
        with pytest.raises(ObjectError, match=shard.sha256):
            parse_digest_list(bad, shard)
    with pytest.raises(ObjectError, match="128 expected"):
        parse_digest_list(data, replace(shard, num_segments=4))
