"""Parts are files of the safetensors library, hashed where their tensors lie."""

import hashlib
import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from compression import round_to_short
from template.protocol.parts import (
    BFLOAT16,
    FLOAT32,
    SHORT,
    Packing,
    PartSource,
    group_tensors,
    hash_parts,
    part_bytes_of,
    part_length,
)

names = st.text("abcdefgXYZ0123456789._\u00e9", min_size=1, max_size=40)
shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
PACKINGS = {"short": SHORT, "float32": FLOAT32, "bfloat16": BFLOAT16}


def _packed(tensor: Tensor, packing: Packing) -> Tensor:
    """What the library is given for the same file."""
    if packing is FLOAT32:
        return tensor
    if packing is BFLOAT16:
        return tensor.bfloat16()
    raw = tensor.numpy().tobytes()
    upper = b"".join(raw[at + 1 : at + 4] for at in range(0, len(raw), 4))
    flat = torch.from_numpy(np.frombuffer(upper, dtype=np.uint8).copy())
    return flat.view(*tensor.shape, 3)


def _short(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for tensor in tensors.values():
        round_to_short(tensor)
    return tensors


@pytest.mark.parametrize("packing", list(PACKINGS))
@given(drawn=st.dictionaries(names, shapes, min_size=1, max_size=8), limit=st.integers(1, 2000))
def test_parts_are_what_the_library_writes(
    packing: str, drawn: dict[str, tuple[int, ...]], limit: int
) -> None:
    """Names of every length, so that every padding of the header occurs."""
    form = PACKINGS[packing]
    tensors = _short({
        name: (torch.arange(float(torch.Size(shape).numel())).reshape(shape) + len(name)) / 7
        for name, shape in drawn.items()
    })  # fmt: skip
    digests = []
    for group in group_tensors(drawn, limit):
        given_ = {name: _packed(tensors[name], form).contiguous() for name in group}
        theirs = save(given_, metadata={"format": form.label})
        ours = part_bytes_of(tensors, group, form)
        assert ours == theirs
        assert part_length({name: drawn[name] for name in group}, form) == len(theirs)
        assert load(ours).keys() == set(group)
        digests.append(hashlib.sha256(theirs).digest())
    if form is SHORT:
        assert hash_parts(tensors, limit) == tuple(digests)


def test_digests_are_the_same_for_any_number_of_threads() -> None:
    tensors = {f"{i:02d}": torch.arange(50.0) * i for i in range(40)}
    found = {hash_parts(tensors, 800, threads) for threads in (1, 2, 3, 7)}
    assert len(found) == 1
    assert len(found.pop()) == 10


def test_a_tensor_is_hashed_without_a_copy() -> None:
    """Also a tensor larger than a part; a view in another order is copied."""
    large = torch.arange(1000.0)
    assert hash_parts({"a": large}, 1) == hash_parts({"a": large.clone()}, 1)
    assert hash_parts({"a": large.reshape(20, 50).T}, 1) != hash_parts({"a": large}, 1)
    with pytest.raises(ValueError, match=r"a is torch\.bfloat16"):
        hash_parts({"a": large.bfloat16()})


def test_values_that_three_bytes_do_not_hold_are_no_part() -> None:
    """The last of many: never a part of other values than the tensors'."""
    large = torch.ones(2**18 + 3)
    large[-1] = 1 + 2.0**-23
    with pytest.raises(ValueError, match="more than 24 bits"):
        hash_parts({"a": large})
    with pytest.raises(ValueError, match="more than 24 bits"):
        part_bytes_of({"a": large}, ["a"])


@pytest.mark.parametrize("packing", list(PACKINGS))
def test_a_part_is_read_in_stretches_where_its_tensors_lie(packing: str) -> None:
    """Of any length and place, as an upload in parts reads; nothing is made whole."""
    form = PACKINGS[packing]
    tensors = _short({
        "b": torch.arange(1000, dtype=torch.float32).reshape(10, 100),
        "a": torch.randn(7),
        "empty": torch.zeros(0, 3),
        "z": torch.randn(33, 5),
    })  # fmt: skip
    whole = part_bytes_of(tensors, list(tensors), form)
    source = PartSource(tensors, list(tensors), form)
    assert source.num_bytes == len(whole)
    assert source.read(0, source.num_bytes) == whole
    for step in (1, 13, 64, 4_097):
        starts = range(0, len(whole), step)
        pieces = [source.read(start, min(step, len(whole) - start)) for start in starts]
        assert b"".join(pieces) == whole
    large = {"large": torch.zeros(2**20)}
    tracemalloc.start()
    try:
        source = PartSource(large, ["large"], form)
        for start in range(0, source.num_bytes - 2**16, 2**16):
            source.read(start, 2**16)
        assert tracemalloc.get_traced_memory()[1] < 2**18 < source.num_bytes
    finally:
        tracemalloc.stop()
