"""The chain record: exact sizes, round trip, and any bytes a hotkey may commit."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template.errors import RecordError
from template.protocol.record import (
    MAX_RECORD_BYTES,
    R2_RECORD_BYTES,
    Access,
    AccessKind,
    PayloadCommitment,
    Record,
    Support,
    Vote,
    decode_record,
    encode_record,
)

R2 = Access(
    kind=AccessKind.R2, account="0a" * 16, access_key_id="b1" * 16, secret_access_key="c2" * 32
)
S3 = Access(
    kind=AccessKind.S3,
    account="http://127.0.0.1:9000",
    access_key_id="reader",
    secret_access_key="not a secret",
)
PAYLOAD = PayloadCommitment(window=7, digest=bytes(range(32)))
VOTE = Vote(
    window=6,
    root=b"r" * 16,
    sample_digest=b"s" * 8,
    uids=frozenset({0, 9, 255}),
    missing=frozenset({1, 254}),
    log_digest=b"l" * 16,
    pace=-1,
)
RUN = bytes(range(200, 216))
SUPPORT = Support(window=9, spec=bytes(range(50, 66)))
FULL = replace(Record.of(RUN, access=R2, vote=VOTE, support=SUPPORT), offer=bytes(range(100, 116)))

windows = st.integers(0, 2**32 - 1)
strings = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=72)


def hex_digits(num_bytes: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=num_bytes, max_size=num_bytes).map(bytes.hex)


accesses = st.one_of(
    st.builds(
        Access,
        kind=st.sampled_from([AccessKind.R2, AccessKind.R2_EU, AccessKind.R2_FEDRAMP]),
        account=hex_digits(16),
        access_key_id=hex_digits(16),
        secret_access_key=hex_digits(32),
    ),
    st.builds(
        Access,
        kind=st.just(AccessKind.S3),
        account=strings,
        access_key_id=strings,
        secret_access_key=strings,
    ),
)
payloads = st.builds(PayloadCommitment, window=windows, digest=st.binary(min_size=32, max_size=32))
votes = st.builds(
    Vote,
    window=windows,
    root=st.binary(min_size=16, max_size=16),
    sample_digest=st.binary(min_size=8, max_size=8),
    uids=st.frozensets(st.integers(0, 255)),
    missing=st.frozensets(st.integers(0, 255)),
    log_digest=st.binary(min_size=16, max_size=16),
    pace=st.sampled_from([-1, 0, 1]),
)
run_ids = st.binary(min_size=16, max_size=16)
supports = st.builds(Support, window=windows, spec=run_ids)
records = st.builds(
    replace,
    st.builds(Record.of, run_ids, access=st.none() | accesses, payload=st.none() | payloads)
    | st.builds(
        Record.of, run_ids, access=st.none() | accesses, vote=votes, support=st.none() | supports
    ),
    offer=st.none() | run_ids,
)


@settings(deadline=None)
@given(records)
def test_any_record_round_trips(record: Record) -> None:
    data = encode_record(record)
    assert decode_record(data) == record
    assert len(data) <= MAX_RECORD_BYTES
    if record.access is None or record.access.kind is not AccessKind.S3:
        assert len(data) <= R2_RECORD_BYTES


@pytest.mark.parametrize("access", [None, R2, S3], ids=["none", "r2", "s3"])
@pytest.mark.parametrize(
    ("payload", "vote"), [(None, None), (PAYLOAD, None), (None, VOTE)], ids=["", "payload", "vote"]
)
def test_every_subset_of_sections(
    access: Access | None, payload: PayloadCommitment | None, vote: Vote | None
) -> None:
    record = Record.of(RUN, access=access, payload=payload, vote=vote)
    access_bytes = {None: 0, R2: 65, S3: 1 + (1 + 21) + (1 + 6) + (1 + 12)}[access]
    data = encode_record(record)
    said = (payload is not None) * (12 + 36) + (vote is not None) * (12 + 109)
    assert len(data) == 1 + access_bytes + said
    assert decode_record(data) == record


def test_a_hotkey_mines_or_votes() -> None:
    with pytest.raises(RecordError, match="mine and validate with a hotkey each"):
        Record.of(RUN, access=R2, payload=PAYLOAD, vote=VOTE)


def test_a_full_record_on_r2_has_224_bytes() -> None:
    assert len(encode_record(FULL)) == R2_RECORD_BYTES == 224


def test_a_full_record_elsewhere_has_at_most_379_bytes() -> None:
    longest = Access(
        kind=AccessKind.S3, account="u" * 72, access_key_id="k" * 72, secret_access_key="s" * 72
    )
    assert len(encode_record(replace(FULL, access=longest))) == 379 <= MAX_RECORD_BYTES


def test_what_belongs_to_another_run_is_left_out() -> None:
    """Access and offer are of the hotkey, not of a run."""
    assert FULL.within(RUN) is FULL
    assert FULL.within(RUN[:8] + bytes(8)) is FULL, "a record has room for 8 bytes of the run id"
    assert FULL.within(bytes(16)) == Record(access=R2, offer=FULL.offer)
    access = Record.of(RUN, access=R2)
    assert access == Record(access=R2) == access.within(bytes(16))


@pytest.mark.parametrize("run", [b"", bytes(7), bytes(9)])
def test_a_vote_or_payload_without_a_run_is_refused(run: bytes) -> None:
    for section in ({"payload": PAYLOAD}, {"vote": VOTE}):
        with pytest.raises(RecordError, match="run of"):
            Record(run=run, **section)
    with pytest.raises(RecordError, match="run of"):
        Record(access=R2, run=bytes(8))


def test_golden_bytes() -> None:
    """Where each field stands on the wire; a change makes every node deaf to the others."""
    expected = (
        "4d" + "03" + "c8c9cacbcccdcecf" + "e8030000"
        + "00" + "0a" * 16 + "b1" * 16 + "c2" * 32
        + "06000000" + "72" * 16 + "73" * 8
        + "0102" + "00" * 29 + "80"
        + "02" + "00" * 30 + "40"
        + "6c" * 16
        + "ff"
        + bytes(range(100, 116)).hex()
        + "09000000" + bytes(range(50, 66)).hex()
    )  # fmt: skip
    assert encode_record(replace(FULL, software=1000)).hex() == expected
    mined = "42" + "c8c9cacbcccdcecf" + "e8030000" + "07000000" + bytes(range(32)).hex()
    assert encode_record(replace(Record.of(RUN, payload=PAYLOAD), software=1000)).hex() == mined
    assert encode_record(Record(offer=RUN)).hex() == "4801" + RUN.hex()


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        (AccessKind.R2, "https://{}.r2.cloudflarestorage.com"),
        (AccessKind.R2_EU, "https://{}.eu.r2.cloudflarestorage.com"),
        (AccessKind.R2_FEDRAMP, "https://{}.fedramp.r2.cloudflarestorage.com"),
    ],
)
def test_endpoint_of_r2_follows_from_the_account(kind: AccessKind, url: str) -> None:
    assert replace(R2, kind=kind).endpoint_url == url.format("0a" * 16)


def test_endpoint_of_s3_is_stated() -> None:
    assert S3.endpoint_url == "http://127.0.0.1:9000"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_are_one_record(data: bytes) -> None:
    try:
        record = decode_record(data)
    except RecordError:
        return
    assert encode_record(record) == data


@settings(max_examples=200, deadline=None)
@given(records, st.data())
def test_a_damaged_record_is_refused_or_is_another_record(
    record: Record, data: st.DataObject
) -> None:
    """Unlike plain random bytes these get past the version and into every section."""
    damaged = bytearray(encode_record(record))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    for raw in (bytes(damaged), bytes(damaged[:cut])):
        try:
            decoded = decode_record(raw)
        except RecordError:
            continue
        assert encode_record(decoded) == raw
        assert decoded != record


@pytest.mark.parametrize("data", [encode_record(FULL), encode_record(replace(FULL, access=S3))])
def test_every_truncation_and_extension_is_refused(data: bytes) -> None:
    for size in range(len(data)):
        with pytest.raises(RecordError):
            decode_record(data[:size])
    with pytest.raises(RecordError, match="1 bytes after"):
        decode_record(data + b"\0")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\x07", "version 0"),
        (b"\x17", "version 1"),
        (b"\x37", "version 3"),
        (b"\x41", "need at least"),
        (b"\x42" + bytes(11), "need at least 13"),
        (b"\x48", "need at least 2"),
        (b"\x48\x00", "further sections 0x00"),
        (b"\x48\x04" + bytes(16), "further sections 0x04"),
        (b"\x48\x01" + bytes(15), "need at least 18"),
        (b"\x48\x02" + bytes(20), "validators alone decide on specs"),
        (b"\x41\x04", "access kind 4"),
        (b"\x41\xff", "access kind 255"),
        (b"\x41\x03\x00\x01a\x01a", "empty, too long or not printable"),
        (b"\x41\x03\x49" + b"a" * 73 + b"\x01a\x01a", "empty, too long or not printable"),
        (b"\x41\x03\x01\n\x01a\x01a", "empty, too long or not printable"),
        (b"\x41\x03\x01\xe9\x01a\x01a", "empty, too long or not printable"),
        (b"\x41\x03\xff", "need at least"),
        (b"\x46" + bytes(12 + 36 + 109), "mine and validate with a hotkey each"),
    ],
)
def test_reasons_of_refusal(data: bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        decode_record(data)


@pytest.mark.parametrize("offer", [b"", bytes(15), bytes(17)])
def test_an_offer_is_a_run_id(offer: bytes) -> None:
    with pytest.raises(RecordError, match=f"offered run: {len(offer)} bytes"):
        encode_record(Record(offer=offer))


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (R2, {"account": "0a" * 15}, "account or endpoint: 15 bytes"),
        (R2, {"access_key_id": "zz" * 16}, "read access key id: not hex"),
        (R2, {"secret_access_key": "c2" * 33}, "read secret: 33 bytes"),
        (S3, {"account": ""}, "account or endpoint"),
        (S3, {"access_key_id": "k" * 73}, "read access key id"),
        (S3, {"secret_access_key": "tab\t"}, "read secret"),
        (S3, {"account": "http://h\u00e9"}, "account or endpoint"),
        (PAYLOAD, {"digest": bytes(31)}, "payload digest: 31 bytes"),
        (PAYLOAD, {"window": -1}, "window -1"),
        (PAYLOAD, {"window": 2**32}, "window 4294967296"),
        (VOTE, {"root": bytes(32)}, "root: 32 bytes"),
        (VOTE, {"sample_digest": b""}, "sample digest: 0 bytes"),
        (VOTE, {"uids": frozenset({256})}, "uid 256"),
        (VOTE, {"uids": frozenset({-1})}, "uid -1"),
        (VOTE, {"missing": frozenset({256})}, "uid 256"),
        (VOTE, {"log_digest": bytes(32)}, "log digest: 32 bytes"),
        (VOTE, {"window": 2**32}, "window"),
    ],
)
def test_fields_that_do_not_fit_are_named(
    section: Any, changes: dict[str, Any], message: str
) -> None:
    name = {Access: "access", PayloadCommitment: "payload", Vote: "vote"}[type(section)]
    with pytest.raises(RecordError, match=message):
        encode_record(Record.of(RUN, **{name: replace(section, **changes)}))


@pytest.mark.parametrize("access", [R2, S3])
def test_refusals_do_not_quote_the_secret(access: Access) -> None:
    wrong = replace(access, secret_access_key="hunter2" * 20 + "\n")
    with pytest.raises(RecordError) as caught:
        encode_record(Record(access=wrong))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("byte", [byte for byte in range(256) if byte not in (255, 0, 1)])
def test_any_other_byte_for_the_pace_is_refused(byte: int) -> None:
    data = encode_record(Record.of(RUN, vote=VOTE))
    with pytest.raises(RecordError, match="pace"):
        decode_record(data[:-1] + bytes([byte]))


@pytest.mark.parametrize("pace", [-2, 2, 127, 300])
def test_no_other_pace_is_written(pace: int) -> None:
    with pytest.raises(RecordError, match="pace"):
        encode_record(Record.of(RUN, vote=replace(VOTE, pace=pace)))


@pytest.mark.parametrize(("pace", "byte"), [(-1, 255), (0, 0), (1, 1)])
def test_the_pace_is_the_last_byte_of_a_vote(pace: int, byte: int) -> None:
    data = encode_record(Record.of(RUN, vote=replace(VOTE, pace=pace)))
    assert data[-1] == byte
    assert decode_record(data).vote == replace(VOTE, pace=pace)
