"""Commitment fields: every byte survives, and foreign fields are not taken for ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from template.chain.commitment import MAX_COMMITMENT_BYTES, join_fields, split_into_fields


@given(st.binary(min_size=1, max_size=MAX_COMMITMENT_BYTES))
def test_any_bytes_survive(data: bytes):
    assert join_fields(split_into_fields(data)) == data


@pytest.mark.parametrize(
    ("num_bytes", "variants"),
    [
        (1, ["Raw1"]),
        (128, ["Raw128"]),
        (129, ["Raw128", "Raw1"]),
        (256, ["Raw128", "Raw128"]),
        (384, ["Raw128", "Raw128", "Raw128"]),
    ],
)
def test_fields_are_filled_in_order(num_bytes: int, variants: list[str]):
    data = bytes(i % 251 for i in range(num_bytes))
    fields = split_into_fields(data)
    assert [next(iter(field)) for field in fields] == variants
    assert fields[0][variants[0]] == "0x" + data[:128].hex()


@pytest.mark.parametrize("num_bytes", [0, 385])
def test_what_does_not_fit_is_refused(num_bytes: int):
    with pytest.raises(ValueError, match="1 to 384 bytes"):
        split_into_fields(bytes(num_bytes))


@pytest.mark.parametrize(
    "fields",
    [
        ["None"],
        [{"Sha256": "0x" + "00" * 32}],
        [{"BigRaw": "0x00"}],
        [{"TimelockEncrypted": {"encrypted": "0x00", "reveal_round": 1}}],
        [{"Raw2": "0x0001"}, {"Sha256": "0x" + "00" * 32}],
        [{"Raw2": "0x00"}],
        [{"Raw2": [0, 1]}],
        [{"Raw1": "0x00", "Raw2": "0x0000"}],
        [None],
    ],
)
def test_other_kinds_are_not_ours(fields: list):
    assert join_fields(fields) is None


def test_empty_fields_are_empty_bytes():
    assert join_fields([]) == b""
    assert join_fields([{"Raw0": []}, {"Raw1": "0xff"}]) == b"\xff"
