"""Admission of a payload to a step: the checks of every node on the same bytes.

Pure and deterministic: all nodes refuse the same bytes. So a bad payload in an accepted set
changes no model and stops no node.
"""

from template.errors import PayloadError
from template.protocol.payload import Payload, PayloadFormat, decode_payload, payload_digest
from template.protocol.root import Member


def open_payload(
    data: bytes,
    member: Member,
    window: int,
    form: PayloadFormat,
    max_staleness: int,
    *,
    oldest_base: int = 0,
) -> Payload:
    """The payload of `member` for `window`; PayloadError with a reason if any check fails.

    Checks the digest on chain, the frame, the window, the hotkey and the staleness (in windows).
    `oldest_base`: first window under the window's spec: a page list of the spec before is not
    trained under this one.
    """
    if payload_digest(data) != member.digest:
        raise PayloadError("digest", "the bytes differ from the digest on chain")
    payload = decode_payload(data, form)
    header = payload.header
    if header.window != window:
        raise PayloadError("window", f"made for window {header.window}, not {window}")
    if header.public_key != member.public_key:
        raise PayloadError("hotkey", "made by another hotkey")
    if header.window - header.base_window > max_staleness:
        raise PayloadError("stale", f"base window {header.base_window} is too old for {window}")
    if header.base_window < oldest_base:
        raise PayloadError(
            "stale", f"base window {header.base_window} is of the spec before window {oldest_base}"
        )
    return payload
