"""Cuts the bytes of a commitment into raw fields of the chain, and joins the fields again.

Pure. `template.protocol.record` gives the bytes their meaning. Limits: subtensor
`pallets/commitments/src/types.rs`, where a raw field of N bytes is the variant `RawN`,
N <= 128, and a commitment holds at most 3 fields.
"""

from collections.abc import Sequence
from typing import Any

MAX_FIELD_BYTES = 128
MAX_FIELDS = 3
MAX_COMMITMENT_BYTES = MAX_FIELD_BYTES * MAX_FIELDS


def split_into_fields(data: bytes) -> list[dict[str, str]]:
    """Cut bytes into the fields of a `set_commitment` call, each {"RawN": 0x-hex}.

    Raises ValueError unless there are 1 to 384 bytes.
    """
    if not 1 <= len(data) <= MAX_COMMITMENT_BYTES:
        raise ValueError(f"a commitment holds 1 to {MAX_COMMITMENT_BYTES} bytes, not {len(data)}")
    parts = [data[i : i + MAX_FIELD_BYTES] for i in range(0, len(data), MAX_FIELD_BYTES)]
    return [{f"Raw{len(part)}": "0x" + part.hex()} for part in parts]


def join_fields(fields: Sequence[Any]) -> bytes | None:
    """The bytes of all raw fields joined; None if any field is of another kind.

    `fields` are decoded field variants of one commitment, {"RawN": 0x-hex}; the codec
    gives an empty raw field as {"Raw0": []}. Hashes, timelocked data and large data are fields
    of commitments for purposes outside this project.
    """
    parts = [_raw_bytes(field) for field in fields]
    if any(part is None for part in parts):
        return None
    return b"".join(part for part in parts if part is not None)


def _raw_bytes(field: Any) -> bytes | None:
    if not isinstance(field, dict) or len(field) != 1:
        return None
    ((variant, value),) = field.items()
    if variant == "Raw0":
        return b""
    if not variant.startswith("Raw") or not isinstance(value, str):
        return None
    data = bytes.fromhex(value.removeprefix("0x"))
    return data if variant == f"Raw{len(data)}" else None
