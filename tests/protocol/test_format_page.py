"""contrib/FORMAT.md is enough: a reader written from the page alone reads what nodes write."""

import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from compression import round_to_short
from template.protocol.parts import part_bytes_of
from template.protocol.payload import PayloadFormat, PayloadHeader, decode_payload, encode_payload

PAGE = Path(__file__).parents[2] / "contrib" / "FORMAT.md"
RUN_ID, PUBLIC_KEY = bytes(range(0x10, 0x20)), bytes(range(0xA0, 0xC0))

Shape = tuple[int, ...]
Values = dict[Shape, float]


def read_frame(data: bytes, shapes: dict[str, Shape], top_k: int = 64) -> dict[str, Values]:
    """Name -> coordinates -> value. Plain Python, nothing of the project: see the page."""
    position, result = 74, {}
    for name in sorted(shapes):
        groups = [g for g in cut(shapes[name]) if g]
        result[name], position = read_section(data, position, groups, top_k)
    assert position == len(data)
    return result


def cut(shape: Shape) -> list[list[list[Shape]]]:
    """Groups of chunks, each chunk the coordinates of its elements in order."""
    numel = math.prod(shape)
    if len(shape) < 2 or numel == 0:
        runs = [list(range(at, min(at + 4096, numel))) for at in range(0, numel, 4096)]
        whole = [run for run in runs if len(run) == 4096]
        short = [run for run in runs if len(run) < 4096]
        return [[[coordinates(i, shape) for i in run] for run in g] for g in (whole, short)]
    rows, cols = shape[0], numel // shape[0]
    blocks = {
        (top, left): [
            coordinates(r * cols + c, shape)
            for r in range(top, min(top + 64, rows))
            for c in range(left, min(left + 64, cols))
        ]
        for top in range(0, rows, 64)
        for left in range(0, cols, 64)
    }
    groups: list[list[list[Shape]]] = [[], [], [], []]
    for (top, left), block in blocks.items():
        groups[2 * (top + 64 > rows) + (left + 64 > cols)].append(block)
    return groups


def coordinates(flat: int, shape: Shape) -> Shape:
    place = []
    for side in reversed(shape):
        flat, rest = divmod(flat, side)
        place.append(rest)
    return tuple(reversed(place))


def read_section(
    data: bytes, at: int, groups: list[list[list[Shape]]], top_k: int
) -> tuple[Values, int]:
    if not groups:
        return {}, at
    exponent, ratio, at = data[at], 1 + data[at + 1] / 16, at + 2
    scales = list(data[at : at + sum(map(len, groups))])
    at += len(scales)
    values: Values = {}
    for group in groups:
        count, n = len(group), len(group[0])
        k = max(1, (2 * top_k * n + 4096) // 8192)
        l = int(math.log2(n // k))  # noqa: E741
        sizes = [-(-k * l // 8), -(-(k + ((n - 1) >> l)) // 8), -(-k // 4)]
        parts = []
        for size in sizes:
            parts.append([bits(data[at + c * size : at + (c + 1) * size]) for c in range(count)])
            at += count * size
        for chunk, low, upper, code in zip(group, *parts, strict=True):
            byte = scales.pop(0)
            scale = (1 + byte % 16 / 16) * 2.0 ** (exponent - 71 + byte // 16) if byte else 0.0
            ones = [p for p, bit in enumerate(upper) if bit == "1"]
            for i, p in enumerate(ones):
                index = (p - i) << l | int("0" + low[i * l : (i + 1) * l], 2)
                magnitude = scale * (ratio if code[2 * i + 1] == "1" else 1.0)
                values[chunk[index]] = -magnitude if code[2 * i] == "1" else magnitude
    return values, at


def bits(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)


def example() -> bytes:
    (block,) = re.findall(r"```hex\n(.*?)```", PAGE.read_text(encoding="ascii"), re.DOTALL)
    return bytes.fromhex(block)


def test_the_example_of_the_page() -> None:
    frame, shapes = example(), {"bias": (192,), "w": (2, 3)}
    header = (b"TESSERA", 2, RUN_ID, 9, 8, 240, 1, 0, 1, PUBLIC_KEY)
    assert struct.unpack_from("<7sB16sIIIHHH32s", frame) == header
    expected = {
        "bias": {(5,): 0.25, (70,): -0.25, (191,): 0.375},
        "w": {(1, 1): -0.5009765625},
    }
    assert read_frame(frame, shapes) == expected
    form = PayloadFormat(run_id=RUN_ID, shapes=shapes, top_k=64)
    decoded = decode_payload(frame, form)
    assert decoded.header == PayloadHeader(
        window=9, base_window=8, pages_consumed=240, public_key=PUBLIC_KEY
    )
    for name, sparse in decoded.tensors.items():
        places = [coordinates(index, shapes[name]) for index in sparse.indices.tolist()]
        assert dict(zip(places, sparse.values.tolist(), strict=True)) == expected[name]


def test_the_table_of_the_example_is_the_example() -> None:
    """Every row's bytes stand at its offset, and together they are the whole frame."""
    text = PAGE.read_text(encoding="ascii")
    rows = re.findall(r"^\| (\d+) \| `([0-9a-f .]+)` \|", text, re.MULTILINE)
    frame, position = example(), 0
    assert len(rows) == 20
    for offset, shown in rows:
        assert int(offset) == position
        if ".." in shown:
            first, last = (int(byte, 16) for byte in shown.split(" .. "))
            expected = bytes(range(first, last + 1))
        else:
            expected = bytes.fromhex(shown)
        assert frame[position : position + len(expected)] == expected
        position += len(expected)
    assert position == len(frame)


@pytest.mark.parametrize("top_k", [64, 17])
def test_the_reader_reads_what_nodes_write(top_k: int) -> None:
    shapes: dict[str, Shape] = {
        "a": (),
        "b": (5000,),
        "c": (130, 70),
        "d": (64, 128),
        "e": (3, 5, 7),
        "f": (0, 4),
        "g": (66, 4, 4, 5),
    }
    generator = torch.Generator().manual_seed(3)
    tensors = {n: torch.randn(s, generator=generator) * 0.01 for n, s in shapes.items()}
    header = PayloadHeader(window=1, base_window=0, pages_consumed=2, public_key=PUBLIC_KEY)
    form = PayloadFormat(run_id=RUN_ID, shapes=shapes, top_k=top_k)
    frame, sent = encode_payload(header, tensors, form)
    read = read_frame(frame, shapes, top_k)
    for name, shape in shapes.items():
        places = [coordinates(index, shape) for index in sent[name].indices.tolist()]
        assert len(places) >= (name != "f")
        assert read[name] == dict(zip(places, sent[name].values.tolist(), strict=True))


def test_the_page_rounds_and_writes_a_part_as_nodes_do() -> None:
    """By the page's formulas, and the bytes of its example."""
    page = PAGE.read_text(encoding="ascii")
    (said,) = re.findall(r"```part\n(.*?)\n```", page, re.DOTALL)
    assert bytes.fromhex(said) == part_bytes_of({"a": torch.tensor([1.0, -0.5])}, ["a"])
    for bits in (
        0x3F808000,
        0x3F800080,
        0x3F800180,
        0xFF7FFFFF,
        0x7F800000,
        0x7FC00001,
        0x80000080,
    ):
        magnitude = bits & 0x7FFFFFFF
        expected = (bits + 127 + ((bits >> 8) & 1)) & 0xFFFFFF00
        if 0x7F7FFF80 <= magnitude < 0x7F800000:
            expected = (bits & 0x80000000) | 0x7F7FFF00
        elif magnitude >= 0x7F800000:
            expected = bits if magnitude == 0x7F800000 else 0x7FC00000
        values = np.array([bits], dtype=np.uint32)
        round_to_short(torch.from_numpy(values.view(np.float32)))
        assert int(values[0]) == expected
