"""Commitments: kept bit for bit, bounded, charged for, and indexed while they are timelocked."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localnet.chain.extrinsics import InvalidTransaction
from localnet.chain.metadata import bytes_of, load_metadata
from localnet.chain.pallets import published
from tests.support.localnet.signing import (
    TAO,
    by_hotkey,
    commit,
    events,
    raw_field,
    set_admin,
    stake,
)


def timelocked_field(data: bytes, reveal_round: int = 9) -> dict[str, Any]:
    return {"TimelockEncrypted": {"encrypted": data, "reveal_round": reveal_round}}


def fields_of(ledger: Any, name: str, at: int | None = None) -> Any:
    state = ledger.chain.state_at(ledger.height if at is None else at)
    found = state.commitments.get("CommitmentOf", 1, ledger.wallets[name].hot)
    return None if found is None else found["info"]["fields"]


def index_of(ledger: Any) -> list[Any]:
    return published.timelocked(ledger.chain.state_at(ledger.height))


def test_a_commitment_is_kept_bit_for_bit_at_its_block(subnet: Any) -> None:
    first, second = bytes(range(128)), b"\x00\xff\xfe"
    assert commit(subnet, "alice", raw_field(first), raw_field(second), raw_field(b"x")) == "ok"
    block = subnet.height
    assert commit(subnet, "alice", raw_field(b"later")) == "ok"
    assert fields_of(subnet, "alice", block) == [
        raw_field(first),
        raw_field(second),
        raw_field(b"x"),
    ]
    assert fields_of(subnet, "alice") == [raw_field(b"later")]
    assert fields_of(subnet, "alice", block - 1) is None


@pytest.mark.parametrize(
    "field",
    [
        "None",
        {"Raw0": "0x"},
        {"Raw1": "0x00"},
        {"BlakeTwo256": "0x" + "ab" * 32},
        {"Sha256": "0x" + "00" * 32},
        {"Keccak256": "0x" + "61" * 32},
        {"ShaThree256": "0x" + "ff" * 32},
        {"BigRaw": ""},
    ],
)
def test_every_other_kind_of_field_is_kept(subnet: Any, field: Any) -> None:
    assert commit(subnet, "alice", field) == "ok"
    codec, entry = subnet.metadata.codec, subnet.metadata.entry("Commitments", "CommitmentOf")

    def encoded(fields: list[Any]) -> bytes:
        record = {"deposit": 0, "block": 0, "info": {"fields": fields}}
        return bytes(codec.encode(entry.value_type, record))

    assert encoded(fields_of(subnet, "alice")) == encoded([field])


def test_commitments_are_for_registered_hotkeys_and_three_fields(subnet: Any) -> None:
    assert commit(subnet, "dave", raw_field(b"x")) == "AccountNotAllowedCommit"
    four = [raw_field(b"x")] * 4
    assert commit(subnet, "alice", *four) == "TooManyFieldsInCommitmentInfo"
    failed = {"TimelockRevealFailed": {"encrypted": b"x", "reveal_round": 1}}
    assert commit(subnet, "alice", failed) == "TimelockRevealFailedNotAllowed"
    assert by_hotkey(subnet, "alice", "set_max_space", "Commitments", new_limit=1) == "BadOrigin"


def test_the_quota_charges_at_least_100_bytes_and_renews_each_epoch(subnet: Any) -> None:
    while subnet.get("SubnetEpochIndex", 1) == 0:
        subnet.seal()
    full = [raw_field(b"a" * 128)] * 3
    for _ in range(7):
        assert commit(subnet, "alice", *full) == "ok"  # 384 bytes each, 2688 in all
    for _ in range(4):
        assert commit(subnet, "alice", raw_field(b"a")) == "ok"  # 100 each, 3088 in all
    assert commit(subnet, "alice", raw_field(b"a")) == "SpaceLimitExceeded"
    assert commit(subnet, "bob", raw_field(b"a")) == "ok"
    epoch = subnet.get("SubnetEpochIndex", 1)
    assert epoch == 1, "the quota ran out within one epoch"
    while subnet.get("SubnetEpochIndex", 1) == epoch:
        subnet.seal()
    assert commit(subnet, "alice", *full) == "ok"


@pytest.mark.parametrize("data", [b"a" * 512, b"\xff" * 512, b"0x" + b"g" * 510])
def test_big_fields_are_charged_by_their_bytes_whatever_these_are(subnet: Any, data: bytes) -> None:
    while subnet.get("SubnetEpochIndex", 1) == 0:
        subnet.seal()
    assert commit(subnet, "alice", {"BigRaw": data}) == "ok"
    used = subnet.chain.state_at(subnet.height).commitments.get(
        "UsedSpaceOf", 1, subnet.wallets["alice"].hot
    )
    assert used["used_space"] == 512
    [field] = fields_of(subnet, "alice")
    assert bytes_of(field["BigRaw"]) == data
    for _ in range(5):
        assert commit(subnet, "alice", {"BigRaw": data}) == "ok"  # 3072 in all
    assert commit(subnet, "alice", {"BigRaw": data}) == "SpaceLimitExceeded"


def test_a_raw_field_beyond_128_bytes_has_no_encoding(subnet: Any) -> None:
    codec = subnet.metadata.codec
    with pytest.raises(ValueError, match="Raw129"):
        commit(subnet, "alice", raw_field(b"a" * 129))
    with pytest.raises(ValueError, match="expected 128 bytes"):
        commit(subnet, "alice", {"Raw128": "0x" + "00" * 129})
    info = {"fields": [raw_field(b"a" * 128)]}
    composed = codec.compose_call("Commitments", "set_commitment", {"netuid": 1, "info": info})
    call = bytes(composed.data)
    tag_at = call.index(b"\x81" + b"a" * 128)
    for tag in (138, 255):  # past the last field type, where a longer RawN would be
        forged = call[:tag_at] + bytes([tag]) + call[tag_at + 1 :]
        with pytest.raises(ValueError, match="variant|index"):
            codec.decode_call(forged)


@pytest.mark.parametrize(
    "field", [{"BigRaw": b"a" * 513}, timelocked_field(b"\xff" * 1025), {"BigRaw": b"\xff" * 513}]
)
def test_what_the_runtimes_types_have_no_room_for_is_no_extrinsic(subnet: Any, field: Any) -> None:
    with pytest.raises(InvalidTransaction, match="Could not decode"):
        commit(subnet, "alice", field)
    assert commit(subnet, "alice", raw_field(b"x")) == "ok", "nothing was left in the pool"


def test_timelocked_fields_are_kept_and_indexed_until_replaced(subnet: Any) -> None:
    alice, bob = subnet.wallets["alice"].hot, subnet.wallets["bob"].hot
    secret = b"\x00\xff" * 512
    assert commit(subnet, "bob", timelocked_field(b"\xfe", 5)) == "ok"
    assert commit(subnet, "alice", raw_field(b"x"), timelocked_field(secret, 7)) == "ok"
    attributes = {"netuid": 1, "who": alice, "reveal_round": 7}
    assert events(subnet, "Commitments") == [("TimelockCommitment", attributes)]
    locked = {"encrypted": "0x" + secret.hex(), "reveal_round": 7}
    assert fields_of(subnet, "alice") == [raw_field(b"x"), {"TimelockEncrypted": locked}]
    keys = {alice: subnet.wallets["alice"].hotkey, bob: subnet.wallets["bob"].hotkey}
    in_order = sorted(keys, key=lambda address: bytes(keys[address].public_key))
    assert index_of(subnet) == [(1, address) for address in in_order]
    assert commit(subnet, "alice", timelocked_field(b"\xfd", 8)) == "ok"
    assert index_of(subnet) == [(1, address) for address in in_order]
    assert commit(subnet, "alice", raw_field(b"open")) == "ok"
    assert events(subnet, "Commitments") == [("Commitment", {"netuid": 1, "who": alice})]
    assert index_of(subnet) == [(1, bob)]


def test_a_bonds_reset_drops_the_bonds_to_the_hotkey_if_the_owner_allows_it(subnet: Any) -> None:
    row: dict[str, Any] = {"netuid": 1, "dests": [1, 3], "weights": [1, 1], "version_key": 0}
    for name in ("owner", "bob"):
        assert stake(subnet, name, 100 * TAO) == "ok"
    subnet.seal(20)
    for name in ("owner", "bob"):
        assert by_hotkey(subnet, name, "set_weights", **row) == "ok"
    index = subnet.get("SubnetEpochIndex", 1)
    while subnet.get("SubnetEpochIndex", 1) == index:
        subnet.seal()
    before = {uid: dict(subnet.get("Bonds", 1, uid)) for uid in (0, 2)}
    assert before[0].keys() == before[2].keys() == {1, 3}
    assert commit(subnet, "alice", "ResetBondsFlag") == "ok"
    assert {uid: dict(subnet.get("Bonds", 1, uid)) for uid in before} == before, "off by default"
    state = subnet.chain.state_at(subnet.height)
    dated = state.commitments.get("LastBondsReset", 1, subnet.wallets["alice"].hot)
    assert dated == subnet.height
    assert set_admin(subnet, "bonds_reset_enabled", enabled=True) == "ok"
    assert commit(subnet, "alice", raw_field(b"x"), "ResetBondsFlag") == "ok"
    kept = {uid: {3: row[3]} for uid, row in before.items()}
    assert {uid: dict(subnet.get("Bonds", 1, uid)) for uid in before} == kept


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=24), st.text(max_size=12).map(str.encode)))
def test_bytes_survive_the_codecs_guess_that_they_are_text(data: bytes) -> None:
    codec = load_metadata().codec
    decoded = codec.decode("Vec<u8>", bytes(codec.encode("Vec<u8>", data)))
    assert bytes_of(decoded) == data


@pytest.mark.parametrize("text", ["0x4142", "0x", "0xzz", "0x123", "0xTessera", ""])
def test_text_that_looks_like_hex_is_text(text: str) -> None:
    assert bytes_of(text) == text.encode()
