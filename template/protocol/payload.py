"""The payload frame: one miner's pseudo-gradient of one window, as bytes.

Header: magic "TESSERA" and a version byte (8 bytes), run id (16), window (u32), base
window (u32), pages consumed (u32), hotkey's public key (32); then the tensors' sections in
ascending order of their names. Integers are little endian. The length follows from the
model alone; the digest that the hotkey commits on chain is the frame's signature.

`decode_payload` is the only door for peers' bytes: it returns a payload that is valid in
full or raises PayloadError. Nothing in the bytes chooses a dtype, a shape or a length.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from compression import CodecError, SparseTensor, decode_tensor, encode_tensor, tensor_layout
from compression.chunking import chunk_groups
from compression.codec import section_length
from template.errors import PayloadError

MAGIC = b"TESSERA"
VERSION = 1
_HEADER = struct.Struct("<7sB16sIII32s")


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadFormat:
    """What a run's payloads look like: `shapes` is name -> shape of every trained tensor."""

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
        sections = (section_length(chunk_groups(s, self.top_k)) for s in self.shapes.values())
        return _HEADER.size + sum(sections)


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadHeader:
    """`base_window`: whose parameters the miner started from; `pages_consumed`: how many
    of the pages assigned to it for that window it trained on, from the front of the list.
    """

    window: int
    base_window: int
    pages_consumed: int
    public_key: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Payload:
    """A valid payload: tensors by name, sparse, in full."""

    header: PayloadHeader
    tensors: Mapping[str, SparseTensor]


def body_digest(data: bytes) -> bytes:
    """SHA-256 of a frame's sections alone: equal for two frames that say the same."""
    return hashlib.sha256(data[_HEADER.size :]).digest()


def payload_digest(data: bytes) -> bytes:
    """SHA-256 of a frame: what stands on chain, and the object's key."""
    return hashlib.sha256(data).digest()


def encode_payload(
    header: PayloadHeader, tensors: Mapping[str, Tensor], form: PayloadFormat
) -> tuple[bytes, dict[str, SparseTensor]]:
    """The frame of dense float32 tensors, and what it decodes to. ValueError on NaN or Inf."""
    parts = [
        _HEADER.pack(
            MAGIC,
            VERSION,
            form.run_id,
            header.window,
            header.base_window,
            header.pages_consumed,
            header.public_key,
        )
    ]
    sent = {}
    for name in form.names:
        layout = tensor_layout(form.shapes[name], form.top_k)
        section, sent[name] = encode_tensor(tensors[name], layout)
        parts.append(section)
    return b"".join(parts), sent


def decode_payload(data: bytes, form: PayloadFormat) -> Payload:
    """A payload valid in full, or PayloadError(reason). Pure; memory O(kept values)."""
    if len(data) != form.num_bytes:
        raise PayloadError("length", f"{len(data)} bytes, not {form.num_bytes}")
    header = _decode_header(data, form)
    tensors, position = {}, _HEADER.size
    for name in form.names:
        layout = tensor_layout(form.shapes[name], form.top_k)
        end = position + section_length(layout.groups)
        try:
            tensors[name] = decode_tensor(data[position:end], layout)
        except CodecError as error:
            raise PayloadError(error.reason, f"{name}: {error}") from error
        position = end
    return Payload(header=header, tensors=tensors)


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
