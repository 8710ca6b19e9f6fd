"""The door against strangers' bytes: crafted faults, a property suite, a million damaged frames.

Time is the processor's, not the wall clock's, and only compared with an honest frame's.
"""

import random
import struct
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.quantize import MAX_ABS_VALUE
from template.protocol.payload import PayloadFormat
from tests.support.hostile import HEADER_BYTES, REASONS, Door, besiege, damaged, honest_frame, swap

NUM_LOW, LOW_BITS, NUM_KEPT = 48, 6, 64
CHUNK = PayloadFormat(run_id=b"a run of 16 byte", shapes={"w": (64, 64)}, top_k=NUM_KEPT)
ASCENDING = list(range(7, 4096, 64))
MAX_SLOWDOWN = 10.0
MAX_GROWTH_MB = 64.0
MEMORY_PER_BYTE = 64
"""Peak bytes that opening a frame may take, per byte of the frame; and so much for a small one."""
SMALL_FRAME_BYTES = 1 << 17


@pytest.fixture(scope="module")
def frame(form: PayloadFormat) -> bytes:
    return honest_frame(form)


@pytest.fixture(scope="module")
def other(form: PayloadFormat) -> bytes:
    return honest_frame(form, seed=1)


def chunk_frame(
    indices: Sequence[int], *, exponent: int = 50, ratio: int = 8, scale: int = 0xF0
) -> bytes:
    """One chunk's frame with these indices as they come: the writer checks nothing."""
    low = "".join(f"{index % 64:06b}" for index in indices)
    ones = {(index >> LOW_BITS) + i for i, index in enumerate(indices)}
    upper = "".join("1" if p in ones else "0" for p in range(128))
    body = bytes([exponent, ratio, scale]) + b"".join(
        int(bits, 2).to_bytes(len(bits) // 8) for bits in (low, upper)
    )
    return honest_frame(CHUNK)[:HEADER_BYTES] + body + bytes(16)


def test_the_writer_of_chunks_writes_what_the_door_reads() -> None:
    payload = Door(form=CHUNK).open(chunk_frame(ASCENDING))
    assert payload.tensors["w"].indices.tolist() == ASCENDING
    assert payload.tensors["w"].values.tolist() == [2.0**-6] * NUM_KEPT


@pytest.mark.parametrize(
    "indices",
    [
        pytest.param([7, 7, *ASCENDING[2:]], id="the first twice"),
        pytest.param([*ASCENDING[:-1], ASCENDING[-2]], id="one before the last again"),
        pytest.param([9, 8, *ASCENDING[2:]], id="descending below one high part"),
        pytest.param([0] * NUM_KEPT, id="all the same"),
        pytest.param([*ASCENDING[:-1], 4096], id="one past the end"),
        pytest.param(ASCENDING[::-1], id="all descending"),
        pytest.param([*range(62), 64 + 63, 64], id="the last two exchanged"),
    ],
)
def test_duplicate_unsorted_and_far_indices_are_refused(indices: list[int]) -> None:
    assert Door(form=CHUNK).outcome(chunk_frame(indices)) == "indices"


@pytest.mark.parametrize("num_ones", [0, 1, 63, 65, 128])
def test_an_upper_map_with_another_number_of_ones_is_refused(num_ones: int) -> None:
    data = bytearray(chunk_frame(ASCENDING))
    start = HEADER_BYTES + 3 + NUM_LOW
    upper = "1" * num_ones + "0" * (128 - num_ones)
    data[start : start + 16] = int(upper, 2).to_bytes(16)
    assert Door(form=CHUNK).outcome(bytes(data)) == "indices"


@pytest.mark.parametrize(
    ("exponent", "ratio", "scale", "outcome"),
    [
        (0, 1, 0, "valid"),
        (0, 1, 1, "valid"),
        (0, 31, 255, "valid"),
        (63, 31, 255, "valid"),
        (63, 1, 1, "valid"),
        (64, 8, 240, "scale"),
        (255, 8, 240, "scale"),
        (50, 0, 240, "scale"),
        (50, 32, 240, "scale"),
        (50, 255, 240, "scale"),
        (255, 255, 255, "scale"),
    ],
)
def test_extreme_scales(exponent: int, ratio: int, scale: int, outcome: str) -> None:
    """The largest that the code can say is finite and bounded; what lies beyond is refused."""
    data = chunk_frame(ASCENDING, exponent=exponent, ratio=ratio, scale=scale)
    data = data[:-16] + b"\x55" * 16  # every value takes the larger magnitude
    assert Door(form=CHUNK).outcome(data) == outcome
    if outcome == "valid":
        values = Door(form=CHUNK).open(data).tensors["w"].values
        step = 0 if scale == 0 else 1 + scale % 16 / 16
        expected = step * 2.0 ** (exponent - 71 + scale // 16) * (1 + ratio / 16)
        assert values.tolist() == [expected] * NUM_KEPT
        assert expected < MAX_ABS_VALUE


@pytest.mark.parametrize(
    ("first", "last", "value", "reason"),
    [
        (7, 8, b"\x00", "version"),
        (7, 8, b"\x01", "version"),
        (7, 8, b"\x03", "version"),
        (7, 8, b"\xff", "version"),
        (0, 7, b"tessera", "magic"),
        (8, 24, bytes(16), "run"),
        (8, 24, b"A run of 16 byte", "run"),
        (24, 32, struct.pack("<II", 8, 8), "window"),
        (24, 32, struct.pack("<II", 2**32 - 1, 9), "window"),
        (28, 32, struct.pack("<I", 10), "base"),
        (28, 32, struct.pack("<I", 6), "stale"),
        (36, 38, bytes(2), "width"),
        (36, 38, b"\x02\x00", "width"),
        (36, 38, b"\xff\xff", "width"),
        (38, 40, b"\x01\x00", "range"),
        (38, 42, b"\xff\xff\xff\xff", "range"),
        (40, 42, bytes(2), "range"),
        (40, 42, b"\x02\x00", "range"),
        (40, 42, b"\xff\xff", "range"),
        (42, 74, bytes(32), "hotkey"),
    ],
)
def test_wrong_header_fields(
    form: PayloadFormat, frame: bytes, first: int, last: int, value: bytes, reason: str
) -> None:
    assert Door(form=form).outcome(frame[:first] + value + frame[last:]) == reason


@pytest.mark.parametrize(
    "shapes",
    [
        {"a.bias": (66,), "b.weight": (70, 66)},
        {"b.weight": (71, 66), "a.bias": (66,), "c": (), "d.kernel": (3, 5, 7)},
        {},
    ],
)
def test_a_frame_of_another_model_is_refused(
    form: PayloadFormat, frame: bytes, shapes: dict[str, tuple[int, ...]]
) -> None:
    assert Door(form=replace(form, shapes=shapes)).outcome(frame) == "length"


def test_swapped_sections_of_unlike_tensors_are_refused(form: PayloadFormat, frame: bytes) -> None:
    """The body rotated by any number of bytes: every section is read from the wrong place."""
    body, door = frame[HEADER_BYTES:], Door(form=form)
    rotated = [body[cut:] + body[:cut] for cut in range(1, len(body))]
    outcomes = Counter(door.outcome(frame[:HEADER_BYTES] + other) for other in rotated)
    assert set(outcomes) <= {"scale", "indices", "codes", "valid"}
    assert outcomes["valid"] < len(rotated) / 10


def test_swapped_sections_of_twins_are_another_payload() -> None:
    """Sections carry no names: like tensors exchanged are valid, and the digest tells."""
    twins = replace(CHUNK, shapes={"a": (64, 64), "b": (64, 64)})
    data = bytearray(honest_frame(twins))
    size = (len(data) - HEADER_BYTES) // 2
    before = Door(form=twins).open(bytes(data))
    swap(data, HEADER_BYTES, HEADER_BYTES + size, size)
    after = Door(form=twins).open(bytes(data))
    assert torch.equal(after.tensors["a"].indices, before.tensors["b"].indices)
    assert torch.equal(after.tensors["b"].values, before.tensors["a"].values)


@settings(max_examples=150)
@given(st.data())
def test_truncated_and_oversized(form: PayloadFormat, frame: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(frame) - 1))
    extra = data.draw(st.binary(min_size=1, max_size=300))
    assert Door(form=form).outcome(frame[:cut]) == "length"
    assert Door(form=form).outcome(frame + extra) == "length"
    # Where the header says how long the frame is, other bytes before the header say anything.
    assert Door(form=form).outcome(extra + frame) in REASONS


@settings(max_examples=150)
@given(positions=st.lists(st.integers(0, 8 * 83 - 1), min_size=1, max_size=8, unique=True))
def test_flipped_bits_of_a_section(positions: list[int]) -> None:
    """Refused, or valid in full and then not what was sent before.

    Of a payload with both magnitudes in it: the ratio of one that no value has says nothing.
    """
    honest = honest_frame(CHUNK)
    magnitudes = Door(form=CHUNK).open(honest).tensors["w"].values.abs()
    assert len(set(magnitudes.tolist())) == 2
    data = bytearray(honest)
    for position in positions:
        data[HEADER_BYTES + position // 8] ^= 128 >> position % 8
    if Door(form=CHUNK).outcome(bytes(data)) == "valid":
        before = Door(form=CHUNK).open(honest).tensors["w"]
        after = Door(form=CHUNK).open(bytes(data)).tensors["w"]
        assert not torch.equal(before.indices, after.indices) or not torch.equal(
            before.values, after.values
        )


@settings(max_examples=100)
@given(indices=st.lists(st.integers(0, 4095), min_size=NUM_KEPT, max_size=NUM_KEPT))
def test_any_indices_are_refused_unless_they_ascend(indices: list[int]) -> None:
    """Whatever a writer stores, an index set comes out ascending and unique or not at all."""
    assert Door(form=CHUNK).outcome(chunk_frame(indices)) in {"indices", "valid"}
    unique = set(indices)
    rest = (index for index in range(4096) if index not in unique)
    whole = sorted([*unique, *islice(rest, NUM_KEPT - len(unique))])
    payload = Door(form=CHUNK).open(chunk_frame(whole))
    assert payload.tensors["w"].indices.tolist() == whole


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32))
def test_damaged_frames(form: PayloadFormat, frame: bytes, other: bytes, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(10):
        data = damaged(frame, other, generator)
        assert Door(form=form).outcome(data) in REASONS | {"valid"}


def test_a_refused_frame_takes_no_more_memory_than_an_honest_one() -> None:
    """Peak of what Python and NumPy allocate, on a model of a million parameters."""
    shapes = {"a": (1000, 777), "b": (300, 700), "c": (5000,)}
    form = replace(CHUNK, shapes=shapes)
    frame, other = honest_frame(form), honest_frame(form, seed=1)
    generator = random.Random(5)
    frames = [frame, *(damaged(frame, other, generator) for _ in range(40))]
    door, peaks = Door(form=form), []
    door.attempt(frame)
    tracemalloc.start()
    try:
        for data in frames:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            door.attempt(data)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert max(peaks) <= MEMORY_PER_BYTE * len(frame) + SMALL_FRAME_BYTES
    assert max(peaks[1:]) <= 1.5 * peaks[0] + SMALL_FRAME_BYTES


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    "num_frames",
    [
        pytest.param(500, marks=pytest.mark.slow),
        pytest.param(40_000, marks=pytest.mark.slow),
        pytest.param(1_000_000, marks=pytest.mark.siege),
    ],
)
def test_damaged_frames_in_large_numbers(
    form: PayloadFormat, capsys: pytest.CaptureFixture[str], num_frames: int
) -> None:
    """Only PayloadError; memory flat; no path slower than ten honest frames.

    The line of the largest is quoted in contrib/FORMAT.md whenever the codec changes.
    """
    started_s = time.monotonic()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        sieges = list(pool.map(besiege, [form] * 2, [20, 21], [num_frames // 2] * 2))
    outcomes: Counter[str] = sum((siege.outcomes for siege in sieges), Counter())
    slowest = max(siege.slowest for siege in sieges)
    growth_mb = max(siege.growth_mb for siege in sieges)
    shares = ", ".join(f"{reason} {count:,}" for reason, count in outcomes.most_common())
    line = (
        f"{outcomes.total():,} damaged frames in {time.monotonic() - started_s:.0f} s: {shares}; "
        f"slowest {slowest:.1f} x an honest frame; memory grew by {growth_mb:.1f} MB"
    )
    if num_frames >= 1_000_000:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")
    assert set(outcomes) == REASONS | {"valid"}
    assert outcomes.total() == num_frames
    assert slowest <= MAX_SLOWDOWN
    assert growth_mb <= MAX_GROWTH_MB
