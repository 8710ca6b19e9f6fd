"""Which payloads may enter a step: the checks that every node makes on the same bytes.

Pure and deterministic: bytes that one node refuses here, all refuse, so that a payload
that was named by mistake shifts nobody's model and stops nobody.
"""

from template.errors import PayloadError
from template.protocol.payload import Payload, PayloadFormat, decode_payload, payload_digest
from template.protocol.root import Member


def open_payload(
    data: bytes, member: Member, window: int, form: PayloadFormat, max_staleness: int
) -> Payload:
    """The member's payload of a window, or PayloadError with the reason."""
    if payload_digest(data) != member.digest:
        raise PayloadError("digest", "not the bytes that were committed")
    payload = decode_payload(data, form)
    header = payload.header
    if header.window != window:
        raise PayloadError("window", f"made for window {header.window}, not {window}")
    if header.public_key != member.public_key:
        raise PayloadError("hotkey", "made by another hotkey")
    if header.window - header.base_window > max_staleness:
        raise PayloadError("stale", f"base window {header.base_window} is too old for {window}")
    return payload
