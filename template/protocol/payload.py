"""The payload frame: a miner's pseudo-gradient of a window, as bytes.

Header: magic "TESSERA" and a version byte (8 bytes), run id (16), window (u32), base window (u32),
pages consumed (u32), width (u16), part and parts of the model (u16 each), hotkey's public key (32);
then the sections of the part's tensors in ascending order of their names. Integers are little
endian. The length follows from model and part alone; the digest committed on chain by the hotkey is
the frame's signature.

`decode_payload` is the only door for peers' bytes: either a payload valid in full, or
PayloadError. The bytes choose neither dtypes nor shapes nor lengths.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    held_plan,
    make_plan,
    short_bytes,
    widen,
)
from template.errors import PayloadError
from template.protocol.ranges import WHOLE, BlockRange, cut_model, num_elements

MAGIC = b"TESSERA"
VERSION = 2
_HEADER = struct.Struct("<7sB16sIIIHHH32s")
MAX_PARTS_KEPT = 64
"""Parts whose plans a format keeps: headers of strangers choose among thousands."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a model: `names` of its tensors; `plan` of bodies of the whole model, read at these
    alone; `num_bytes` of a payload; `share` of the model's parameters.
    """

    names: frozenset[str]
    plan: Plan
    num_bytes: int
    share: float


@dataclass(frozen=True, kw_only=True)
class PayloadFormat:
    """Layout of a run's payloads: `shapes` is name -> shape of every trained tensor.

    `max_width`, `max_parts`: bounds of the run spec on the fields of a header.
    """

    run_id: bytes
    shapes: Mapping[str, tuple[int, ...]]
    top_k: int
    max_width: int = 1
    max_parts: int = 1
    _parts: dict[BlockRange, Part] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names in the order of the frame, of norms and of digests."""
        return tuple(sorted(self.shapes))

    @property
    def num_bytes(self) -> int:
        """Exact length of a payload of the whole model; no other payload is longer."""
        return _HEADER.size + body_bytes(self.shapes, self.top_k)

    @cached_property
    def plan(self) -> Plan:
        """Offsets of all chunks in a body of the whole model, computed on first use."""
        return make_plan(self.shapes, self.top_k)

    def part(self, blocks: BlockRange) -> Part:
        """The part of the model. PayloadError if the run does not cut the model so."""
        found = self._parts.get(blocks)
        if found is None:
            found = self._part_of(self._shapes_of(blocks))
            while len(self._parts) >= MAX_PARTS_KEPT:
                self._parts.pop(next(iter(self._parts)), None)
            self._parts[blocks] = found
        return found

    def short_plan(self, blocks: BlockRange) -> Plan:
        """The plan of a part's own bodies, as they are sent. PayloadError as of `part`."""
        return self.plan if blocks.is_whole else make_plan(self._shapes_of(blocks), self.top_k)

    def _shapes_of(self, blocks: BlockRange) -> Mapping[str, tuple[int, ...]]:
        if not 1 <= blocks.parts <= self.max_parts:
            detail = f"the model cut into {blocks.parts} parts; this run allows {self.max_parts}"
            raise PayloadError("range", detail)
        if blocks.is_whole:
            return self.shapes
        try:
            return cut_model(self.shapes, blocks.parts)[blocks.part]
        except ValueError as error:
            raise PayloadError("range", str(error)) from error

    def _part_of(self, shapes: Mapping[str, tuple[int, ...]]) -> Part:
        names = frozenset(shapes)
        return Part(
            names=names,
            plan=held_plan(self.plan, names),
            num_bytes=_HEADER.size + short_bytes(self.plan, names),
            share=num_elements(shapes) / max(1, num_elements(self.shapes)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadHeader:
    """`base_window`: the window for which the pages were assigned, and whose parameters the miner
    started from, at the oldest. `pages_consumed`: the miner trained on so many of these pages, from
    the front of the list. `width`: pages of an inner step, in multiples of `batch_pages`. `blocks`:
    the part of the model that the miner trained.
    """

    window: int
    base_window: int
    pages_consumed: int
    public_key: bytes
    width: int = 1
    blocks: BlockRange = WHOLE

    @property
    def staleness(self) -> int:
        return self.window - self.base_window


@dataclass(frozen=True, kw_only=True, slots=True)
class Payload:
    """A valid payload, kept encoded: about a hundredth of the decoded size.

    `body`, `plan`: of the whole model, whatever the part (see `compression.partial`). `norms`:
    exact Euclidean norm of each tensor of the part (see `SparseTensor`). `share`: of the model's
    parameters. Only `decode_payload` creates payloads.
    """

    header: PayloadHeader
    body: memoryview
    norms: Mapping[str, float]
    plan: Plan
    share: float = 1.0

    @property
    def tensors(self) -> Mapping[str, SparseTensor]:
        """The part's tensors by name, sparse: decoded anew at every call."""
        found = decode(self.body, held_plan(self.plan, self.norms)).tensors
        return {name: found[name] for name in self.norms}


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
    plan = form.short_plan(header.blocks)
    body = encode(tensors, plan)
    return _pack_header(header, form) + body, dict(decode(body, plan).tensors)


def encode_payload_with_feedback(
    header: PayloadHeader,
    deltas: Mapping[str, Tensor],
    residual: Mapping[str, Tensor],
    form: PayloadFormat,
    decay: float,
) -> bytes:
    """The frame of decay * residual + delta.

    `residual` is updated in place to what is left out of the frame; the tensors outside the
    header's part stay as they are. ValueError on NaN or Inf; `residual` is then invalid and must be
    discarded.
    """
    plan = form.short_plan(header.blocks)
    kept = {name: residual[name] for name in plan.names}
    return frame_of(header, encode_with_feedback(deltas, kept, plan, decay), form)


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
        header.width,
        header.blocks.part,
        header.blocks.parts,
        header.public_key,
    )


def decode_payload(data: bytes, form: PayloadFormat) -> Payload:
    """A payload valid in full, or PayloadError(reason). Pure.

    Memory: half a kilobyte per 256 chunks and a few kilobytes per tensor and thread, for any
    bytes. The payload refers to `data` without a copy; of a part's payload there is a copy.
    """
    # First, so that all later reads stay within the frame.
    if len(data) < _HEADER.size:
        raise PayloadError("length", f"{len(data)} bytes, shorter than a header")
    header = _decode_header(data, form)
    part = form.part(header.blocks)
    if len(data) != part.num_bytes:
        raise PayloadError("length", f"{len(data)} bytes, not {part.num_bytes}")
    body = memoryview(data)[_HEADER.size :]
    try:
        wide = body if header.blocks.is_whole else widen(body, form.plan, part.names)
        norms = check(wide, part.plan)
    except CodecError as error:
        raise PayloadError(error.reason, str(error)) from error
    return Payload(
        header=header,
        body=wide,
        norms={name: norms[name] for name in form.names if name in part.names},
        plan=form.plan,
        share=part.share,
    )


def _decode_header(data: bytes, form: PayloadFormat) -> PayloadHeader:
    unpacked = _HEADER.unpack_from(data)
    magic, version, run_id, window, base, pages, width, part, parts, public_key = unpacked
    if magic != MAGIC:
        raise PayloadError("magic", "not a payload frame")
    if version != VERSION:
        raise PayloadError("version", f"{version}; this node reads {VERSION}")
    if run_id != form.run_id:
        raise PayloadError("run", f"made for run {run_id.hex()}, not {form.run_id.hex()}")
    if base > window:
        raise PayloadError("base", f"base window {base} lies after window {window}")
    if not 1 <= width <= form.max_width:
        raise PayloadError("width", f"{width} times the pages of a step, not 1 to {form.max_width}")
    if part >= parts:
        raise PayloadError("range", f"part {part} of {parts}: parts count from 0")
    return PayloadHeader(
        window=window,
        base_window=base,
        pages_consumed=pages,
        public_key=public_key,
        width=width,
        blocks=BlockRange(part=part, parts=parts),
    )
