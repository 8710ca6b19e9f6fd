"""Bytes of strangers: damaged frames, and what must be true of whatever the door lets in."""

import math
import os
import random
import statistics
import struct
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from compression.quantize import MAX_ABS_VALUE
from template.errors import PayloadError
from template.protocol.admission import open_payload
from template.protocol.payload import (
    Payload,
    PayloadFormat,
    PayloadHeader,
    encode_payload,
    payload_digest,
)
from template.protocol.ranges import WHOLE, BlockRange
from template.protocol.root import Member

HEADER_BYTES = 74
MAX_STALENESS = 2
HEADER = PayloadHeader(window=9, base_window=8, pages_consumed=240, public_key=bytes(range(32)))
REASONS = {
    "length", "magic", "version", "run", "base", "scale", "indices", "codes",
    "window", "hotkey", "stale", "width", "range",
}  # fmt: skip
SUSPECT_RATIO = 3.0
EXTREME_BYTES = b"\x00\x01\x3f\x40\x7f\x80\xfe\xff"
HEADER_FIELDS = (
    (0, 7), (7, 8), (8, 24), (24, 28), (28, 32), (32, 36), (36, 38), (38, 40), (40, 42), (42, 74),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """`open_payload` as a node calls it, for a stranger who committed the very bytes it sends."""

    form: PayloadFormat

    def open(self, data: bytes) -> Payload:
        member = Member(
            uid=3,
            hotkey="5",
            public_key=HEADER.public_key,
            coldkey=bytes(32),
            digest=payload_digest(data),
        )
        return open_payload(data, member, HEADER.window, self.form, MAX_STALENESS)

    def attempt(self, data: bytes) -> tuple[str, Payload | None]:
        """(reason of the refusal, None), or ("valid", payload); anything else comes out."""
        try:
            return "valid", self.open(data)
        except PayloadError as error:
            return error.reason, None

    def outcome(self, data: bytes) -> str:
        """The reason, or "valid" after `assert_valid`."""
        reason, payload = self.attempt(data)
        if payload is not None:
            assert_valid(payload, self.form)
        return reason


def honest_frame(form: PayloadFormat, seed: int = 0, blocks: BlockRange = WHOLE) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    tensors = {n: torch.randn(s, generator=generator) * 0.01 for n, s in form.shapes.items()}
    return encode_payload(replace(HEADER, blocks=blocks), tensors, form)[0]


def assert_valid(payload: Payload, form: PayloadFormat) -> None:
    """All that the outer step relies on."""
    assert payload.header.base_window <= payload.header.window == HEADER.window
    assert list(payload.tensors) == sorted(form.part(payload.header.blocks).names)
    for name, sparse in payload.tensors.items():
        numel = math.prod(form.shapes[name])
        assert tuple(sparse.shape) == form.shapes[name]
        indices, values = sparse.indices.tolist(), sparse.values.tolist()
        assert len(set(indices)) == len(indices) == len(values)
        assert all(0 <= index < numel for index in indices)
        assert all(abs(value) < MAX_ABS_VALUE for value in values)
        assert 0.0 <= sparse.norm < math.inf


def damaged(frame: bytes, other: bytes, generator: random.Random) -> bytes:
    """`frame` with one to four faults of the kinds that links, disks and liars make.

    `other` is a second honest frame of the same length, to splice from.
    """
    data = bytearray(frame)
    for _ in range(generator.choice((1, 1, 2, 4))):
        _damage(data, other, generator)
    return bytes(data)


def _damage(data: bytearray, other: bytes, generator: random.Random) -> None:
    if generator.randrange(6) == 0:
        _damage_length(data, generator)
    elif generator.randrange(6) == 0:
        _damage_header(data, generator)
    else:
        _damage_bytes(data, other, generator)


def _damage_length(data: bytearray, generator: random.Random) -> None:
    start, stop = _stretch(data, generator)
    match generator.randrange(4):
        case 0:
            del data[start:stop]
        case 1:
            data[start:start] = generator.randbytes(generator.randint(1, 64))
        case 2:
            del data[start:]
        case _:
            data[start:start] = data[start:stop]


def _damage_header(data: bytearray, generator: random.Random) -> None:
    if generator.randrange(2) == 0:
        first, last = generator.choice(HEADER_FIELDS)
        data[first:last] = generator.randbytes(last - first)
    else:
        window, base = (generator.choice((0, 6, 7, 8, 9, 10, 2**32 - 1)) for _ in range(2))
        data[24:32] = struct.pack("<II", window, base)


def _damage_bytes(data: bytearray, other: bytes, generator: random.Random) -> None:
    start, stop = _stretch(data, generator)
    length = stop - start
    match generator.randrange(8):
        case 0:
            data[start:stop] = data[start:stop][::-1]
        case 1:
            data[start:stop] = bytes([generator.choice(EXTREME_BYTES)]) * length
        case 2:
            swap(data, start, generator.randrange(len(data) + 1), length)
        case 3:
            data[start:stop] = other[start:stop]
        case 4:
            data[start:stop] = generator.randbytes(length)
        case _:
            position = generator.randrange(HEADER_BYTES, max(len(data), HEADER_BYTES + 1))
            if position < len(data):
                data[position] ^= 1 << generator.randrange(8)


def _stretch(data: bytearray, generator: random.Random) -> tuple[int, int]:
    start = generator.randrange(len(data) + 1)
    length = generator.choice((1, 2, 4, 8, 16, 64, 256))
    return start, min(start + length, len(data))


def swap(data: bytearray, first: int, second: int, length: int) -> None:
    """Exchange two stretches of equal length; nothing if they overlap or leave the data."""
    first, second = sorted((first, second))
    if first + length <= second and second + length <= len(data):
        head, tail = data[first : first + length], data[second : second + length]
        data[first : first + length], data[second : second + length] = tail, head


@dataclass(frozen=True, kw_only=True, slots=True)
class Siege:
    """What many damaged frames did: outcomes, the slowest against an honest frame, memory."""

    outcomes: Counter[str]
    slowest: float
    growth_mb: float


def besiege(form: PayloadFormat, seed: int, num_frames: int) -> Siege:
    """Open so many damaged frames; AssertionError if one that is let in is not valid in full.

    Time is the processor's. What looks slow is tried again, the best of five: a path that is
    slow stays slow, a frame that met another process's rush does not.
    """
    torch.set_num_threads(1)
    door, generator = Door(form=form), random.Random(seed)
    frame, other = honest_frame(form), honest_frame(form, seed=1)
    honest_s = statistics.median(_open_s(door, frame) for _ in range(500))
    outcomes: Counter[str] = Counter()
    slowest, settled_mb = 0.0, 0.0
    for number in range(num_frames):
        data = damaged(frame, other, generator)
        start_s = time.process_time()
        reason, payload = door.attempt(data)
        ratio = (time.process_time() - start_s) / honest_s
        if payload is not None:
            assert_valid(payload, form)
        if ratio > slowest and ratio > SUSPECT_RATIO:
            ratio = min(_open_s(door, data) for _ in range(5)) / honest_s
        slowest = max(slowest, ratio)
        outcomes[reason] += 1
        if number == num_frames // 10:
            settled_mb = resident_mb()
    return Siege(outcomes=outcomes, slowest=slowest, growth_mb=resident_mb() - settled_mb)


def _open_s(door: Door, data: bytes) -> float:
    start_s = time.process_time()
    door.attempt(data)
    return time.process_time() - start_s


def resident_mb() -> float:
    """Resident set of this process, of Linux."""
    num_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return num_pages * os.sysconf("SC_PAGE_SIZE") / 2**20
