"""Object keys: the buckets' naming rules, distinct keys for distinct objects."""

import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template.protocol.keys import (
    blob_key,
    bucket_name,
    checkpoint_manifest_key,
    notice_key,
    payload_key,
    verdict_key,
)

RUN = bytes(range(16))
DIGEST = bytes(range(32))
_S3_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_FORBIDDEN_PREFIXES = ("xn--", "sthree-", "amzn-s3-demo-")
_FORBIDDEN_SUFFIXES = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")

public_keys = st.binary(min_size=32, max_size=32)


@settings(deadline=None)
@given(public_keys)
def test_bucket_names_are_valid_on_s3_and_r2(public_key: bytes) -> None:
    name = bucket_name(public_key)
    assert len(name) == 60
    assert _S3_BUCKET.fullmatch(name)
    assert not name.startswith(_FORBIDDEN_PREFIXES)
    assert not name.endswith(_FORBIDDEN_SUFFIXES)


@settings(deadline=None)
@given(public_keys, public_keys)
def test_bucket_names_differ_where_keys_do(one: bytes, other: bytes) -> None:
    assert (bucket_name(one) == bucket_name(other)) == (one == other)


def test_golden_bucket_name() -> None:
    """52 digits of base 32, most significant bit first, for the 256 bits of the key."""
    alice = bytes.fromhex("d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d")
    assert bucket_name(alice) == "tessera-2q2zhryv7xjryyiudk6qjkm722bczbkyqvgm3y42k2copjlnuj6q"
    digits = [int.from_bytes(alice, "big") << 4 >> 5 * i & 31 for i in reversed(range(52))]
    assert bucket_name(alice)[8:] == "".join("abcdefghijklmnopqrstuvwxyz234567"[d] for d in digits)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_length_has_no_bucket(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        bucket_name(bytes(size))


def test_golden_object_keys() -> None:
    run = "000102030405060708090a0b0c0d0e0f"
    assert payload_key(RUN, 12, DIGEST) == f"{run}/payload/00000012/{DIGEST.hex()}"
    assert checkpoint_manifest_key(RUN, 12) == f"{run}/checkpoint/00000012/manifest.json"
    assert verdict_key(RUN, 123456789) == f"{run}/verdict/123456789.jsonl"
    assert blob_key(DIGEST) == f"blob/{DIGEST.hex()}"
    assert notice_key() == "notice/version.json"


def test_keys_differ_in_every_part_and_sort_by_window() -> None:
    other_run, other_digest = hashlib.md5(RUN).digest(), hashlib.sha256(DIGEST).digest()
    keys = [
        payload_key(run, window, digest)
        for run in (RUN, other_run)
        for window in range(12)
        for digest in (DIGEST, other_digest)
    ]
    assert len(set(keys)) == len(keys)
    of_one = [verdict_key(RUN, window) for window in (9, 10, 99, 100)]
    assert of_one == sorted(of_one)
