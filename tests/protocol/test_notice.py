"""The notice of a version: what the owner signs is read back, and nothing else is."""

import json
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from template.errors import ObjectError
from template.protocol.notice import (
    KINDS,
    MAX_NOTICE_BYTES,
    VersionNotice,
    encode_notice,
    parse_notice,
    signed_message,
)
from tests.support.notices import NETUID, NOTICE, OWNER, STRANGER, signed

numbers = st.integers(0, 999)
notices = st.builds(
    lambda major, minor, patch, kind, digest: VersionNotice(
        version=f"{major}.{minor}.{patch}", kind=kind, digest=digest
    ),
    st.integers(0, 2**43),
    numbers,
    numbers,
    st.sampled_from(KINDS),
    st.binary(min_size=32, max_size=32),
)


def parse(data: bytes, netuid: int = NETUID) -> VersionNotice:
    return parse_notice(data, netuid, OWNER.verify)


@settings(max_examples=50, deadline=None)
@given(notices, st.integers(0, 65_535))
def test_what_the_owner_signs_is_read_back(notice: VersionNotice, netuid: int) -> None:
    data = signed(notice, netuid=netuid)
    assert parse(data, netuid) == notice
    assert len(data) < MAX_NOTICE_BYTES / 2


@settings(deadline=None)
@given(notices, notices, numbers, numbers)
def test_messages_differ_where_anything_differs(one, other, netuid, other_netuid) -> None:
    is_same = (one, netuid) == (other, other_netuid)
    assert (signed_message(one, netuid) == signed_message(other, other_netuid)) == is_same


@pytest.mark.parametrize(
    "changed",
    [
        replace(NOTICE, version="9.8.8"),
        replace(NOTICE, kind="tag"),
        replace(NOTICE, digest=bytes(32)),
    ],
)
def test_a_field_altered_under_the_same_signature_is_refused(changed: VersionNotice) -> None:
    stolen = OWNER.sign(signed_message(NOTICE, NETUID))
    assert parse(encode_notice(NOTICE, NETUID, lambda _: stolen)) == NOTICE
    with pytest.raises(ObjectError, match="the signature is not the owner's for subnet 1"):
        parse(encode_notice(changed, NETUID, lambda _: stolen))


@pytest.mark.parametrize(
    "data",
    [
        signed(key=STRANGER),
        signed(netuid=NETUID + 1),
        encode_notice(NOTICE, NETUID, lambda _: bytes(64)),
        encode_notice(NOTICE, NETUID, lambda message: OWNER.sign(message + b"\0")),
    ],
    ids=["stranger", "another subnet", "no signature", "another message"],
)
def test_a_signature_by_another_key_or_for_another_subnet_is_refused(data: bytes) -> None:
    with pytest.raises(ObjectError, match="the signature is not the owner's"):
        parse(data)


def other(**changes: object) -> bytes:
    return json.dumps(json.loads(signed()) | changes).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "JSONDecodeError"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        (b"null", "not an object of"),
        (b"[" * 1000, "RecursionError|JSONDecodeError"),
        (signed() + b" " * MAX_NOTICE_BYTES, "at most 1024 allowed"),
        (other(more=1), "not an object of"),
        (b'{"version": "9.8.7"}', "not an object of"),
        (other(version=9), "version is 9, not a text"),
        (other(version="9.8"), "must be MAJOR.MINOR.PATCH"),
        (other(version="9.8.07"), "leading zero"),
        (other(version="9.1000.0"), "below 1,000"),
        (other(version="9" * 30 + ".0.0"), "does not fit 64 unsigned bits"),
        (other(version="9.8.\u0667"), "must be MAJOR.MINOR.PATCH"),
        (other(version="9.8.7\x1b[2J"), "must be MAJOR.MINOR.PATCH"),
        (other(kind="Tag"), "kind is 'Tag'"),
        (other(kind=None), "kind is None"),
        (other(digest="00" * 31), "64 lower-case"),
        (other(digest=bytes(range(32)).hex().upper()), "64 lower-case"),
        (other(digest=bytes(range(32)).hex(" ")), "64 lower-case"),
        (other(digest="zz" * 32), "non-hexadecimal"),
        (other(signature="00" * 63), "128 lower-case"),
        (other(signature=[0] * 64), "signature is a value of type list"),
    ],
)
def test_what_is_no_notice_is_refused_in_printable_words(data: bytes, words: str) -> None:
    with pytest.raises(ObjectError, match=words) as caught:
        parse(data)
    assert str(caught.value).isprintable()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
rows = st.dictionaries(
    st.sampled_from(["version", "kind", "digest", "signature"]), values
) | st.builds(
    lambda field, value: json.loads(signed()) | {field: value},
    st.sampled_from(["version", "kind", "digest", "signature"]),
    values,
)


@settings(max_examples=100, deadline=None)
@example(signed())
@given(st.binary(max_size=2 * MAX_NOTICE_BYTES) | rows.map(lambda row: json.dumps(row).encode()))
def test_hostile_bytes_are_refused_or_are_the_notice(data: bytes) -> None:
    """Even with a verifier that takes every signature, only the one spelling of a notice passes."""
    asked: list[int] = []

    def takes_all(message: bytes, signature: bytes) -> bool:
        asked.append(len(message) + len(signature))
        return True

    try:
        notice = parse_notice(data, NETUID, takes_all)
    except ObjectError:
        assert asked == []
        return
    assert asked == [32 + 64]
    row = json.loads(data)
    signature = bytes.fromhex(row["signature"])
    assert json.loads(encode_notice(notice, NETUID, lambda _: signature)) == row


def test_a_notice_with_any_one_bit_flipped_is_refused() -> None:
    whole = signed()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ObjectError):
            parse(bytes(damaged))


def test_the_greater_key_is_the_newer_version_and_the_commands_name_what_to_compare() -> None:
    older, newer = replace(NOTICE, version="0.9.12"), replace(NOTICE, version="0.10.2")
    assert older.key < newer.key == 10_002
    assert newer.comparison == "sha256sum FILE.whl"
    tag = replace(newer, kind="tag").comparison
    assert tag == "git verify-tag v0.10.2 && git cat-file tag v0.10.2 | sha256sum"
