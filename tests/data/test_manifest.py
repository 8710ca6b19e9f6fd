"""The manifest's format: strict, canonical, and ObjectError on any bad bytes."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from template.data.manifest import (
    MAX_MANIFEST_BYTES,
    MAX_SHARD_TOKENS,
    SHARD_TOKENS,
    Manifest,
    Shard,
    manifest_bytes,
    manifest_digest,
    manifest_limit_bytes,
    parse_manifest,
)
from template.errors import ObjectError
from template.protocol.spec import RunSpec, parse_spec
from tests.support.scoring import SPEC_FILE

MANIFEST = Manifest(
    tokenizer="byte",
    vocab_size=256,
    page_tokens=64,
    shards=(
        Shard(sha256="a1" * 32, num_tokens=1024),
        Shard(sha256="b2" * 32, num_tokens=64),
    ),
    held_out=Shard(sha256="c3" * 32, num_tokens=128),
)


def _with(path: str, value: object) -> bytes:
    """The manifest with one field, addressed by dots, replaced."""
    document = json.loads(manifest_bytes(MANIFEST))
    target = document
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        target = target[part]
    target[last] = value
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def test_golden_bytes() -> None:
    assert manifest_bytes(replace(MANIFEST, shards=MANIFEST.shards[1:])) == (
        b'{"held_out":{"num_tokens":128,"sha256":"' + b"c3" * 32 + b'"},"page_tokens":64,'
        b'"shards":[{"num_tokens":64,"sha256":"' + b"b2" * 32 + b'"}],'
        b'"tokenizer":"byte","vocab_size":256}'
    )


def test_round_trip_and_digest() -> None:
    data = manifest_bytes(MANIFEST)
    assert parse_manifest(data) == MANIFEST
    assert manifest_digest(MANIFEST) == hashlib.sha256(data).digest()
    other = replace(MANIFEST, shards=MANIFEST.shards[::-1])
    assert manifest_digest(other) != manifest_digest(MANIFEST)


def test_sizes_follow() -> None:
    assert MANIFEST.num_pages == 17
    assert MANIFEST.shards[0].num_bytes == 2048


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("tokenizer", "", r"manifest\.tokenizer"),
        ("tokenizer", 5, r"manifest\.tokenizer"),
        ("vocab_size", 1, r"manifest\.vocab_size"),
        ("vocab_size", 65537, r"manifest\.vocab_size"),
        ("vocab_size", "256", r"manifest\.vocab_size"),
        ("vocab_size", 256.0, r"manifest\.vocab_size"),
        ("page_tokens", 0, r"manifest\.page_tokens"),
        ("page_tokens", 1, r"manifest\.page_tokens"),
        ("page_tokens", True, r"manifest\.page_tokens"),
        ("page_tokens", 48, r"manifest\.shards\[0\]\.num_tokens"),
        ("shards", [], r"manifest\.shards"),
        ("shards", {}, r"manifest\.shards"),
        ("shards.1", [], r"manifest\.shards\[1\]"),
        ("shards.1.num_tokens", 65, r"manifest\.shards\[1\]\.num_tokens"),
        ("shards.1.num_tokens", 0, r"manifest\.shards\[1\]\.num_tokens"),
        ("shards.1.num_tokens", -64, r"manifest\.shards\[1\]\.num_tokens"),
        ("shards.1.num_tokens", MAX_SHARD_TOKENS + 64, r"manifest\.shards\[1\]\.num_tokens"),
        ("shards.1.sha256", "B2" * 32, r"manifest\.shards\[1\]\.sha256"),
        ("shards.1.sha256", "b2" * 31, r"manifest\.shards\[1\]\.sha256"),
        ("shards.1.sha256", "b2" * 32 + "\n", r"manifest\.shards\[1\]\.sha256"),
        ("shards.1.sha256", "../" + "b" * 61, r"manifest\.shards\[1\]\.sha256"),
        ("shards.1.sha256", None, r"manifest\.shards\[1\]\.sha256"),
        ("shards.1.sha256", "a1" * 32, r"manifest\.shards\[1\]\.sha256 repeats"),
        ("shards.1.sha256", "c3" * 32, r"manifest\.shards\[1\]\.sha256 repeats"),
        ("shards.1.size", 3, r"manifest\.shards\[1\].*unknown key 'size'"),
        ("held_out", None, r"manifest\.held_out"),
        ("held_out.num_tokens", 100, r"manifest\.held_out\.num_tokens"),
        ("extra", 1, r"unknown key 'extra'"),
    ],
)
def test_a_bad_field_is_named(path: str, value: object, field: str) -> None:
    with pytest.raises(ObjectError, match=field):
        parse_manifest(_with(path, value))


@pytest.mark.parametrize("name", ["tokenizer", "vocab_size", "page_tokens", "shards", "held_out"])
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
def test_mutated_bytes_raise_config_error_or_parse_to_themselves(
    insert: bytes, position: int, num_cut: int
) -> None:
    data = manifest_bytes(MANIFEST)
    mutated = data[:position] + insert + data[position + num_cut :]
    try:
        manifest = parse_manifest(mutated)
    except ObjectError:
        return
    assert manifest_bytes(manifest) == mutated


def _with_windows(spec: RunSpec, num_windows: int, page_tokens: int) -> RunSpec:
    return replace(
        spec,
        schedule=replace(spec.schedule, num_windows=num_windows),
        data=replace(spec.data, page_tokens=page_tokens),
    )


@pytest.mark.parametrize(
    ("num_windows", "page_tokens"), [(1, 2), (24, 64), (504, 64), (504, 700_000), (20_000, 2048)]
)
def test_the_limit_is_above_the_manifest_of_all_assigned_pages_and_close(
    num_windows: int, page_tokens: int
) -> None:
    """Of shards as `build_dataset` cuts them; a short run may have a thousand shards."""
    spec = _with_windows(
        parse_spec(SPEC_FILE.read_text(encoding="ascii")), num_windows, page_tokens
    )
    pages_per_shard = SHARD_TOKENS // page_tokens
    pages = 256 * num_windows * spec.training.pages_per_window
    num_shards = max(1024, -(-pages // pages_per_shard))
    limit = manifest_limit_bytes(spec)
    if num_shards > 100_000:
        assert limit <= MAX_MANIFEST_BYTES
        return
    shards = tuple(
        Shard(sha256=f"{n:064x}", num_tokens=pages_per_shard * page_tokens)
        for n in range(num_shards)
    )
    manifest = Manifest(
        tokenizer="t" * 128, vocab_size=65_536, page_tokens=page_tokens, shards=shards,
        held_out=shards[0],
    )  # fmt: skip
    largest = len(manifest_bytes(manifest))
    assert largest <= limit <= 1.5 * largest


def test_a_longer_manifest_is_refused_unread() -> None:
    with pytest.raises(ObjectError, match="at most"):
        parse_manifest(bytes(MAX_MANIFEST_BYTES + 1))
