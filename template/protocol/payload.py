"""The payload frame: a miner's pseudo-gradient of a window, as bytes.

Header: magic "TESSERA" and a version byte (8 bytes), run id (16), window (u32), base
window (u32), pages consumed (u32), hotkey's public key (32); then the tensors' sections in
ascending order of their names. Integers are little endian. The length follows from the
model alone; the digest committed on chain by the hotkey is the frame's signature.

`decode_payload` is the only door for peers' bytes: either a payload valid in full, or
PayloadError. The bytes choose neither dtypes nor shapes nor lengths.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from compression import (
    CodecError,
    Plan,
    SparseTensor,
    body_bytes,
    check,
    decode,
    encode,
    encode_with_feedback,
    make_plan,
)
from template.errors import PayloadError

MAGIC = b"TESSERA"
VERSION = 1
_HEADER = struct.Struct("<7sB16sIII32s")


@dataclass(frozen=True, kw_only=True)
class PayloadFormat:
    """Layout of a run's payloads: `shapes` is name -> shape of every trained tensor."""

    run_id: bytes
    shapes: Mapping[str, tuple[int, ...]]
    top_k: int

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names in the order of the frame, of norms and of digests."""
        return tuple(sorted(self.shapes))

    @property
    def num_bytes(self) -> int:
        """Exact length of every payload of the run."""
        return _HEADER.size + body_bytes(self.shapes, self.top_k)

    @cached_property
    def plan(self) -> Plan:
        """Offsets of all chunks in a frame's body, computed on first use."""
        return make_plan(self.shapes, self.top_k)


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadHeader:
    """`base_window`: the miner started from the parameters of this window. `pages_consumed`: the
    miner trained on so many of the pages assigned for `base_window`, from the front of the list.
    """

    window: int
    base_window: int
    pages_consumed: int
    public_key: bytes

    @property
    def staleness(self) -> int:
        return self.window - self.base_window


@dataclass(frozen=True, kw_only=True, slots=True)
class Payload:
    """A valid payload, kept encoded: about a hundredth of the decoded size.

    `norms`: exact Euclidean norm of each tensor (see `SparseTensor`). Only `decode_payload`
    creates payloads.
    """

    header: PayloadHeader
    body: memoryview
    norms: Mapping[str, float]
    plan: Plan

    @property
    def tensors(self) -> Mapping[str, SparseTensor]:
        """The tensors by name, sparse: decoded anew at every call."""
        return decode(self.body, self.plan).tensors


class Frame(bytes):
    """The bytes of a frame, hashed once at most: bytes never change.

    A validator opens a payload, names it, uploads it, keeps it and opens it again for the step.
    """

    _digest: bytes | None = None

    @classmethod
    def of(cls, data: bytes) -> "Frame":
        """The same bytes; a frame stays itself."""
        return data if isinstance(data, cls) else cls(data)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the bytes."""
        if self._digest is None:
            self._digest = hashlib.sha256(self).digest()
        return self._digest


def payload_digest(data: bytes) -> bytes:
    """SHA-256 of a frame: the digest on chain and in the object's key."""
    return data.digest if isinstance(data, Frame) else hashlib.sha256(data).digest()


def encode_payload(
    header: PayloadHeader, tensors: Mapping[str, Tensor], form: PayloadFormat
) -> tuple[bytes, dict[str, SparseTensor]]:
    """The frame of dense float32 tensors, and the decoded tensors. ValueError on NaN or Inf."""
    body = encode(tensors, form.plan)
    return _pack_header(header, form) + body, dict(decode(body, form.plan).tensors)


def encode_payload_with_feedback(
    header: PayloadHeader,
    deltas: Mapping[str, Tensor],
    residual: Mapping[str, Tensor],
    form: PayloadFormat,
    decay: float,
) -> bytes:
    """The frame of decay * residual + delta.

    `residual` is updated in place to the part left out of the frame. ValueError on NaN or Inf;
    `residual` is then invalid and must be discarded.
    """
    return frame_of(header, encode_with_feedback(deltas, residual, form.plan, decay), form)


def frame_of(header: PayloadHeader, body: bytes, form: PayloadFormat) -> bytes:
    """The frame with this body."""
    return _pack_header(header, form) + body


def _pack_header(header: PayloadHeader, form: PayloadFormat) -> bytes:
    return _HEADER.pack(
        MAGIC,
        VERSION,
        form.run_id,
        header.window,
        header.base_window,
        header.pages_consumed,
        header.public_key,
    )


def decode_payload(data: bytes, form: PayloadFormat) -> Payload:
    """A payload valid in full, or PayloadError(reason). Pure.

    Memory: half a kilobyte per 256 chunks and a few kilobytes per tensor and thread, for any
    bytes. The payload refers to `data` without a copy.
    """
    # First, so that all later reads stay within the frame.
    if len(data) != form.num_bytes:
        raise PayloadError("length", f"{len(data)} bytes, not {form.num_bytes}")
    header, plan = _decode_header(data, form), form.plan
    body = memoryview(data)[_HEADER.size :]
    try:
        norms = check(body, plan)
    except CodecError as error:
        raise PayloadError(error.reason, str(error)) from error
    return Payload(header=header, body=body, norms=norms, plan=plan)


def _decode_header(data: bytes, form: PayloadFormat) -> PayloadHeader:
    magic, version, run_id, window, base, pages, public_key = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise PayloadError("magic", "not a payload frame")
    if version != VERSION:
        raise PayloadError("version", f"{version}; this node reads {VERSION}")
    if run_id != form.run_id:
        raise PayloadError("run", f"made for run {run_id.hex()}, not {form.run_id.hex()}")
    if base > window:
        raise PayloadError("base", f"base window {base} lies after window {window}")
    return PayloadHeader(
        window=window, base_window=base, pages_consumed=pages, public_key=public_key
    )
